"""A step's updates: groups -> packed mini-batches -> old log-probabilities -> train_step (MiMo 3.3).

Mini-batches are consecutive groups of the batch, in launch order, so that the first are whole while the last groups
still generate (decision 0043). The old log-probabilities are the trainer's under the weights that made the rollouts
(decision 0019): all computed before the first update, or, where updates begin earlier, from a frozen copy.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import fmean

import torch

from openmimo.data.pack import Sample, pack, pack_evenly
from openmimo.model.mimo import MiMo
from openmimo.rl.advantage import advantages
from openmimo.rl.config import RLConfig
from openmimo.rl.loss import importance_weights, token_weights
from openmimo.train.loss import Loss, token_logprobs
from openmimo.train.step import TrainState, on_device, train_step
from openmimo.types import Batch, Group

PHASES = ("pack_s", "old_logprobs_s", "update_s")


@dataclass
class Updates:
    """What a step's updates came to."""

    metrics: dict[str, float] = field(default_factory=dict)
    """Means over mini-batches; a function of seed and weights."""
    timing: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    """Seconds by phase."""


def to_samples(group: Group, number: int) -> list[Sample]:
    """A group's responses as trainable sequences, with the engine's log-probs until `update` puts the trainer's."""
    return [
        Sample(
            token_ids=rollout.prompt_ids + rollout.token_ids,
            loss_weights=(0.0,) * len(rollout.prompt_ids) + (1.0,) * len(rollout.token_ids),
            advantage=advantage,
            old_logprobs=(0.0,) * len(rollout.prompt_ids) + rollout.logprobs,
            group=number,
        )
        for rollout, advantage in zip(group.rollouts, advantages(group.rewards), strict=True)
    ]


def update(
    state: TrainState,
    groups: Iterable[Group],
    loss: Loss,
    config: RLConfig,
    *,
    step: int,
    frozen: MiMo | None = None,
) -> Updates:
    """Train on the groups, `minibatch_groups` at a time, in the order in which they come.

    `engine_kl` is the mean estimate (k3) of the KL between the engine's log-probabilities and the trainer's.

    Args:
        groups: in launch order; they may still be coming in.
        frozen: a model with the weights that made the rollouts, for the old log-probabilities. None: the model itself
            gives them all before its first update, when the last group is there.
    """
    found = Updates()
    ready = _prepared(groups, frozen or state.worker.model, config, found)
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    collected: dict[str, list[float]] = defaultdict(list)
    gaps: list[tuple[float, float]] = []
    for minibatch, gap in ready if frozen else list(ready):
        started = time.perf_counter()
        metrics = train_step(
            state, minibatch, loss, learning_rate=config.learning_rate * warm, micro_rows=config.micro_rows
        )
        found.timing["update_s"] += time.perf_counter() - started
        gaps.append(gap)
        for name, value in metrics.items():
            collected[name].append(value)
    means = {name: fmean(values) for name, values in collected.items()}
    mismatch, tokens = sum(gap for gap, _ in gaps), sum(tokens for _, tokens in gaps)
    found.metrics = {"loss": 0.0, **means, "updates": len(gaps), "engine_kl": mismatch / max(tokens, 1.0)}
    return found


class Background:
    """Runs `work` on the groups in a thread of its own, while they come in. A context manager.

    The thread computes what the caller's would: PyTorch splits work by its thread count alone, which all threads share.
    """

    def __init__(self, work: Callable[[Iterator[Group]], Updates]) -> None:
        self._work = work
        self._groups: queue.SimpleQueue[Group | None] = queue.SimpleQueue()
        self._given_up = False
        self._result: Updates | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="updates", daemon=True)

    def put(self, group: Group) -> None:
        """The next group; raises what the updates have raised so far."""
        if self._error:
            raise self._error
        self._groups.put(group)

    def finish(self) -> Updates:
        """No more groups: wait for the last update; raises what the updates raised."""
        self._groups.put(None)
        self._thread.join()
        if self._error:
            raise self._error
        assert self._result is not None
        return self._result

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread.is_alive():  # the rollout failed: end after the update in progress
            self._given_up = True
            self._groups.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._result = self._work(self._incoming())
        except BaseException as error:
            self._error = error

    def _incoming(self) -> Iterator[Group]:
        while (group := self._groups.get()) is not None:
            yield group
        if self._given_up:
            raise RuntimeError("the rollout failed; its last groups are not trained on")


def _prepared(
    groups: Iterable[Group], model: MiMo, config: RLConfig, found: Updates
) -> Iterator[tuple[Batch, tuple[float, float]]]:
    """Mini-batches with old log-probabilities and weights; of each (sum of k3, tokens) between engine and trainer."""
    in_rows = pack if config.compute.compile else pack_evenly  # compiled code is for rows of one length
    numbered = enumerate(groups)
    while chosen := list(islice(numbered, config.minibatch_groups)):
        started = time.perf_counter()
        minibatch = in_rows([s for number, group in chosen for s in to_samples(group, number)], config.context)
        packed = time.perf_counter()
        logp, gap = _old_logprobs(model, minibatch, config)
        weights = token_weights(on_device(minibatch, torch.device("cpu")), config.normalization).numpy()
        found.timing["pack_s"] += packed - started
        found.timing["old_logprobs_s"] += time.perf_counter() - packed
        shares = importance_weights(logp, torch.as_tensor(minibatch.old_logprobs), config.importance_cap)
        advantage = minibatch.advantages * shares.numpy()
        yield replace(minibatch, old_logprobs=logp.numpy(), loss_weights=weights, advantages=advantage), gap


@torch.no_grad()
def _old_logprobs(model: MiMo, minibatch: Batch, config: RLConfig) -> tuple[torch.Tensor, tuple[float, float]]:
    """(R, T) log-probabilities under `model`, and how far the engine's lie from them."""
    device = next(model.parameters()).device
    rows = len(minibatch.token_ids)
    parts, mismatch, tokens = [], 0.0, 0.0
    for start in range(0, rows, config.micro_rows or rows):
        part = on_device(minibatch, device, slice(start, start + (config.micro_rows or rows)))
        logp, _ = token_logprobs(model, part, config.temperature)
        parts.append(logp.cpu())
        gap = torch.where(part.loss_weights > 0, part.old_logprobs - logp, 0.0)
        mismatch += float((torch.expm1(-gap) + gap).sum())
        tokens += float(part.loss_weights.sum())
    return torch.cat(parts), (mismatch, tokens)
