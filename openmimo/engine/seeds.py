"""Seeds of the several choices of one request."""

from __future__ import annotations

from hashlib import blake2b


def choice_seed(seed: int | None, choice: int) -> int | None:
    """The seed of choice i of a request (from 0), so that the n choices differ and each can be had again.

    Choice 0 has the request's own seed, so it is what the request with n = 1 gives; the others a hash, so that the
    choices of neighbouring seeds have nothing in common. None stays None: the engine draws one.
    """
    if seed is None or choice == 0:
        return seed
    return int.from_bytes(blake2b(f"{seed}/{choice}".encode(), digest_size=8).digest(), "little") >> 1
