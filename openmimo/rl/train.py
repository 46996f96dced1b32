"""The RL loop (MiMo 3.3, 3.4): read it from top to bottom, it is walk 1.

problem -> render -> generate -> judge -> reward -> seamless (these six meet in `rollout.driver`) -> advantages ->
pack -> old log-probs -> updates -> weights to the engine.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch

from openmimo import checkpoint
from openmimo.data.chat import Chat
from openmimo.data.pack import Sample, pack
from openmimo.log import Log, progress
from openmimo.model.mimo import MiMo
from openmimo.rl.advantage import advantages
from openmimo.rl.config import RLConfig
from openmimo.rl.loss import policy_loss, token_weights
from openmimo.rl.reward import Scheme, reward
from openmimo.rl.sampling import Draws, ProblemPool, is_valid
from openmimo.rollout.driver import BatchResult, Engine, Judge, rollout_batch
from openmimo.rollout.history import History, Outcome
from openmimo.rollout.seamless import Seamless
from openmimo.train.loss import token_logprobs
from openmimo.train.optim import Optimizer
from openmimo.train.step import TrainState, on_device, train_step
from openmimo.types import Group, Problem, Sampling


class TrainableEngine(Engine, Protocol):
    """An engine that takes new weights."""

    def update_weights(self, state_dict: dict[str, torch.Tensor], version: int) -> None: ...


def train(
    model: MiMo,
    problems: Sequence[Problem],
    config: RLConfig,
    *,
    chat: Chat,
    engine: TrainableEngine,
    judge: Judge,
    seed: int,
    out: Path,
    checkpoints: Path,
    validate: Callable[[int], dict[str, float]] | None = None,
) -> TrainState:
    """Train the policy for `config.steps` iterations, from the newest checkpoint if there is one.

    Args:
        model: the policy; its MTP layers stay frozen.
        engine: generates; receives the policy's weights after every iteration.
        out: the run folder, for metrics and samples.
        validate: policy version -> metrics, called every `validate_every` steps with the engine up to date.
    """
    check_lengths(problems, chat, config)
    freeze_mtp(model)
    state = TrainState(model, Optimizer(model, config.optim))
    pool = ProblemPool(problems, seed, config.alpha)
    history = History({"main": config.prior, "easy": 0.1})
    saved = checkpoint.latest(checkpoints)
    if saved:
        state.load_state_dict(saved["train"])
        pool.load_state_dict(saved["pool"])
        history.load_state(saved["history"])
    done = saved["iterations"] if saved else 0
    engine.update_weights(model.state_dict(), done)
    loss = policy_loss(clip_low=config.clip_low, clip_high=config.clip_high, temperature=config.temperature)

    with Log(out, "rl", done) as log:
        for step in progress(range(done, config.steps), "rl", unit="steps"):
            clock = _Laps()
            draws = pool.draws(step)
            batch = rollout_batch(
                engine,
                judge,
                draw=draws,
                render=lambda problem: chat.render_prompt(problem.prompt),
                decode=chat.decode,
                sampling=Sampling(
                    config.max_new_tokens,
                    temperature=config.temperature,
                    top_p=config.top_p,
                    stop_token_ids=chat.stop_token_ids,
                ),
                num_rollouts=config.num_rollouts,
                valid=lambda group: score(group, config.scheme),
                policy=policy_of(config, history, draws),
                seed=seed,
                step=step,
            )
            clock.lap("rollout_s")
            samples = [to_samples(group, number) for number, group in enumerate(batch.groups)]
            metrics = update(state, samples, loss, config, seed=seed, step=step)
            clock.lap("train_s")
            pool.apply(step, batch.prefix, draws)
            history.update(learnt(batch))
            engine.update_weights(model.state_dict(), step + 1)
            facts = describe(batch, config)
            if validate and config.validate_every and (step + 1) % config.validate_every == 0:
                facts.update(validate(step + 1))
                clock.lap("validate_s")
            log.step(
                step,
                tokens=state.tokens,
                timing={**clock.laps, **cost(batch)},
                **metrics,
                **facts,
                easy_pool=len(pool.easy),
            )
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                log.sync()
                checkpoint.save(
                    checkpoints,
                    step + 1,
                    {
                        "train": state.state_dict(),
                        "pool": pool.state_dict(),
                        "history": history.state(),
                        "iterations": step + 1,
                    },
                )
    return state


def policy_of(config: RLConfig, history: History, draws: Draws) -> Seamless:
    """What decides over a step's launches, with what is known before it begins."""

    def known(ask: Callable[[str, str], float]) -> Callable[[int], float]:
        def of_launch(number: int) -> float:
            problem, stratum = draws(number)
            return ask(problem.id, stratum)

        return of_launch

    return Seamless(
        config.batch_groups,
        known(history.chance),
        max_active=config.max_active_groups,
        max_launched=config.batch_groups * config.max_launch_factor,
        risk=config.risk,
        length=known(history.length) if config.longest_first else None,
    )


def score(group: Group, scheme: Scheme) -> tuple[bool | None, Group]:
    """Fill in the rewards; whether the group carries a gradient, or None if the judge failed on any of it."""
    points = [reward(group.problem, verdict, scheme=scheme) for verdict in group.verdicts]
    if any(p is None for p in points):
        return None, group
    rewards = tuple(p for p in points if p is not None)
    return is_valid(rewards), replace(group, rewards=rewards)


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
    state: TrainState, groups: Sequence[list[Sample]], loss: Any, config: RLConfig, *, seed: int, step: int
) -> dict[str, float]:
    """Mini-batches of whole groups in a seeded order (decision 0011); means of their metrics.

    The old log-probabilities are the trainer's, for all mini-batches computed before the first update (decision 0019).
    `engine_kl` is the mean estimate (k3) of the KL between the engine's log-probabilities and the trainer's.
    """
    order = list(range(len(groups)))
    random.Random(f"{seed}:minibatch:{step}").shuffle(order)
    size = config.minibatch_groups
    minibatches = [
        pack([s for n in order[i : i + size] for s in groups[n]], config.context) for i in range(0, len(order), size)
    ]
    device = next(state.model.parameters()).device
    mismatch, tokens = 0.0, 0.0
    for n, minibatch in enumerate(minibatches):
        rows = len(minibatch.token_ids)
        parts = []
        for start in range(0, rows, config.micro_rows or rows):
            part = on_device(minibatch, device, slice(start, start + (config.micro_rows or rows)))
            with torch.no_grad():
                logp, _ = token_logprobs(state.model, part, config.temperature)
            parts.append(logp.cpu())
            gap = torch.where(part.loss_weights > 0, part.old_logprobs - logp, 0.0)
            mismatch += float((torch.expm1(-gap) + gap).sum())
            tokens += float(part.loss_weights.sum())
        weights = token_weights(on_device(minibatch, torch.device("cpu")), config.normalization).numpy()
        minibatches[n] = replace(minibatch, old_logprobs=torch.cat(parts).numpy(), loss_weights=weights)
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    collected: dict[str, list[float]] = defaultdict(list)
    for minibatch in minibatches:
        metrics = train_step(
            state, minibatch, loss, learning_rate=config.learning_rate * warm, micro_rows=config.micro_rows
        )
        for name, value in metrics.items():
            collected[name].append(value)
    means = {name: fmean(values) for name, values in collected.items()}
    return {"loss": 0.0, **means, "updates": len(minibatches), "engine_kl": mismatch / max(tokens, 1.0)}


def describe(batch: BatchResult, config: RLConfig) -> dict[str, float]:
    """What the judged prefix showed: a function of seed and weights, never of timing."""
    facts: dict[str, list[float]] = defaultdict(list)
    for group in batch.prefix:
        for rollout, verdict, points in zip(group.rollouts, group.verdicts, group.rewards or (), strict=False):
            accepted = float(verdict.status == "accepted")
            facts["reward"].append(points)
            facts["accepted"].append(accepted)
            facts[f"accepted_{group.problem.kind}"].append(accepted)
            facts["length"].append(len(rollout.token_ids))
            facts[f"length_{'accepted' if accepted else 'rejected'}"].append(len(rollout.token_ids))
            facts["truncated"].append(float(rollout.finish_reason == "length"))
    dropped = sum(valid is None for valid in batch.outcomes)
    valid = sum(valid is True for valid in batch.outcomes)
    return {
        **{name: fmean(values) for name, values in facts.items()},
        "valid_share": valid / max(1, len(batch.outcomes)),
        "groups": len(batch.groups),
        "prefix_groups": len(batch.prefix),
        "dropped_groups": dropped,
    }


def learnt(batch: BatchResult) -> list[Outcome]:
    """What later steps may know of this one."""
    return [
        Outcome(group.problem.id, group.stratum, valid, max(len(r.token_ids) for r in group.rollouts))
        for group, valid in zip(batch.prefix, batch.outcomes, strict=True)
    ]


def cost(batch: BatchResult) -> dict[str, float]:
    """What the batch took beyond itself: depends on timing."""
    return {
        "generate_s": batch.timing.generate_s,
        "wait_for_judge_s": batch.timing.wait_for_judge_s,
        "idle": batch.timing.idle_ratio,
        "launched_groups": batch.stats.launched,
        "aborted_groups": batch.stats.aborted,
        "waste": batch.stats.waste,
    }


def check_lengths(problems: Sequence[Problem], chat: Chat, config: RLConfig) -> None:
    """Every prompt with its longest response must fit a packed row: known before anything is generated.

    Raises:
        ValueError: for one that does not.
    """
    for problem in problems:
        longest = len(chat.render_prompt(problem.prompt)) + config.max_new_tokens
        if longest > config.context:
            raise ValueError(
                f"problem {problem.id} with its response may take {longest} tokens, a row has {config.context}; "
                f"raise rl.context or lower rl.max_new_tokens={config.max_new_tokens}"
            )


def freeze_mtp(model: MiMo) -> None:
    """MTP layers are not trained in RL (MiMo, release notes)."""
    for name, parameter in model.named_parameters():
        if ".mtp_layers." in name:
            parameter.requires_grad_(False)


class _Laps:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
