"""Continuous batching (MiMo 3.4.2): which sequences compute which positions in the next step. No torch, no clock.

Every step carries all decoding sequences and, up to `prefill_chunk` tokens, prompts; a waiting sequence joins as soon
as there is a row and room for its known tokens. When blocks run out the sequence that arrived last is preempted: it
gives its blocks back and later computes its known tokens again, with the same result (see `attention`).

Blocks are published when the step that fills them is planned. That is early enough for a sequence planned later in the
same step to share them: in each layer the step stores all its keys and values before any row reads.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from openmimo.engine.blocks import BlockPool, block_key
from openmimo.engine.sequence import Sequence


@dataclass(slots=True)
class Work:
    """One sequence's part of a step: positions start .. start + num_tokens - 1, then its drafts."""

    sequence: Sequence
    start: int
    num_tokens: int
    num_drafts: int = 0

    @property
    def samples(self) -> bool:
        """Whether the step reaches the sequence's last known token, so that the next can be sampled."""
        return self.start + self.num_tokens == len(self.sequence.token_ids)


@dataclass(slots=True)
class Plan:
    """What one step computes."""

    works: list[Work] = field(default_factory=list)
    num_preempted: int = 0


class Scheduler:
    """Queues, rows and blocks of all sequences in the engine."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_batch_size: int,
        prefill_chunk: int,
        num_draft_layers: int = 0,
        share_prefixes: bool = True,
    ) -> None:
        self.pool = pool
        self.prefill_chunk = prefill_chunk
        self.num_draft_layers = num_draft_layers
        self.share_prefixes = share_prefixes
        self.running: list[Sequence] = []  # by arrival
        self.waiting: deque[Sequence] = deque()  # by arrival
        self._rows = list(range(max_batch_size - 1, -1, -1))

    @property
    def num_active(self) -> int:
        """Sequences running or waiting."""
        return len(self.running) + len(self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        sequence.num_drafted = [0] * self.num_draft_layers
        if sequence.request.sampling.draft_logprobs:
            sequence.prompt_draft_logprobs = [[None] * sequence.num_prompt for _ in range(self.num_draft_layers)]
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or aborted sequence and free all it holds."""
        if sequence.row >= 0:
            self.running.remove(sequence)
            self._release(sequence)
        else:
            self.waiting.remove(sequence)

    def plan(self) -> Plan:
        """The next step; allocates the blocks that it writes to."""
        plan = Plan()
        budget = self.prefill_chunk
        for sequence in list(self.running):
            if sequence.row < 0:
                continue  # preempted a moment ago for an earlier one
            missing = len(sequence.token_ids) - sequence.num_computed
            count = min(missing, max(budget, 1))
            num_drafts = len(sequence.draft_ids) if count == missing else 0
            if not self._grow(sequence, sequence.num_computed + count + num_drafts):
                num_drafts = 0
                sequence.draft_ids.clear()
                plan.num_preempted += self._make_room(sequence, sequence.num_computed + count)
                if sequence.row < 0:
                    continue
            if missing > 1:
                budget -= count
            self._plan_work(plan, sequence, count, num_drafts)
        # Victims arrived later than whoever took their room, so none of them had been planned.
        assert all(work.sequence.row >= 0 for work in plan.works)
        if plan.num_preempted:
            return plan  # no admission while room is short
        while self.waiting and self._rows and budget > 0:
            sequence = self.waiting[0]
            if not self._admit(sequence):
                break
            self.waiting.popleft()
            count = min(len(sequence.token_ids) - sequence.num_computed, budget)
            grown = self._grow(sequence, sequence.num_computed + count)
            assert grown, "admission checked that there is room"
            budget -= count
            self._plan_work(plan, sequence, count, 0)
        return plan

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's row and blocks; it waits, in its place by arrival, to be computed again."""
        self.running.remove(sequence)
        self._release(sequence)
        place = sum(1 for other in self.waiting if other.handle < sequence.handle)
        self.waiting.insert(place, sequence)

    def _plan_work(self, plan: Plan, sequence: Sequence, count: int, num_drafts: int) -> None:
        plan.works.append(Work(sequence, sequence.num_computed, count, num_drafts))
        if self.share_prefixes:
            self._publish(sequence, sequence.num_computed + count)

    def _grow(self, sequence: Sequence, num_positions: int) -> bool:
        """Hold blocks for so many positions, or for none more than before."""
        needed = -(-num_positions // self.pool.block_size) - len(sequence.blocks)
        if needed > self.pool.num_free:
            return False
        for _ in range(needed):
            block = self.pool.allocate()
            assert block is not None
            sequence.blocks.append(block)
        return True

    def _make_room(self, sequence: Sequence, num_positions: int) -> int:
        """Preempt from the latest arrival on, the sequence itself last of all; the number preempted."""
        num_preempted = 0
        while not self._grow(sequence, num_positions):
            victim = self.running[-1]
            self.preempt(victim)
            num_preempted += 1
            if victim is sequence:
                break
        return num_preempted

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence a row and the cached blocks of its prefix, if its known tokens then fit."""
        size, token_ids = self.pool.block_size, sequence.token_ids
        found: list[int] = []
        keys: list[bytes] = []
        if self.share_prefixes and not sequence.needs_prompt:
            key = b""
            # At least the last token is computed, for its logits.
            most = min(len(token_ids) - 1, len(token_ids) - self.num_draft_layers) // size
            for j in range(most):
                key = block_key(key, token_ids, j * size, size, self.num_draft_layers)
                block = self.pool.find(key)
                if block is None:
                    break
                found.append(block)
                keys.append(key)
        needed = -(-len(token_ids) // size) - len(found)
        if self.pool.num_free - sum(map(self.pool.is_free, found)) < needed:
            return False
        for block in found:
            self.pool.hold(block)
        sequence.blocks, sequence.keys = found, keys
        sequence.num_computed = len(found) * size
        sequence.num_drafted = [0] * self.num_draft_layers
        sequence.row = self._rows.pop()
        place = len(self.running)
        while place and self.running[place - 1].handle > sequence.handle:
            place -= 1
        self.running.insert(place, sequence)
        return True

    def _publish(self, sequence: Sequence, num_computed: int) -> None:
        size = self.pool.block_size
        full = min(num_computed, len(sequence.token_ids) - self.num_draft_layers) // size
        while len(sequence.keys) < full:
            j = len(sequence.keys)
            previous = sequence.keys[-1] if j else b""
            key = block_key(previous, sequence.token_ids, j * size, size, self.num_draft_layers)
            sequence.keys.append(key)
            self.pool.publish(sequence.blocks[j], key)

    def _release(self, sequence: Sequence) -> None:
        for block in reversed(sequence.blocks):  # a prefix's end is forgotten before its start
            self.pool.release(block)
        self._rows.append(sequence.row)
        sequence.row = -1
        sequence.num_computed = 0
        sequence.blocks, sequence.keys, sequence.num_tabled = [], [], 0
        sequence.draft_ids = []
        sequence.num_drafted = [0] * self.num_draft_layers
