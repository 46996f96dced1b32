"""Blocks of the paged key-value cache: who holds which, and which prefixes they can be shared for.

A block is `block_size` consecutive positions of one sequence, in every layer. Blocks are counted by reference, so that
the G rollouts of a prompt hold the prompt's full blocks together. A block that nobody holds keeps its content, and its
key, until it is needed for something else; the longest unused goes first. Only bookkeeping: the tensors are in
`attention`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice


class BlockPool:
    """Allocates block numbers 0 .. num_blocks - 1."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"num_blocks and block_size must be at least 1, got {num_blocks} and {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._holders = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # longest unused first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._drafted = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Blocks that a key finds."""
        return len(self._block_of)

    def allocate(self) -> int | None:
        """A block for one holder, its old content forgotten; None when every block is held."""
        if not self._free:
            return None
        block, _ = self._free.popitem(last=False)
        self._forget(block)
        self._holders[block] = 1
        self._drafted[block] = 0
        return block

    def find(self, key: bytes) -> int | None:
        """The block that has this content, without taking it."""
        return self._block_of.get(key)

    def hold(self, block: int) -> None:
        """One more holder of a block that `find` returned."""
        self._free.pop(block, None)
        self._holders[block] += 1

    def is_free(self, block: int) -> bool:
        """Whether nobody holds the block."""
        return self._holders[block] == 0

    def release(self, block: int) -> None:
        """One holder fewer; the last one leaves the block to be found again or reused."""
        assert self._holders[block] > 0, f"block {block} released more often than held"
        self._holders[block] -= 1
        if not self._holders[block]:
            self._free[block] = None
            if block not in self._key_of:
                self._free.move_to_end(block, last=False)  # no content worth keeping: reuse it first

    def publish(self, block: int, key: bytes) -> None:
        """Let others find a held, full block; the first block published under a key stays."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def set_drafted(self, block: int, layer: int) -> None:
        """All of the block's slots of an MTP layer (from 0) are final, as are those of the layers before."""
        self._drafted[block] = max(self._drafted[block], layer + 1)

    def is_drafted(self, block: int, layer: int) -> bool:
        """Whether all of the block's slots of an MTP layer are final."""
        return self._drafted[block] > layer

    def drop_cache(self) -> None:
        """Forget all content, as after new weights."""
        self._block_of.clear()
        self._key_of.clear()

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]


def block_key(previous: bytes, token_ids: Sequence[int], start: int, block_size: int, lookahead: int) -> bytes:
    """Names what a block contains: everything up to its end, chained through the previous block's key.

    MTP layer k (from 0) stores at slot i what depends on token i + 1 + k, so with `lookahead` draft layers a block's
    content depends on that many tokens beyond its end, and they are part of the key.
    """
    window = islice(token_ids, start, start + block_size + lookahead)
    return blake2b(previous + b"".join(t.to_bytes(4, "little") for t in window), digest_size=16).digest()
