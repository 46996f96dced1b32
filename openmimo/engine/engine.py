"""The embedded engine (MiMo 2.2, 3.4.2): requests in, rollouts out; for rollouts, evaluation, curation and serving.

`submit`, then `step` until the rollouts have come out; or `generate`, which does both. On the CPU in float32 a
request's tokens and log-probabilities are a function of (weights, prompt, sampling) alone: not of the batch, of
preemption, of prefix sharing or of speculation. Left out: that guarantee on other devices (their matrix kernels choose
by shape), several devices per model (that is `vllm`), beams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openmimo.engine.blocks import BlockPool
from openmimo.engine.runner import Runner, bytes_per_block
from openmimo.engine.sample import Draws, check_sampling, sample
from openmimo.engine.scheduler import Plan, Scheduler
from openmimo.engine.sequence import Sequence as Live
from openmimo.engine.speculate import Acceptance, draft, verify
from openmimo.engine.sync import load_weights
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Rollout


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine; none of them changes a token."""

    max_batch_size: int = 256
    """Sequences decoded together; ours."""
    max_model_len: int = 2048
    """Longest prompt plus response, tokens; MiMo 3.3.3: 32,768."""
    block_size: int = 16
    """Positions in a cache block, a multiple of 4; ours."""
    num_blocks: int = 0
    """Cache blocks; 0 takes what cache_bytes allow, and no more than max_batch_size full sequences need."""
    cache_bytes: int = 512 * 2**20
    """Memory for the cache when num_blocks is 0; ours."""
    prefill_chunk: int = 2048
    """Prompt tokens computed in one step, over all sequences; ours."""
    num_draft_layers: int = 0
    """MTP layers that draft; 0 is plain decoding. MiMo 2.2: 1 after pre-training, 3 to serve."""
    num_token_ids: int = 0
    """Ids from here up are never sampled (padding of the vocabulary); 0: all may be. Released checkpoint: 151,665."""
    share_prefixes: bool = True
    """Whether sequences share the cache blocks of equal prefixes."""

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_model_len", "block_size", "prefill_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.block_size % 4:
            raise ValueError(f"block_size must be a multiple of 4, got {self.block_size}")


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine began."""

    num_steps: int = 0
    num_prompt_tokens: int = 0
    """Computed, so shared prefixes count once and preempted ones again."""
    num_generated_tokens: int = 0
    num_finished: int = 0
    num_aborted: int = 0
    num_preempted: int = 0


class Engine:
    """One model, one cache, one scheduler. Not for use by two threads at once."""

    def __init__(self, model: MiMo, config: EngineConfig, *, policy_version: int = 0) -> None:
        """
        Raises:
            ValueError: when the model has too few MTP layers, or the cache cannot hold one longest sequence.
        """
        if not 0 <= config.num_draft_layers <= model.config.num_nextn_predict_layers:
            raise ValueError(
                f"num_draft_layers must be 0 to {model.config.num_nextn_predict_layers}, the model's MTP layers, "
                f"got {config.num_draft_layers}"
            )
        if not 0 <= config.num_token_ids <= model.config.vocab_size:
            raise ValueError(f"num_token_ids must be 0 to {model.config.vocab_size}, got {config.num_token_ids}")
        self.model = model
        self.config = config
        self.policy_version = policy_version
        self.stats = EngineStats()
        self.acceptance = Acceptance()
        self.num_token_ids = config.num_token_ids or model.config.vocab_size
        num_blocks = _num_blocks(model, config)
        self.scheduler = Scheduler(
            BlockPool(num_blocks, config.block_size),
            max_batch_size=config.max_batch_size,
            prefill_chunk=config.prefill_chunk,
            num_draft_layers=config.num_draft_layers,
            share_prefixes=config.share_prefixes,
        )
        self.runner = Runner(
            model,
            num_blocks=num_blocks,
            block_size=config.block_size,
            num_table_rows=config.max_batch_size,
            max_model_len=config.max_model_len,
            num_draft_layers=config.num_draft_layers,
        )
        self._live: dict[int, Live] = {}
        self._finished: list[tuple[int, Rollout]] = []  # not yet returned by step
        self._next_handle = 0

    @property
    def num_active(self) -> int:
        """Sequences submitted and not finished."""
        return len(self._live)

    def submit(self, request: Request) -> int:
        """Queue a request; its handle comes back from `step` with the rollout.

        Raises:
            ValueError: for an empty or too long prompt, an unknown token id, or a sampling that makes no sense.
        """
        check_sampling(request.sampling)
        if not 0 < len(request.prompt_ids) < self.config.max_model_len:
            raise ValueError(
                f"a prompt needs 1 to {self.config.max_model_len - 1} tokens (max_model_len - 1), "
                f"got {len(request.prompt_ids)}"
            )
        if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= self.model.config.vocab_size:
            wrong = next(t for t in request.prompt_ids if not 0 <= t < self.model.config.vocab_size)
            raise ValueError(f"prompt token id {wrong} is not in the vocabulary of {self.model.config.vocab_size}")
        handle = self._next_handle
        self._next_handle += 1
        self._live[handle] = Live(handle, request)
        self.scheduler.add(self._live[handle])
        return handle

    def step(self) -> list[tuple[int, Rollout]]:
        """One iteration of the scheduler: prompts advance, every decoding sequence gains at least one token.

        Returns:
            (handle, rollout) of the sequences that finished, by arrival.
        """
        plan = self.scheduler.plan()
        try:
            with torch.inference_mode():
                self._compute(plan)
        except BaseException:
            # Blocks published for this step may have no content: forget them and compute everybody again.
            self._retire(plan)
            self._recompute_all()
            raise
        self._retire(plan)
        self.stats.num_steps += bool(plan.works)
        self.stats.num_preempted += plan.num_preempted
        finished, self._finished = self._finished, []
        return finished

    def abort(self, handle: int) -> None:
        """Forget a sequence and free all it holds; a handle that is not active is ignored."""
        sequence = self._live.pop(handle, None)
        if sequence is not None:
            self.scheduler.remove(sequence)
            self.stats.num_aborted += 1

    def partial(self, handle: int) -> Rollout:
        """What an active sequence has so far, for streaming; its finish_reason is `abort` until it has one.

        Raises:
            KeyError: when the handle is not active.
        """
        return self._live[handle].rollout(self.policy_version)

    def generate(self, requests: Sequence[Request]) -> list[Rollout]:
        """Run requests to their end; rollouts in the requests' order. Others in the engine go on, but must not finish.

        Raises:
            ValueError: when sequences are active already: their rollouts would have nowhere to go.
        """
        if self.num_active:
            raise ValueError(
                f"generate needs an idle engine, got {self.num_active} active sequences; use submit and step"
            )
        handles: list[int] = []
        done: dict[int, Rollout] = {}
        try:
            for request in requests:
                handles.append(self.submit(request))
            while len(done) < len(handles):
                done.update(self.step())
        except BaseException:
            for handle in handles:
                self.abort(handle)
            raise
        return [done[handle] for handle in handles]

    def set_weights(self, state_dict: Mapping[str, Tensor], version: int, *, recompute_active: bool = False) -> None:
        """New weights under a new policy version; cached prefixes are dropped.

        Args:
            recompute_active: let active sequences go on under the new weights, everything cached computed again; their
                rollouts keep the version of their first token. Otherwise they are a mistake.

        Raises:
            ValueError: when sequences are active, or the weights do not fit; nothing has changed then.
        """
        if self.num_active and not recompute_active:
            raise ValueError(
                f"{self.num_active} sequences are active: finish or abort them, or pass recompute_active=True"
            )
        load_weights(self.model, state_dict)
        self.policy_version = version
        self._recompute_all()

    def _compute(self, plan: Plan) -> None:
        if not plan.works:
            return
        hidden_ND = self.runner.trunk(plan.works)
        rows: list[int] = []
        draws = Draws([], [])
        first = 0
        for work in plan.works:
            last = first + work.num_tokens - 1
            if work.samples:
                for j in range(1 + work.num_drafts):
                    rows.append(last + j)
                    draws.samplings.append(work.sequence.request.sampling)
                    draws.indices.append(work.sequence.num_generated + j)
            first += work.num_tokens + work.num_drafts
            if work.num_tokens > 1:
                self.stats.num_prompt_tokens += work.num_tokens
        token_ids: list[int] = []
        logprobs: list[float] = []
        if rows:
            logits_MV = self.runner.logits(hidden_ND, rows)[:, : self.num_token_ids]
            token_ids, logprobs = sample(logits_MV, draws)
        self._commit(plan, token_ids, logprobs)
        if self.config.num_draft_layers:
            draft(
                self.runner,
                [work.sequence for work in plan.works],
                num_layers=self.config.num_draft_layers,
                num_token_ids=self.num_token_ids,
                max_model_len=self.config.max_model_len,
            )

    def _commit(self, plan: Plan, token_ids: list[int], logprobs: list[float]) -> None:
        """Write a step's results into its sequences."""
        first = 0
        for work in plan.works:
            sequence = work.sequence
            sequence.num_computed = work.start + work.num_tokens
            if not work.samples:
                continue
            if sequence.policy_version is None:
                sequence.policy_version = self.policy_version
            stop = first + 1 + work.num_drafts
            before = sequence.num_generated
            sequence.num_computed += verify(
                sequence, token_ids[first:stop], logprobs[first:stop], self.acceptance, self.config.max_model_len
            )
            self.stats.num_generated_tokens += sequence.num_generated - before
            first = stop

    def _retire(self, plan: Plan) -> None:
        """Free what the finished sequences of a step hold and keep their rollouts to be returned."""
        for work in plan.works:
            sequence = work.sequence
            if sequence.finish_reason:
                self.scheduler.remove(sequence)
                del self._live[sequence.handle]
                self.stats.num_finished += 1
                self._finished.append((sequence.handle, sequence.rollout(self.policy_version)))

    def _recompute_all(self) -> None:
        for sequence in list(self.scheduler.running):
            self.scheduler.preempt(sequence)
        self.scheduler.pool.drop_cache()


def _num_blocks(model: MiMo, config: EngineConfig) -> int:
    longest = -(-config.max_model_len // config.block_size)
    num_blocks = config.num_blocks
    if not num_blocks:
        dtype = model.lm_head.weight.dtype
        size = bytes_per_block(model.config, config.block_size, config.num_draft_layers, dtype)
        num_blocks = min(config.cache_bytes // size, config.max_batch_size * longest)
    if num_blocks < longest:
        raise ValueError(
            f"{num_blocks} blocks of {config.block_size} cannot hold one sequence of max_model_len "
            f"{config.max_model_len}: raise num_blocks or cache_bytes to at least {longest} blocks"
        )
    return num_blocks
