"""The state of one sequence in the engine, from its request to its rollout."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any

from openmimo.types import FinishReason, Request, Rollout

Alternatives = tuple[tuple[int, float], ...]
"""(id, log-probability under the raw model), likeliest first."""


_TAIL_TOKENS = 16
"""Tokens decoded beyond what a stop text can take: some decode to nothing."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens known, positions computed, blocks held. Owned by the scheduler."""

    handle: int
    request: Request
    decode: Callable[[Many[int]], str] | None = None
    """Token ids to text, for stop texts."""
    seed: int = 0
    """The request's, as an unsigned word, or one drawn by the engine."""
    token_ids: list[int] = field(default_factory=list)
    """Prompt and response so far."""
    logprobs: list[float] = field(default_factory=list)
    """Of the response's tokens, nats."""
    raw_logprobs: list[float] = field(default_factory=list)
    """The same under the raw model."""
    top_logprobs: list[Alternatives] = field(default_factory=list)
    prompt_logprobs: list[float | None] = field(default_factory=list)
    """Of the prompt's tokens, None where not computed yet; empty unless asked for."""
    prompt_top_logprobs: list[Alternatives] = field(default_factory=list)
    prompt_draft_logprobs: list[list[float | None]] = field(default_factory=list)
    """For every MTP layer, of the prompt's tokens; empty unless asked for."""
    num_computed: int = 0
    """Positions whose trunk keys and values are in the cache; the last known token's never is."""
    blocks: list[int] = field(default_factory=list)
    """Block j holds positions j * block_size and on."""
    keys: list[bytes] = field(default_factory=list)
    """Keys of the leading full blocks, published or found."""
    draft_ids: list[int] = field(default_factory=list)
    """Tokens drafted beyond token_ids, to be verified next."""
    draft_probabilities: list[Any] = field(default_factory=list)
    """For every draft to be verified by rejection: the distribution (V,) that it was drawn from."""
    num_drafted: list[int] = field(default_factory=list)
    """For every MTP layer: slots that are final in the cache."""
    row: int = -1
    """Row of the block table while running, -1 while waiting."""
    num_tabled: int = 0
    """Blocks that the runner has entered in the table."""
    policy_version: int | None = None
    """Version of the weights that made the first token."""
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_ids)
        if self.request.sampling.prompt_logprobs:
            self.prompt_logprobs = [None] * self.num_prompt
            self.prompt_top_logprobs = [()] * self.num_prompt

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - len(self.request.prompt_ids)

    @property
    def needs_prompt(self) -> bool:
        """Whether the prompt's positions must be computed here, not found: their log-probabilities are missing."""
        return bool(self.prompt_logprobs) and not self.logprobs

    def append(self, token_id: int, logprob: float, raw: float, top: Alternatives, *, max_model_len: int) -> None:
        """Add a sampled token; sets finish_reason when it is the last."""
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        self.raw_logprobs.append(raw)
        sampling = self.request.sampling
        if sampling.top_logprobs:
            self.top_logprobs.append(top)
        if token_id in sampling.stop_token_ids or (sampling.stop and self._stops()):
            self.finish_reason = "stop"
        elif len(self.logprobs) >= sampling.max_new_tokens or len(self.token_ids) >= max_model_len:
            self.finish_reason = "length"

    def rollout(self, policy_version: int) -> Rollout:
        """What the caller gets; an unfinished sequence is an aborted one."""
        return Rollout(
            problem_id=self.request.problem_id,
            prompt_ids=self.request.prompt_ids,
            token_ids=tuple(self.token_ids[self.num_prompt :]),
            logprobs=tuple(self.logprobs),
            policy_version=policy_version if self.policy_version is None else self.policy_version,
            finish_reason=self.finish_reason or "abort",
            raw_logprobs=tuple(self.raw_logprobs),
            top_logprobs=tuple(self.top_logprobs),
            prompt_logprobs=tuple(self.prompt_logprobs),
            prompt_top_logprobs=tuple(self.prompt_top_logprobs) if self.request.sampling.top_logprobs else (),
            prompt_draft_logprobs=tuple(map(tuple, self.prompt_draft_logprobs)),
        )

    def _stops(self) -> bool:
        """Whether the response has just come to contain a stop text."""
        assert self.decode is not None, "the engine refuses stop texts without decode"
        stop = self.request.sampling.stop
        count = max(len(text.encode()) for text in stop) + _TAIL_TOKENS
        tail = self.decode(tuple(self.token_ids[max(self.num_prompt, len(self.token_ids) - count) :]))
        return any(text in tail for text in stop)
