"""Speculative decoding with the MTP layers (MiMo 2.2): draft, verify, count.

Layer k (from 0) reads the trunk's hidden state of the last computed position (or, chained, layer k - 1's output there)
and the token k + 1 places on, for k > 0 a draft, and drafts the token after that. The next step computes the drafts'
positions together with the last known token's.

Verification of a request with a seed is exact in the strictest sense. The target token is always drawn from the model's
own logits with the noise of its (seed, index), as without speculation, and a draft is kept if it is that token. So the
response is token for token the one that plain decoding gives, at any temperature, and its distribution is the model's.
Drafts are drawn with the same noise, which makes agreement likely (Gumbel-max coupling): its probability is at least
(1 - d) / (1 + d), d the total variation distance of the two distributions, and 1 for an identical drafter.

A request without a seed need not be reproducible, so its drafts are verified by rejection sampling: kept with
probability min(1, p / q), else the token comes from the residual max(p - q, 0). That keeps 1 - d, the most possible,
but tokens then depend on the drafter and on where a round of drafts begins. Their distribution is the model's all the
same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from openmimo.engine.blocks import BlockPool
from openmimo.engine.costs import SUPPOSED
from openmimo.engine.runner import Runner
from openmimo.engine.sample import Drawn, Draws, choose, exponential, probabilities, raw_logprobs
from openmimo.engine.sequence import Sequence
from openmimo.types import Request

if TYPE_CHECKING:
    from openmimo.engine.engine import Engine

_DRAFT_STREAM, _ACCEPT_STREAM = 0x6A09E667F3BCC908, 0xBB67AE8584CAA73B
"""Mixed into an unseeded request's own seed: drafts and acceptance have noise apart from the targets'."""


SCORED_ROWS = 256
"""Positions whose logits exist at one time when a prompt is scored."""


@dataclass(slots=True)
class Acceptance:
    """Counts by draft layer: drafts judged, which takes that all before them were accepted, and drafts accepted."""

    judged: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    """Acceptance of a layer lately, older drafts fading."""

    def count(self, layer: int, accepted: bool) -> None:
        """One draft of a layer (from 0) judged."""
        while len(self.judged) <= layer:
            self.judged.append(0)
            self.accepted.append(0)
            self.recent.append(SUPPOSED)
        self.judged[layer] += 1
        self.accepted[layer] += accepted
        self.recent[layer] += (accepted - self.recent[layer]) / min(self.judged[layer] + 16, 500)

    def rates(self) -> dict[str, float]:
        """Layer number from 1 -> P(accepted | all before accepted); a layer never judged is left out."""
        pairs = enumerate(zip(self.accepted, self.judged, strict=True), start=1)
        return {str(layer): accepted / judged for layer, (accepted, judged) in pairs if judged}

    def mean_length(self) -> float:
        """Tokens a step of a sequence whose drafts were verified: 1 plus the drafts kept."""
        return 1.0 + sum(self.accepted) / self.judged[0] if self.judged and self.judged[0] else 1.0


def by_rejection(sequence: Sequence) -> bool:
    """Whether a sequence's drafts are verified by rejection sampling."""
    sampling = sequence.request.sampling
    return sampling.seed is None and sampling.temperature > 0.0


def reject(sequence: Sequence, logits_JV: Tensor, drawn: Drawn, num_token_ids: int) -> Drawn:
    """Rejection sampling over a sequence's drafts (Leviathan et al. 2023, Algorithm 1).

    Args:
        sequence: with draft_ids and, for each, the distribution that it was drawn from.
        logits_JV: of the last known token and of the drafts: one row more than drafts were computed.
        drawn: plain draws from those rows; the last one is the token after all drafts, if all are kept.

    Returns:
        Targets as `verify` reads them: the drafts that were kept, then a token that differs from its draft.
    """
    token_ids = list(drawn.token_ids)
    if len(token_ids) == 1:
        return drawn
    sampling, first = sequence.request.sampling, sequence.num_generated
    p_JV = probabilities(logits_JV, [sampling] * len(token_ids), num_token_ids)
    logprobs = list(drawn.logprobs)
    for j in range(len(token_ids) - 1):
        p_V, q_V, draft_id = p_JV[j], sequence.draft_probabilities[j], sequence.draft_ids[j]
        chance = -_noise(sequence.seed ^ _ACCEPT_STREAM, first + j, 1, p_V.device)[0]
        if math.exp(float(chance)) * float(q_V[draft_id]) < float(p_V[draft_id]):
            token_ids[j] = draft_id
        else:
            residual_V = (p_V - q_V).clamp_(min=0.0)
            if not bool(residual_V.any()):  # p = q but for rounding
                residual_V = p_V
            token_ids[j] = int((residual_V / _noise(sequence.seed, first + j, len(p_V), p_V.device)).argmax())
        logprobs[j] = math.log(float(p_V[token_ids[j]]))
        if token_ids[j] != draft_id:
            break
    return Drawn(token_ids, logprobs, raw_logprobs(logits_JV, token_ids))


def verify(
    sequence: Sequence, drawn: Drawn, tops: Many[tuple[tuple[int, float], ...]], acceptance: Acceptance, limit: int
) -> int:
    """Append target tokens up to the first that differs from its draft, or ends the response.

    Args:
        sequence: with the drafts that were computed in draft_ids.
        drawn: target tokens, one more than drafts computed: target j is drawn after drafts 0 .. j - 1.
        tops: the likeliest alternatives of each, or empty.
        limit: longest sequence in tokens.

    Returns:
        The number of drafts accepted.
    """
    last = len(drawn.token_ids) - 1
    for j, (token_id, logprob, raw) in enumerate(zip(drawn.token_ids, drawn.logprobs, drawn.raw_logprobs, strict=True)):
        sequence.append(token_id, logprob, raw, tops[j] if tops else (), max_model_len=limit)
        if j == last:
            return j
        accepted = sequence.draft_ids[j] == token_id
        acceptance.count(j, accepted)
        if not accepted:
            return j
        if sequence.finish_reason:
            return j + 1
    raise AssertionError("a step that samples draws at least one token")


def draft(
    runner: Runner, pool: BlockPool, sequences: Many[Sequence], *, num_drafts: int, num_token_ids: int, limit: int
) -> None:
    """Bring the MTP layers' caches up to date and set every decoding sequence's draft_ids.

    Slot i of layer k is final once the trunk has computed position i and token i + 1 + k is known. A decoding
    sequence's last k slots are computed with drafts in place of tokens, and again when those are known. Layers that
    do not draft in this step fall behind and catch up when they do.

    Args:
        num_drafts: drafts wanted a sequence, and layers used.
        limit: longest sequence in tokens.
    """
    for sequence in sequences:
        sequence.draft_ids, sequence.draft_probabilities = [], []
    most = max([num_drafts, *(len(sequence.prompt_draft_logprobs) for sequence in sequences)])
    for k in range(most):
        works: list[tuple[Sequence, int, int]] = []
        ahead_ids: list[int] = []
        rows: list[int] = []
        drafting: list[Sequence] = []
        scored: list[tuple[Sequence, int, int]] = []
        for sequence in sequences:
            scores = k < len(sequence.prompt_draft_logprobs)
            if not scores and (sequence.finish_reason or k >= num_drafts):
                continue
            known = len(sequence.token_ids)
            start = _first_missing(sequence, k, pool)
            final = max(min(sequence.num_computed, known - 1 - k), start)
            stop = final
            drafts = len(sequence.draft_ids) == k and k < min(num_drafts, _most_drafts(sequence, limit))
            if drafts:
                stop = sequence.num_computed
                drafting.append(sequence)
            if scores and start + 2 + k < sequence.num_prompt:
                scored.append((sequence, start, len(ahead_ids)))
            if stop > start:
                works.append((sequence, start, stop))
                ahead_ids += sequence.token_ids[start + 1 + k : stop + 1 + k]
                ahead_ids += sequence.draft_ids[max(0, start + 1 + k - known) : max(0, stop + 1 + k - known)]
            if drafts:
                rows.append(len(ahead_ids) - 1)
            sequence.num_drafted[k] = final
            for block in sequence.blocks[start // pool.block_size : final // pool.block_size]:
                pool.set_drafted(block, k)
        if not works:
            continue
        draft_ND = runner.draft(k, works, ahead_ids)
        for sequence, start, row in scored:
            _score(runner, k, sequence, start, draft_ND, row)
        if rows:
            _choose(drafting, runner.logits(draft_ND, rows, k), k, num_token_ids)


def _choose(drafting: Many[Sequence], logits_MV: Tensor, k: int, num_token_ids: int) -> None:
    """Draw layer k's draft of every sequence."""
    samplings = [s.request.sampling for s in drafting]
    seeds = [s.seed ^ _DRAFT_STREAM if by_rejection(s) else s.seed for s in drafting]
    draws = Draws(samplings, seeds, [s.num_generated + k for s in drafting])
    token_ids = choose(logits_MV, draws, num_token_ids=num_token_ids)
    for m, sequence in enumerate(drafting):
        sequence.draft_ids.append(token_ids[m])
        if by_rejection(sequence):
            q_MV = probabilities(logits_MV[m : m + 1], samplings[m : m + 1], num_token_ids)
            sequence.draft_probabilities.append(q_MV[0])


def _score(runner: Runner, k: int, sequence: Sequence, start: int, draft_ND: Tensor, row: int) -> None:
    """Layer k's log-probabilities of the prompt tokens that slots from `start` on predict: slot i token i + 2 + k."""
    first, found = start + 2 + k, sequence.prompt_draft_logprobs[k]
    last = min(first + draft_ND.shape[0] - row, sequence.num_drafted[k] + 2 + k, sequence.num_prompt)
    draft_ND = draft_ND.clone()  # the next pass overwrites it
    for at in range(first, last, SCORED_ROWS):
        ids = sequence.token_ids[at : min(at + SCORED_ROWS, last)]
        rows = list(range(row + at - first, row + at - first + len(ids)))
        found[at : at + len(ids)] = raw_logprobs(runner.logits(draft_ND, rows, k), ids)


def measure_acceptance(engine: Engine, requests: Many[Request], *, temperature: float = 0.0) -> dict[str, float]:
    """Acceptance by draft layer over speculative decoding of held-out prompts (MiMo 2.2).

    Args:
        engine: with num_draft_layers of at least 1; the paper measures about 0.9 for layer 1, above 0.75 for layer 3.
        temperature: of all requests, whatever theirs.

    Returns:
        `{"1": p, "2": p, ...}`, each conditional on the layers before being accepted.
    """
    if not engine.config.num_draft_layers:
        raise ValueError("acceptance needs an engine with num_draft_layers of at least 1, got 0")
    before, engine.acceptance = engine.acceptance, Acceptance()
    try:
        engine.generate([replace(r, sampling=replace(r.sampling, temperature=temperature)) for r in requests])
        return engine.acceptance.rates()
    finally:
        engine.acceptance = before


def _first_missing(sequence: Sequence, k: int, pool: BlockPool) -> int:
    """Layer k's first slot that is not final: beyond whole blocks that another sequence has finished."""
    start, size = sequence.num_drafted[k], pool.block_size
    while (
        start % size == 0 and start // size < len(sequence.keys) and pool.is_drafted(sequence.blocks[start // size], k)
    ):
        start += size
    return start


def _most_drafts(sequence: Sequence, limit: int) -> int:
    """Drafts worth verifying: the target token after them must still fit. None while a prompt is being computed."""
    if sequence.finish_reason or sequence.num_computed != len(sequence.token_ids) - 1 or not sequence.logprobs:
        return 0
    left = min(sequence.request.sampling.max_new_tokens - sequence.num_generated, limit - len(sequence.token_ids))
    return left - 1


def _noise(seed: int, index: int, count: int, device: torch.device) -> Tensor:
    seeds, indices = np.array([seed], dtype=np.uint64), np.array([index], dtype=np.uint64)
    return exponential(seeds, indices, count, device)[0]
