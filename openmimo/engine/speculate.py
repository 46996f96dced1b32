"""Speculative decoding with the MTP layers (MiMo 2.2): draft, verify, count.

Layer k (from 0) reads the trunk's hidden state of the last computed position and the token k + 1 places on, for k > 0
a draft, and drafts the token after that; the layers are parallel, none reads another's state. The next step computes
the drafts' positions together with the last known token's.

Verification is exact in the strictest sense. The target token is always drawn from the model's own logits with the
noise of its (seed, index), as without speculation, and a draft is kept if it is that token. So the response is token
for token the one that plain decoding gives, at any temperature, and its distribution is the model's. Drafts are drawn
with the same noise, which makes agreement likely: its probability is at least (1 - d) / (1 + d), d the total variation
distance of the two distributions. Rejection sampling (accept with probability min(1, p / q), else draw from the
residual) would accept 1 - d: nothing more in greedy decoding, 3 to 6 points more where measured on random logits; but
it makes tokens depend on the drafter and on where a round of drafts begins.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from openmimo.engine.runner import Runner
from openmimo.engine.sample import Draws, choose
from openmimo.engine.sequence import Sequence
from openmimo.types import Request

if TYPE_CHECKING:
    from openmimo.engine.engine import Engine


@dataclass(slots=True)
class Acceptance:
    """Counts by draft layer: drafts judged, which takes that all before them were accepted, and drafts accepted."""

    judged: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def count(self, layer: int, accepted: bool) -> None:
        """One draft of a layer (from 0) judged."""
        while len(self.judged) <= layer:
            self.judged.append(0)
            self.accepted.append(0)
        self.judged[layer] += 1
        self.accepted[layer] += accepted

    def rates(self) -> dict[str, float]:
        """Layer number from 1 -> P(accepted | all before accepted); a layer never judged is left out."""
        pairs = enumerate(zip(self.accepted, self.judged, strict=True), start=1)
        return {str(layer): accepted / judged for layer, (accepted, judged) in pairs if judged}


def verify(sequence: Sequence, token_ids: Many[int], logprobs: Many[float], acceptance: Acceptance, limit: int) -> int:
    """Append target tokens up to the first that differs from its draft, or ends the response.

    Args:
        sequence: with the drafts that were computed in draft_ids.
        token_ids: target tokens, one more than drafts computed: target j is drawn after drafts 0 .. j - 1.
        limit: longest sequence in tokens.

    Returns:
        The number of drafts accepted.
    """
    for j, (token_id, logprob) in enumerate(zip(token_ids, logprobs, strict=True)):
        sequence.append(token_id, logprob, max_model_len=limit)
        if j == len(token_ids) - 1:
            return j
        accepted = sequence.draft_ids[j] == token_id
        acceptance.count(j, accepted)
        if not accepted:
            return j
        if sequence.finish_reason:
            return j + 1
    raise AssertionError("a step that samples draws at least one token")


def draft(
    runner: Runner, sequences: Many[Sequence], *, num_layers: int, num_token_ids: int, max_model_len: int
) -> None:
    """Bring the MTP layers' caches up to date and set every decoding sequence's draft_ids.

    Slot i of layer k is final once the trunk has computed position i and token i + 1 + k is known. A decoding
    sequence's last k slots are computed with drafts in place of tokens, and again when those are known.
    """
    for sequence in sequences:
        sequence.draft_ids = []
    for k in range(num_layers):
        works: list[tuple[Sequence, int, int]] = []
        ahead_ids: list[int] = []
        rows: list[int] = []
        drafting: list[Sequence] = []
        for sequence in sequences:
            known = len(sequence.token_ids)
            start = sequence.num_drafted[k]
            final = max(min(sequence.num_computed, known - 1 - k), start)
            stop = final
            if len(sequence.draft_ids) == k and k < _most_drafts(sequence, max_model_len):
                stop = sequence.num_computed
                drafting.append(sequence)
            if stop > start:
                works.append((sequence, start, stop))
                ahead_ids += sequence.token_ids[start + 1 + k : stop + 1 + k]
                ahead_ids += sequence.draft_ids[: max(0, stop + 1 + k - known)]
            if drafting and drafting[-1] is sequence:
                rows.append(len(ahead_ids) - 1)
            sequence.num_drafted[k] = final
        if not works:
            continue
        logits_MV = runner.draft_logits(k, works, ahead_ids, rows)
        if logits_MV is not None:
            draws = Draws([s.request.sampling for s in drafting], [s.num_generated + k for s in drafting])
            for sequence, token_id in zip(drafting, choose(logits_MV[:, :num_token_ids], draws), strict=True):
                sequence.draft_ids.append(token_id)


def measure_acceptance(engine: Engine, requests: Many[Request]) -> dict[str, float]:
    """Acceptance by draft layer over greedy speculative decoding of held-out prompts (MiMo 2.2).

    Args:
        engine: with num_draft_layers of at least 1; the paper measures about 0.9 for layer 1, above 0.75 for layer 3.
        requests: decoded greedily whatever their temperature.

    Returns:
        `{"1": p, "2": p, ...}`, each conditional on the layers before being accepted.
    """
    from dataclasses import replace

    if not engine.config.num_draft_layers:
        raise ValueError("acceptance needs an engine with num_draft_layers of at least 1, got 0")
    before, engine.acceptance = engine.acceptance, Acceptance()
    try:
        engine.generate([replace(r, sampling=replace(r.sampling, temperature=0.0)) for r in requests])
        return engine.acceptance.rates()
    finally:
        engine.acceptance = before


def _most_drafts(sequence: Sequence, max_model_len: int) -> int:
    """Drafts worth verifying: the target token after them must still fit. None while a prompt is being computed."""
    if sequence.finish_reason or sequence.num_computed != len(sequence.token_ids) - 1 or not sequence.logprobs:
        return 0
    left = min(
        sequence.request.sampling.max_new_tokens - sequence.num_generated, max_model_len - len(sequence.token_ids)
    )
    return left - 1
