"""Reading and extraction in processes that may be killed: a page costs at most its own time and memory (MiMo 2.1).

One process reads, a few extract (`worker.py`), this one decides: which page goes to whom, what has run too long, where
reading goes on behind a record that killed its reader. A page that hangs, swells or crashes becomes a `Dropped` with
the reason, and the pages beside it come out as if it were not there, in the order of the input. Large pages are
extracted one at a time, so that the bound holds for all processes together.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from openmimo.data.pages.extract import Dropped
from openmimo.data.pages.worker import read_frame, vars_of, write_frame
from openmimo.data.read import Page, is_saved_page
from openmimo.types import Document


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one page may cost, and all processes together."""

    page_s: float = 30.0
    """Seconds until a page, or the reading of one, is given up. Ours: below the minute that an input may take."""
    max_text_bytes: int = 20_000_000
    """Text of one page, UTF-8."""
    large_bytes: int = 1_000_000
    """Pages larger than this are extracted one at a time."""
    small_memory_bytes: int = 64_000_000
    """Address space for a small page, on top of what its process has."""
    large_memory_bytes: int = 400_000_000
    """The same for a large one."""
    num_workers: int = 3
    """Processes that extract. With three, one reader and the parent all stay within 1 GiB; each further one may add
    small_memory_bytes and the 30 MB that it has."""
    waiting_bytes: int = 25_000_000
    """Pages read ahead, and texts that wait for their turn, each."""
    pdf_command: str = ""
    """A PDF parser of the user's: a command with `{input}` in it that prints the text; empty takes our own."""
    pdf_s: float = 600.0
    """Time for that command."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An input, a record or a row that could not be read."""

    reason: str
    """Its words before the first colon are its kind."""


@dataclass(slots=True)
class _Slot:
    """A place in the order of results."""

    name: str
    page: Page | None = None
    """None as soon as it is with a worker."""
    num_bytes: int = 0
    result: Document | Dropped | Broken | None = None


@dataclass(slots=True)
class _Lane:
    """One worker process and what it is at."""

    folder: str
    """Where it may put files; what it leaves there when killed goes with the folder."""
    process: subprocess.Popen[bytes] | None = None
    slot: _Slot | None = None
    since_s: float = field(default_factory=time.monotonic)
    limit_s: float = 0.0

    def start(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            command = [sys.executable, "-m", "openmimo.data.pages.worker"]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True, bufsize=0,  # a buffer would hide frames from select
                env={**os.environ, "TMPDIR": self.folder},
            )  # fmt: skip
        return self.process

    @property
    def answers(self) -> IO[bytes]:
        assert self.process is not None and self.process.stdout is not None
        return self.process.stdout

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        stdin = self.start().stdin
        assert stdin is not None
        self.since_s = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died between two jobs: its closed output says so at once
            write_frame(stdin, header, body)

    def stop(self) -> None:
        """Kill it and all it started."""
        process, self.process, self.slot = self.process, None, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]

    def why_ended(self) -> str:
        """Why a process whose output is closed died of its own: a kind, a colon and the exit status."""
        status = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(5.0) if self.process else None
        self.stop()
        # -9: the system's own limit; -6: what C++ does without memory
        kind = "memory limit" if status in (-signal.SIGKILL, -signal.SIGABRT) else "crash"
        return f"{kind}: its process ended with status {status}"


class _Reader:
    """The reading process: told a list of files, it hands over pages until it is through, killed or not."""

    def __init__(self, files: Sequence[tuple[Path, str]], bounds: Bounds, folder: str) -> None:
        self.files = list(files)
        self.bounds = bounds
        self.lane = _Lane(folder)
        self.number = 0
        self.at = 0
        self.done = not self.files
        if not self.done:
            self._begin(0, 0)

    def _begin(self, number: int, start: int) -> None:
        self.number = self.base = number
        self.at = start
        self.done = number >= len(self.files)
        if not self.done:
            rest = [[str(path), name] for path, name in self.files[number:]]
            self.lane.send({"files": rest, "start": start})

    def take(self) -> _Slot | None:
        """The next page or broken input, if the process has one to hand over; to be called when it is readable."""
        frame = read_frame(self.lane.answers)
        self.lane.since_s = time.monotonic()
        if frame is None:
            return self.give_up("")
        head, body = frame
        if "page" in head:
            page = Page(content=body, **head["page"])
            path, name = self.files[self.number]
            return _Slot(str(path) if is_saved_page(name) else page.url or str(path), page, len(body))
        if "broken" in head:
            path, name = self.files[self.number]
            return _Slot(str(path) + head["broken"].removeprefix(name), result=Broken(head["reason"]))
        if "file" in head:
            self.number, self.at = self.base + head["file"], 0
        elif "at" in head:
            self.at = head["at"]
        else:
            self.done = True
            self.lane.stop()
        return None

    def give_up(self, reason: str) -> _Slot:
        """Kill the process, go on behind the record it was at, and say what happened to that one."""
        reason = reason or self.lane.why_ended()
        self.lane.stop()
        path, name = self.files[self.number]
        behind = _record_behind(path, name, self.at)
        where = f"{path}@{self.at}" if self.at or behind is not None else str(path)
        self._begin(self.number, behind) if behind is not None else self._begin(self.number + 1, 0)
        return _Slot(where, result=Broken(reason))


def _record_behind(path: Path, name: str, position: int) -> int | None:
    import mmap

    from openmimo.data.read import WARC_SUFFIXES, next_record

    if not name.lower().endswith(WARC_SUFFIXES):
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return next_record(data, position + 1, gzipped=path.suffix == ".gz")


def extract_bounded(
    files: Sequence[tuple[Path, str]], bounds: Bounds = Bounds()
) -> Iterator[tuple[str, Document | Dropped | Broken]]:
    """(name, result) of every page and every broken input, in the order of the input.

    Args:
        files: (path, name) each, as `read.list_files` gives them.
    """
    folder = tempfile.TemporaryDirectory(prefix="openmimo-extract-")
    reader = _Reader(files, bounds, folder.name)
    lanes = [_Lane(folder.name) for _ in range(bounds.num_workers)]
    order: deque[_Slot] = deque()
    waiting: deque[_Slot] = deque()
    try:
        while not reader.done or order:
            _dispatch(waiting, lanes, bounds)
            held = sum(slot.num_bytes for slot in order)
            reads = not reader.done and held < bounds.waiting_bytes and len(order) < 500
            _wait(reader, reads, lanes, order, waiting, bounds)
            while order and order[0].result is not None:
                slot = order.popleft()
                assert slot.result is not None
                yield slot.name, slot.result
    finally:
        for lane in [reader.lane, *lanes]:
            lane.stop()
        folder.cleanup()


def extract_pages(pages: Iterable[Page], bounds: Bounds = Bounds()) -> Iterator[Document | Dropped]:
    """The same for pages that have been read: a result each, in their order."""
    folder = tempfile.TemporaryDirectory(prefix="openmimo-extract-")
    lanes = [_Lane(folder.name) for _ in range(bounds.num_workers)]
    order: deque[_Slot] = deque()
    waiting: deque[_Slot] = deque()
    coming = iter(pages)
    try:
        while True:
            while len(waiting) < len(lanes) and (page := next(coming, None)) is not None:
                slot = _Slot(page.url, page, len(page.content))
                order.append(slot)
                waiting.append(slot)
            if not order:
                return
            _dispatch(waiting, lanes, bounds)
            _settle(lanes)
            while order and (result := order[0].result) is not None:
                order.popleft()
                assert not isinstance(result, Broken)
                yield result
    finally:
        for lane in lanes:
            lane.stop()
        folder.cleanup()


def _dispatch(waiting: deque[_Slot], lanes: list[_Lane], bounds: Bounds) -> None:
    """Give waiting pages to idle workers, in order; a large page waits until no other large one is being extracted."""
    for lane in lanes:
        if lane.slot is not None or not waiting:
            continue
        large = any(other.slot is not None and other.slot.num_bytes > bounds.large_bytes for other in lanes)
        number = next((n for n, slot in enumerate(waiting) if not large or slot.num_bytes <= bounds.large_bytes), None)
        if number is None:
            return
        slot = waiting[number]
        del waiting[number]
        assert slot.page is not None
        page, slot.page = slot.page, None
        facts = {key: value for key, value in vars_of(page).items() if key != "content"}
        lane.slot = slot
        command = bounds.pdf_command if page.media_type.startswith("application/pdf") else ""
        lane.limit_s = bounds.pdf_s if command else bounds.page_s
        job = {
            "page": facts,
            "memory_bytes": bounds.large_memory_bytes if len(page.content) > bounds.large_bytes
            or page.media_type.startswith("application/pdf") else bounds.small_memory_bytes,
            "max_text_bytes": bounds.max_text_bytes, "pdf_command": command,
        }  # fmt: skip
        lane.send(job, page.content)


def _wait(
    reader: _Reader, reads: bool, lanes: list[_Lane], order: deque[_Slot], waiting: deque[_Slot], bounds: Bounds
) -> None:
    """Take what comes next from any process, and give up what takes too long."""
    if not reads:
        reader.lane.since_s = time.monotonic()  # it waits for us
    readable = _settle(lanes, reader.lane.answers.fileno() if reads else None)
    if readable:
        slot = reader.take()
        if slot is not None:
            order.append(slot)
            if slot.page is not None:
                waiting.append(slot)
    elif reads and not reader.done and time.monotonic() - reader.lane.since_s > bounds.page_s:
        order.append(reader.give_up(f"time limit: more than {bounds.page_s:g} s to read"))


def _settle(lanes: list[_Lane], other: int | None = None) -> bool:
    """Wait for an answer, take those that there are, and give up pages that take too long.

    Args:
        other: a descriptor to wait for besides; whether it is readable is returned.
    """
    busy = {lane.answers.fileno(): lane for lane in lanes if lane.slot is not None}
    descriptors = [*busy, *([] if other is None else [other])]
    ready = select.select(descriptors, [], [], 0.5)[0] if descriptors else []
    for descriptor in ready:
        if descriptor not in busy:
            continue
        lane = busy[descriptor]
        slot, lane.slot = lane.slot, None
        assert slot is not None
        frame = read_frame(lane.answers)
        if frame is None:
            kind, _, detail = lane.why_ended().partition(": ")
            slot.result = Dropped(kind, detail)
        else:
            slot.result = _result(*frame)
        slot.num_bytes = len(frame[1]) if frame else 0
    now_s = time.monotonic()
    for lane in lanes:
        if lane.slot is not None and now_s - lane.since_s > lane.limit_s:
            slot = lane.slot
            lane.stop()
            slot.result, slot.num_bytes = Dropped("time limit", f"more than {lane.limit_s:g} s"), 0
    return other in ready


def _result(head: dict[str, Any], body: bytes) -> Document | Dropped:
    return Dropped(**head) if "reason" in head else Document(**{**head, "text": body.decode()})
