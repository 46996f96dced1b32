"""The mixture: rows of tokens from several sources at given weights, by count and not by chance (MiMo 2.1, 2.3).

Each row comes from one source: of those whose turn has come, the one that would soonest fall a row behind (Tijdeman's
chairman assignment). So at constant weights the tokens served from a source stay within one row of the target at any
step; always taking the source furthest behind does not keep that bound from about seven sources on. Within a source
documents follow a seeded permutation per epoch; a document longer than a row is cut, a shorter one never is. The state
is a few integers, so a resumed run serves the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from openmimo.data.pack import Sample, stack
from openmimo.data.shards import TokenShard
from openmimo.types import Batch

Piece = tuple[int, int, int]
"""(document, first token, tokens)."""

WINDOW = 32
"""Pending documents that best-fit may choose from."""


class Mixture:
    """An endless, resumable stream of packed rows.

    Args:
        shards: by source name.
        max_epochs: how often a source may be repeated; beyond it `rows` raises. Absent means no limit.
    """

    def __init__(self, shards: Mapping[str, TokenShard], *, seed: int, max_epochs: Mapping[str, float] | None = None):
        self._sources = {name: _Source(shard, seed) for name, shard in sorted(shards.items())}
        self._max_epochs = dict(max_epochs or {})
        self._served = dict.fromkeys(self._sources, 0)
        self._base = dict.fromkeys(self._sources, 0.0)
        """Slots by source that were aimed at when the present weights began."""
        self._stretch: tuple[int, tuple[int, dict[str, float]]] = (0, (0, {}))
        """Rows since then; context and share by source."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the numbers in `Batch.sources` stand for."""
        return tuple(self._sources)

    @property
    def served(self) -> dict[str, int]:
        """Slots served so far by source."""
        return dict(self._served)

    @property
    def target(self) -> dict[str, float]:
        """What `served` should be by the weights asked for."""
        rows, (context, shares) = self._stretch
        return {name: base + rows * context * shares.get(name, 0.0) for name, base in self._base.items()}

    def epochs(self) -> dict[str, float]:
        """How often each source has been read."""
        return {name: source.read_tokens / source.shard.num_tokens for name, source in self._sources.items()}

    def check_demand(self, demand: Mapping[str, float]) -> list[str]:
        """Hold what a run will ask of every source, in slots, against what there is.

        Returns:
            A line for every source that is no synthetic one and would be read more than once.

        Raises:
            ValueError: for an unknown source, or one that would be read more often than it may; it says how often.
        """
        self._check_names(demand)
        lines = []
        for name, slots in sorted(demand.items()):
            tokens = self._sources[name].shard.num_tokens
            epochs, limit = slots / tokens, self._max_epochs.get(name)
            if limit is not None and epochs > limit + 1e-9:
                raise ValueError(
                    f"source {name!r} has {tokens:,} tokens and the run asks for {slots:,.0f}: {epochs:.2f} epochs, "
                    f"its limit is {limit:g}; lower its weight, or raise max_epochs"
                )
            if epochs > 1.0 and name != "synthetic":
                lines.append(f"source {name!r} will be read {epochs:.1f} times: {slots:,.0f} of {tokens:,} tokens")
        return lines

    def rows(self, num_rows: int, context: int, weights: Mapping[str, float], share: slice = slice(None)) -> Batch:
        """The next `num_rows` rows of `context` slots.

        Args:
            weights: by source, any scale; 0 is never served.
            share: the rows that are wanted here. All are counted as served; the others' tokens are not even read, so
                that every rank of many walks through the same stream and loads its part.

        Raises:
            ValueError: for an unknown source, weights that are negative or all 0, or a source that would be read more
                often than it may.
        """
        self._check_names(weights)
        if min(weights.values(), default=0.0) < 0.0 or not any(weights.values()):
            raise ValueError(f"mixture weights must be at least 0 and not all 0, got {dict(weights)}")
        total = sum(weights.values())
        shares = {name: weight / total for name, weight in sorted(weights.items()) if weight}
        chosen: list[tuple[str, list[Piece]]] = []
        if self._stretch[1] != (context, shares):
            self._base, self._stretch = self.target, (0, (context, shares))
        for _ in range(num_rows):
            self._stretch = (self._stretch[0] + 1, (context, shares))
            name = self._due(shares, context)
            self._served[name] += context
            chosen.append((name, self._sources[name].row(context)))
            self._check_epochs(name)
        mine = [(name, [self._sources[name].sample(piece) for piece in row]) for name, row in chosen[share]]
        numbers = {name: n for n, name in enumerate(self.names)}
        return replace(
            stack([row for _, row in mine], context), sources=np.array([numbers[name] for name, _ in mine], np.int64)
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "served": dict(self._served),
            "base": dict(self._base),
            "stretch": [self._stretch[0], self._stretch[1][0], dict(self._stretch[1][1])],
            "sources": {name: source.state_dict() for name, source in self._sources.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._served, self._base = dict(state["served"]), dict(state["base"])
        rows, context, shares = state["stretch"]
        self._stretch = (rows, (context, dict(shares)))
        for name, source in self._sources.items():
            source.load_state_dict(state["sources"][name])

    def _check_names(self, names: Mapping[str, float]) -> None:
        unknown = set(names) - set(self._sources)
        if unknown:
            raise ValueError(f"the mixture names source {min(unknown)!r}; there are {', '.join(self._sources)}")

    def _due(self, shares: Mapping[str, float], context: int) -> str:
        """The source of the next row, its target counted in already."""
        target = self.target
        behind = {name: (target[name] - self._served[name]) / context for name in shares}
        slack = 1.0 / max(2, 2 * len(shares) - 2)
        may = [name for name in shares if behind[name] >= slack - 1e-9]
        if not may:  # only just after a change of weights
            return max(shares, key=lambda name: behind[name])
        return min(may, key=lambda name: (1.0 - slack - behind[name]) / shares[name])

    def _check_epochs(self, name: str) -> None:
        limit, epochs = self._max_epochs.get(name), self.epochs()[name]
        if limit is not None and epochs > limit + 1e-9:
            raise ValueError(
                f"source {name!r} would be read {epochs:.2f} times, its limit is {limit:g}; lower its weight"
            )


class _Source:
    """One source's documents in order, a window of them pending."""

    def __init__(self, shard: TokenShard, seed: int) -> None:
        self.shard, self._seed = shard, seed
        self.read_tokens = 0
        self._next = 0
        """Documents taken into the window so far, over all epochs."""
        self._window: list[tuple[int, int]] = []
        """(document, first token not yet served)."""
        self._order: tuple[int, list[int]] = (-1, [])

    def row(self, context: int) -> list[Piece]:
        row: list[Piece] = []
        room = context
        while room:
            self._fill()
            lengths = [self._left(document, start) for document, start in self._window]
            if max(lengths) <= context or row:
                fitting = [i for i, length in enumerate(lengths) if length <= room]
                if not fitting:
                    break
                # The oldest goes first into an empty row, so that none waits for ever; then best-fit.
                at = fitting[0] if not row else max(fitting, key=lambda i: (lengths[i], -i))
                take = lengths[at]
            else:
                at = next(i for i, length in enumerate(lengths) if length > context)
                take = context
            document, start = self._window.pop(at)
            row.append((document, start, take))
            if take < self._left(document, start):
                self._window.append((document, start + take))  # its turn comes again: no page fills rows on end
            self.read_tokens += take
            room -= take
        return row

    def sample(self, piece: Piece) -> Sample:
        document, start, take = piece
        return Sample(self.shard.document(document)[start : start + take])

    def state_dict(self) -> dict[str, Any]:
        return {"read_tokens": self.read_tokens, "next": self._next, "window": list(self._window)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.read_tokens, self._next = state["read_tokens"], state["next"]
        self._window = [(int(d), int(s)) for d, s in state["window"]]

    def _left(self, document: int, start: int) -> int:
        return int(self.shard.borders[document + 1] - self.shard.borders[document]) - start

    def _fill(self) -> None:
        while len(self._window) < WINDOW:
            epoch, at = divmod(self._next, len(self.shard))
            if self._order[0] != epoch:
                order = list(range(len(self.shard)))
                random.Random(f"{self._seed}:{self.shard.source}:{epoch}").shuffle(order)
                self._order = (epoch, order)
            document = self._order[1][at]
            if any(document == pending for pending, _ in self._window):
                break  # read to its end before it begins again: a few long books would else give their heads alone
            self._window.append((document, 0))
            self._next += 1
