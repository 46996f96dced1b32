"""The embedded engine (MiMo 2.2, 3.4.2): requests in, rollouts out; for rollouts, evaluation, curation and serving.

`submit`, then `step` until the rollouts have come out; or `generate`, which does both; `score` for log-probabilities of
given text. On the CPU in float32 a seeded request's tokens and log-probabilities are a function of (weights, prompt,
sampling) alone: not of the batch, of preemption, of prefix sharing or of speculation. On other devices
`batch_invariant` asks for the same. Left out: several devices per model (that is `vllm`), beams.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from openmimo.engine.blocks import BlockPool
from openmimo.engine.costs import DraftCosts
from openmimo.engine.runner import Runner, bytes_per_block
from openmimo.engine.sample import Drawn, Draws, check_sampling, likeliest, raw_logprobs, sample
from openmimo.engine.scheduler import Plan, Scheduler, Work
from openmimo.engine.sequence import Alternatives
from openmimo.engine.sequence import Sequence as Live
from openmimo.engine.speculate import SCORED_ROWS, Acceptance, by_rejection, draft, reject, verify
from openmimo.engine.sync import load_weights
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Rollout, Sampling


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine; none of them changes a token."""

    max_batch_size: int = 256
    """Sequences decoded together; ours."""
    max_model_len: int = 2048
    """Longest prompt plus response, tokens; MiMo 3.3.3: 32,768."""
    block_size: int = 16
    """Positions in a cache block, a multiple of 16: a vector of floats; ours."""
    num_blocks: int = 0
    """Cache blocks; 0 takes what cache_bytes allow, and no more than max_batch_size full sequences need."""
    cache_bytes: int = 512 * 2**20
    """Memory for the cache when num_blocks is 0; ours."""
    prefill_chunk: int = 2048
    """Prompt tokens computed in one step, over all sequences; ours."""
    num_draft_layers: int = 0
    """MTP layers that draft; 0 is plain decoding. MiMo 2.2: 1 after pre-training, 3 to serve."""
    adapt_drafts: bool = False
    """Whether the number of drafts follows the number of live sequences, by a measured cost model; else every step
    drafts with all layers."""
    num_token_ids: int = 0
    """Ids from here up are never sampled (padding of the vocabulary); 0: all may be. Released checkpoint: 151,665."""
    share_prefixes: bool = True
    """Whether sequences share the cache blocks of equal prefixes."""
    batch_invariant: bool | None = None
    """Whether tokens must not depend on the batch. None: on a CPU in float32 yes, elsewhere no. The compiled kernels
    always see to it, at no cost; PyTorch computes in tiles of one shape for it."""
    backend: Literal["auto", "torch", "flex"] = "auto"
    """What computes: `auto` takes the compiled kernels on a CPU in float32 and PyTorch elsewhere; `torch` is PyTorch
    over gathered blocks, anywhere; `flex` reads blocks where they lie and replays CUDA graphs, for GPUs (block_size
    128 suits them; not yet run on one)."""

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_model_len", "block_size", "prefill_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.backend not in ("auto", "torch", "flex"):
            raise ValueError(f"backend is auto, torch or flex, got {self.backend!r}")
        if self.backend == "flex" and self.batch_invariant:
            raise ValueError("backend flex cannot be batch_invariant; torch can")
        if self.block_size % 16:
            raise ValueError(f"block_size must be a multiple of 16, got {self.block_size}")


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

    def __init__(
        self,
        model: MiMo,
        config: EngineConfig,
        *,
        policy_version: int = 0,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        """
        Args:
            decode: token ids to text; without it stop texts are refused.

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
        self.decode = decode
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
            batch_invariant=config.batch_invariant,
            backend=config.backend,
        )
        self.costs: DraftCosts | None = None
        if config.adapt_drafts and config.num_draft_layers:
            self.costs = DraftCosts(config.num_draft_layers, self._pass_seconds)
        self._seeds = random.SystemRandom()
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
        sampling, most = request.sampling, self.config.max_model_len
        check_sampling(sampling)
        longest = most - 1 if sampling.max_new_tokens else most
        if not 0 < len(request.prompt_ids) <= longest:
            why = "max_model_len - 1" if sampling.max_new_tokens else "max_model_len"
            raise ValueError(f"a prompt needs 1 to {longest} tokens ({why}), got {len(request.prompt_ids)}")
        if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= self.model.config.vocab_size:
            wrong = next(t for t in request.prompt_ids if not 0 <= t < self.model.config.vocab_size)
            raise ValueError(f"prompt token id {wrong} is not in the vocabulary of {self.model.config.vocab_size}")
        if sampling.top_logprobs > self.model.config.vocab_size:
            raise ValueError(
                f"top_logprobs must be at most {self.model.config.vocab_size}, the vocabulary, "
                f"got {sampling.top_logprobs}"
            )
        if sampling.stop and self.decode is None:
            raise ValueError("stop texts need an engine with decode; give stop_token_ids instead")
        handle = self._next_handle
        self._next_handle += 1
        seed = self._seeds.getrandbits(64) if sampling.seed is None else sampling.seed & (2**64 - 1)
        self._live[handle] = Live(handle, request, self.decode, seed)
        self.scheduler.add(self._live[handle])
        return handle

    def step(self) -> list[tuple[int, Rollout]]:
        """One iteration of the scheduler: prompts advance, every decoding sequence gains at least one token.

        Returns:
            (handle, rollout) of the sequences that finished, by arrival.
        """
        plan = self.scheduler.plan()
        began = time.perf_counter()
        try:
            with torch.inference_mode():
                self._compute(plan)
        except BaseException:
            # Blocks published for this step may have no content: forget them and compute everybody again.
            self._retire(plan)
            self._recompute_all()
            raise
        if self.costs:
            self._observe(plan, time.perf_counter() - began)
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

    def score(self, token_ids: Sequence[Sequence[int]], *, drafts: bool = False) -> list[Rollout]:
        """Log-probability of every token given those before it, under the raw model, in nats.

        Batched: what tagging, perplexity and multiple choice read.

        Args:
            drafts: also what each of the engine's MTP layers gives it.

        Returns:
            Rollouts without a response, in order: `prompt_logprobs` and `prompt_draft_logprobs` carry the figures.

        Raises:
            ValueError: as `generate`; a text may fill max_model_len.
        """
        sampling = Sampling(0, temperature=0.0, prompt_logprobs=True, draft_logprobs=drafts)
        return self.generate([Request(tuple(ids), sampling) for ids in token_ids])

    def update_weights(self, state_dict: Mapping[str, Tensor], version: int, *, recompute_active: bool = False) -> None:
        """New weights, trunk and MTP, under a new policy version; cached prefixes of the old ones are dropped.

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
        self.runner.forward.refresh()
        self.policy_version = version
        self._recompute_all()

    def _compute(self, plan: Plan) -> None:
        if not plan.works:
            return
        hidden_ND = self.runner.trunk(plan.works)
        rows: list[int] = []
        draws = Draws([], [], [])
        first = 0
        for work in plan.works:
            sequence, last = work.sequence, first + work.num_tokens - 1
            if work.samples and sequence.request.sampling.max_new_tokens:
                for j in range(1 + work.num_drafts):
                    rows.append(last + j)
                    draws.samplings.append(sequence.request.sampling)
                    draws.seeds.append(sequence.seed)
                    draws.indices.append(sequence.num_generated + j)
            if sequence.needs_prompt:
                self._score_prompt(work, hidden_ND[first : last + 1])
            first += work.num_tokens + work.num_drafts
            if work.num_tokens > 1:
                self.stats.num_prompt_tokens += work.num_tokens
        logits_MV = None
        drawn = Drawn([], [], [])
        if rows:
            logits_MV = self.runner.logits(hidden_ND, rows)
            drawn = sample(logits_MV, draws, num_token_ids=self.num_token_ids)
        self._commit(plan, logits_MV, drawn)
        if self.config.num_draft_layers:
            sequences = [work.sequence for work in plan.works]
            draft(
                self.runner,
                self.scheduler.pool,
                sequences,
                num_drafts=self._num_drafts(sequences),
                num_token_ids=self.num_token_ids,
                limit=self.config.max_model_len,
            )

    def _commit(self, plan: Plan, logits_MV: Tensor | None, drawn: Drawn) -> None:
        """Write a step's results into its sequences."""
        first = 0
        for work in plan.works:
            sequence = work.sequence
            sequence.num_computed = work.start + work.num_tokens
            if not work.samples:
                continue
            if sequence.policy_version is None:
                sequence.policy_version = self.policy_version
            if not sequence.request.sampling.max_new_tokens:
                sequence.finish_reason = "length"
                continue
            assert logits_MV is not None
            part = slice(first, first + 1 + work.num_drafts)
            mine = Drawn(drawn.token_ids[part], drawn.logprobs[part], drawn.raw_logprobs[part])
            if work.num_drafts and by_rejection(sequence):
                mine = reject(sequence, logits_MV[part], mine, self.num_token_ids)
            count = sequence.request.sampling.top_logprobs
            tops: list[Alternatives] = []
            if count:
                kept = len(mine.token_ids)
                tops = likeliest(logits_MV[part], mine.token_ids, mine.raw_logprobs, [count] * kept)
            before = sequence.num_generated
            sequence.num_computed += verify(sequence, mine, tops, self.acceptance, self.config.max_model_len)
            self.stats.num_generated_tokens += sequence.num_generated - before
            first = part.stop

    def _score_prompt(self, work: Work, hidden_ND: Tensor) -> None:
        """Log-probabilities of the prompt tokens that the work's positions predict."""
        sequence = work.sequence
        stop = min(work.start + work.num_tokens, sequence.num_prompt - 1)
        count = sequence.request.sampling.top_logprobs
        hidden_ND = hidden_ND.clone()  # the next pass overwrites it
        for start in range(work.start, stop, SCORED_ROWS):
            end = min(start + SCORED_ROWS, stop)
            ids = sequence.token_ids[start + 1 : end + 1]
            at = start - work.start
            logits_MV = self.runner.logits(hidden_ND, list(range(at, at + len(ids))))
            raw = raw_logprobs(logits_MV, ids)
            sequence.prompt_logprobs[start + 1 : end + 1] = raw
            if count:
                sequence.prompt_top_logprobs[start + 1 : end + 1] = likeliest(logits_MV, ids, raw, [count] * len(ids))

    def _num_drafts(self, sequences: list[Live]) -> int:
        """Drafts a sequence in the next step."""
        if self.costs is None:
            return self.config.num_draft_layers
        decoding = sum(1 for s in sequences if not s.finish_reason and s.num_computed == len(s.token_ids) - 1)
        prompt_share = self.stats.num_prompt_tokens / max(1, self.stats.num_generated_tokens)
        return self.costs.best(decoding, self.acceptance.recent, prompt_share) if decoding else 0

    def _observe(self, plan: Plan, seconds: float) -> None:
        """Tell the cost model what a step took in which everybody decoded, with as many drafts before as after."""
        assert self.costs is not None
        works = plan.works
        if works and all(w.num_tokens == 1 and w.num_drafts == works[0].num_drafts for w in works):
            if all(len(w.sequence.draft_ids) == works[0].num_drafts for w in works if not w.sequence.finish_reason):
                self.costs.observe(len(works), works[0].num_drafts, seconds)

    def _pass_seconds(self, num_rows: int, layer: int) -> float:
        return self.runner.seconds(num_rows, num_rows, layer)

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
