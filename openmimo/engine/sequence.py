"""The state of one sequence in the engine, from its request to its rollout."""

from __future__ import annotations

from dataclasses import dataclass, field

from openmimo.types import FinishReason, Request, Rollout


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens known, positions computed, blocks held. Owned by the scheduler."""

    handle: int
    request: Request
    token_ids: list[int] = field(default_factory=list)
    """Prompt and response so far."""
    logprobs: list[float] = field(default_factory=list)
    """Of the response's tokens, nats."""
    num_computed: int = 0
    """Positions whose trunk keys and values are in the cache; the last known token's never is."""
    blocks: list[int] = field(default_factory=list)
    """Block j holds positions j * block_size and on."""
    keys: list[bytes] = field(default_factory=list)
    """Keys of the leading full blocks, published or found."""
    draft_ids: list[int] = field(default_factory=list)
    """Tokens drafted beyond token_ids, to be verified next."""
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

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - len(self.request.prompt_ids)

    def append(self, token_id: int, logprob: float, *, max_model_len: int) -> None:
        """Add a sampled token; sets finish_reason when it is the last."""
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)
        sampling = self.request.sampling
        if token_id in sampling.stop_token_ids:
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
        )
