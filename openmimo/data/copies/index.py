"""What earlier deduplications have seen, so that a new dump is compared without reading the old ones again.

An index holds, of all documents so far: the URL keys; each band key with the least row that has it; and the links of
rows to the least row of their cluster. A new document whose URL was seen, or which falls into a cluster that has been
written, is removed. So the documents kept over several runs are those of one run over all inputs in which an older
dump outranks a newer one, and beside them only the representatives that had been written before a later document
joined their clusters: how many, every run says. Sizes told by earlier outputs stay as they were.

    INDEX/index.json            which generation holds, the settings, the last run; replaced last
    INDEX/000002/keys-*.npy     band key, row      urls-*.npy  URL key      links-*.npy  row, row, both ways
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmimo.data.copies.groups import best_first
from openmimo.data.copies.spill import Runs, write_run
from openmimo.data.documents import publish

U64 = NDArray[np.uint64]
FORMAT = 1


class Index:
    """One index folder, held by one run at a time."""

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        self.folder, self.state = folder, state
        self.next_piece: int = state["next_piece"]
        self.linked: int = state["linked"]
        """Rows that are not the least of their cluster."""

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, config: Any) -> Iterator[Index]:
        """The index in `folder`, or an empty one where there is none yet.

        Raises:
            ValueError: if it was made with other settings, is in use, or is no index.
        """
        path = folder / "index.json"
        strangers = [p for p in folder.iterdir() if p.is_file() and p.suffix != ".tmp"] if folder.exists() else []
        if not path.exists() and any(p.name != "lock" for p in strangers):
            raise ValueError(f"{folder} is no index: it holds files but no index.json")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another run is using {folder}") from None
            state = {
                "format": FORMAT,
                "config": asdict(config),
                "generation": 0,
                "next_piece": 1,
                "linked": 0,
                "last": {},
            }
            if path.exists():
                try:
                    found = json.loads(path.read_text(encoding="utf-8"))
                    same = found["format"] == FORMAT and found["config"] == state["config"]
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(f"{path} is damaged: {error}") from error
                if not same:
                    raise ValueError(f"{folder} was made with {found['config']}, this run has {state['config']}")
                state = found
            yield cls(folder, state)

    @property
    def key(self) -> str:
        """Tells one state of the index from another."""
        return f"{self.state['generation']} {self.state['last'].get('inputs')}"

    def holds(self, inputs: str, out: Path) -> dict[str, int] | None:
        """The counts of the last run, if it had these very inputs and its output is there."""
        last = self.state["last"]
        same = last.get("inputs") == inputs and last.get("out") == str(out.resolve()) and out.exists()
        return last["counts"] if same else None

    def paths(self, kind: str) -> list[Path]:
        """The runs of one kind."""
        return sorted((self.folder / f"{self.state['generation']:06d}").glob(f"{kind}-*.npy"))

    def urls(self, span: tuple[int, int], most: int) -> U64:
        """URL keys of a range."""
        found = [part[0] for part in Runs(self.paths("urls"), 1).read(*span, most)]
        return np.concatenate(found) if found else np.empty(0, dtype=np.uint64)

    def add(self, keys: Runs, urls: Runs, links: list[Path], first_row: int, most: int) -> None:
        """Write the next generation, which holds from `replace` on.

        Args:
            keys: band keys and rows, old and new.
            urls: URL keys of this run.
            links: runs of pairs, both ways, of all clusters.
            first_row: rows below it are in the index.
            most: records at a time.
        """
        folder = self.folder / "next"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for kind in ("keys", "urls"):
            for path in self.paths(kind):
                (folder / path.name).hardlink_to(path)
        new = f"{self.state['generation'] + 1:06d}"
        for low, high in keys.ranges(most):
            found = np.concatenate([_least(part) for part in keys.read(low, high, most)], axis=1)
            found = _least(found)
            write_run(folder / f"keys-{new}-{low:016x}.npy", found[:, found[1] >= np.uint64(first_row)])
        for low, high in urls.ranges(most):
            found = np.concatenate([np.unique(part[0]) for part in urls.read(low, high, most)])
            found = np.setdiff1d(found, self.urls((low, high), most))
            write_run(folder / f"urls-{new}-{low:016x}.npy", found[None])
        for number, path in enumerate(links):
            shutil.copyfile(path, folder / f"links-{number:06d}.npy")

    def replace(self, next_piece: int, linked: int, last: dict[str, Any]) -> None:
        """Let the new generation hold."""
        generation = self.state["generation"] + 1
        target = self.folder / f"{generation:06d}"
        shutil.rmtree(target, ignore_errors=True)  # of a run that was killed here
        (self.folder / "next").replace(target)
        state = {**self.state, "generation": generation, "next_piece": next_piece, "linked": linked, "last": last}
        temporary = self.folder / "index.json.tmp"
        temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        publish(temporary, self.folder / "index.json")
        self.state = state
        for path in self.folder.iterdir():
            if path.is_dir() and path != target:
                shutil.rmtree(path)


def _least(records: U64) -> U64:
    """Each key once, with its least row."""
    order, starts = best_first(records[0], records[1:2])
    return records[:, order[starts]]
