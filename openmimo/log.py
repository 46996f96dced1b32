"""Where numbers go: metrics.jsonl, TensorBoard, the console.

One call, `Log.step(stage, step, tokens, timing=..., **metrics)`. What depends on the clock or the load stands under the
key `timing`; everything else is a function of seed and input, so two runs' files can be compared byte for byte.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

T = TypeVar("T")


class Log:
    """Appends one JSON object a step and mirrors the numbers to TensorBoard.

    On opening, lines of `stage` at or beyond `from_step` are dropped, with any torn last line: a resumed stage rewrites
    its own tail, so that each step stands in the file once.
    """

    def __init__(
        self, folder: Path, stage: str, from_step: int = 0, *, tensorboard: bool = True, writes: bool = True
    ) -> None:
        """
        Args:
            writes: False on all ranks but the first: nothing is written.
        """
        self.stage = stage
        self.path = folder / "metrics.jsonl"
        self._file: TextIO | None = None
        self._board = self._wandb = None
        if writes:
            _truncate(self.path, stage, from_step)
            self._file = self.path.open("a", encoding="utf-8")
            self._board = _board(folder / "tensorboard" / stage) if tensorboard else None
            self._wandb = _wandb(folder, stage)

    def step(self, step: int, *, tokens: int, timing: Mapping[str, float] | None = None, **metrics: Any) -> None:
        if not self._file:
            return
        row = {"stage": self.stage, "step": step, "tokens": tokens, **metrics, "timing": dict(timing or {})}
        self._file.write(json.dumps(row, allow_nan=True) + "\n")
        self._file.flush()
        numbers = {k: v for k, v in {**metrics, **(timing or {})}.items() if isinstance(v, (int, float))}
        if self._board:
            for name, value in numbers.items():
                self._board.add_scalar(f"{self.stage}/{name}", value, step)
        if self._wandb:
            self._wandb.log({**{f"{self.stage}/{k}": v for k, v in numbers.items()}, f"{self.stage}/step": step})

    def sync(self) -> None:
        """Durable up to here: called just before a checkpoint is published."""
        if self._file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()
        if self._wandb:
            self._wandb.finish()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def progress(items: Iterable[T], title: str, total: int | None = None, *, unit: str = "") -> Iterator[T]:
    """Iterate with rate and time left: a bar on a terminal, a line every few seconds elsewhere."""
    if not _speaks():
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            SpinnerColumn(), TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=False) as bar:
            yield from bar.track(items, description=title, total=total)
        return
    started = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= 5.0:
            last = now
            rate = done / (now - started)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            say(f"{title}: {done}{f'/{total}' if total else ''} {unit} {rate:.1f}/s{left}")


def say(message: str) -> None:
    """One line for a person, on stderr: stdout belongs to `--json`. Of several ranks the first speaks."""
    if _speaks():
        print(message, file=sys.stderr, flush=True)


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def read_metrics(folder: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, those of one stage if named."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows = [_parsed(path, number, line) for number, line in enumerate(_whole_lines(path), 1)]
    return [row for row in rows if stage is None or row["stage"] == stage]


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}:{number} is not JSON: {error}; remove the line to go on") from error
    return row


def _truncate(path: Path, stage: str, from_step: int) -> None:
    if not path.exists():
        return
    kept = []
    for number, line in enumerate(_whole_lines(path), 1):
        row = _parsed(path, number, line)
        if row["stage"] != stage or row["step"] < from_step:
            kept.append(line)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.writelines(line + b"\n" for line in kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Lines that end in a newline; a line torn by a kill is no line. Never splitlines(): strings hold U+2028."""
    data = path.read_bytes()
    yield from (line for line in data[: data.rfind(b"\n") + 1].split(b"\n") if line)


def _wandb(folder: Path, stage: str) -> Any:
    """A Weights & Biases run, if $WANDB_PROJECT names a project to log to."""
    project = os.environ.get("WANDB_PROJECT")
    if not project:
        return None
    try:
        import wandb
    except ImportError:
        say("WANDB_PROJECT is set and wandb is not installed: pip install 'openmimo[wandb]'")
        return None
    run = wandb.init(
        project=project, dir=str(folder), name=folder.name, id=f"{folder.resolve().name}-{stage}", resume="allow"
    )
    run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
    return run


def _board(folder: Path) -> Any:
    try:
        from tensorboard.summary import Writer
    except ImportError:
        say("tensorboard is not installed: metrics go to metrics.jsonl alone")
        return None
    return Writer(str(folder))
