"""The RL loop (MiMo 3.3, 3.4): read it from top to bottom, it is walk 1.

problem -> render -> generate -> judge -> reward -> seamless (these six meet in `rollout.driver`) -> advantages ->
pack -> old log-probs -> updates (`update`) -> weights to the engine.

RUN/rollouts/groups-STEP.jsonl keeps a running step's judged groups, a checkpoint all that decides between steps, so a
kill at any moment loses neither, and on a CPU in float32 the run that goes on equals one that was left alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from openmimo import checkpoint
from openmimo.data.chat import Chat
from openmimo.engine.sync import load_weights
from openmimo.log import Log, say
from openmimo.model.mimo import MiMo
from openmimo.rl.budget import Budget
from openmimo.rl.config import RLConfig
from openmimo.rl.loss import policy_loss
from openmimo.rl.metrics import Mixes, cost, facts, spread
from openmimo.rl.reward import less_penalty, reward
from openmimo.rl.sampling import Draws, ProblemPool, is_valid
from openmimo.rl.show import Table
from openmimo.rl.stops import Stops
from openmimo.rl.update import Background, update
from openmimo.rollout import trace
from openmimo.rollout.driver import BatchResult, Engine, Judge, rollout_batch
from openmimo.rollout.history import History, Outcome
from openmimo.rollout.journal import Journal, keep_steps
from openmimo.rollout.seamless import Seamless
from openmimo.rows import write_rows
from openmimo.stop import Stopped, StopSignal
from openmimo.train.compute import Worker, copy_of
from openmimo.train.optim import Optimizer
from openmimo.train.step import TrainState
from openmimo.types import Group, Problem, Rollout, Sampling


class TrainableEngine(Engine, Protocol):
    """An engine that takes new weights."""

    def update_weights(self, state_dict: dict[str, torch.Tensor], version: int) -> None: ...


class Lasting(Protocol):
    """What a checkpoint keeps of a run's course."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Decides = Callable[[RLConfig, History, Draws], Seamless]

Validate = Callable[[int], tuple[dict[str, float], dict[str, float]]]
"""policy version -> (metrics, `validation` among them, the mean that decides which model is best; timing)."""


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
    slots: int = 0,
    seen: Iterable[tuple[str, float, float]] = (),
    mixes: Mixes | None = None,
    validate: Validate | None = None,
    save_model: Callable[[Path], object] | None = None,
    decides: Decides | None = None,
) -> TrainState:
    """Train the policy for `config.steps` iterations, from the newest checkpoint if there is one.

    Args:
        model: the policy; its MTP layers stay frozen.
        engine: generates, with weights of its own; receives the policy's after every iteration.
        out: the run folder, for metrics, samples and rollouts.
        slots: requests that the engine can advance at once; 0: not known.
        seen: (problem id, pass rate, tokens of its longest response), from curation, before the first step.
        mixes: says whether a response (second) to a prompt mixes languages; None: not looked at.
        validate: called every `validate_every` steps with the engine up to date.
        save_model: writes the policy as a model folder; called when validation finds it the best so far.
        decides: what launches, stops and selects in a step; None: `policy_of`.

    Raises:
        ValueError: for a prompt that leaves no room for a response, or a run that nothing can come of any more.
        Stopped: after SIGTERM, with all saved: within a step's rollout if a checkpoint holds all before it, else at its
            end.
    """
    check_lengths(problems, chat, config)
    freeze_mtp(model)
    state = TrainState(model, Optimizer(model, config.optim), Worker(model, config.compute))
    pool = ProblemPool(problems, seed, config.alpha, solved=config.solved)
    budget = Budget(config.budget, config.max_new_tokens)
    history = History({"main": config.prior, "easy": 0.1})
    for problem_id, pass_rate, tokens in seen:
        history.seed_with(problem_id, pass_rate, config.num_rollouts, tokens)
    stops = Stops(config.no_groups_steps, config.not_finite_updates, config.least_entropy, config.collapsed_steps)
    best = Best(out, save_model)
    lasting: dict[str, Lasting] = {
        "train": state,
        "pool": pool,
        "budget": budget,
        "history": history,
        "stops": stops,
        "best": best,
    }
    done = 0
    saved = checkpoint.latest(checkpoints, tell=say)
    if saved:
        done = saved["iterations"]
        for name, part in lasting.items():
            part.load_state_dict(saved[name])
    rollouts = out / "rollouts"
    resumable = {done}  # steps at which a resume may begin
    keep_steps(rollouts, resumable)
    trace.drop_from(rollouts / "trace.jsonl", done)
    engine.update_weights(model.state_dict(), done)
    frozen = copy_of(model, getattr(torch, config.compute.dtype)) if config.stream_updates else None
    loss = policy_loss(clip_low=config.clip_low, clip_high=config.clip_high, temperature=config.temperature)
    sampling = Sampling(
        budget.now,
        temperature=config.temperature,
        top_p=config.top_p,
        stop_token_ids=chat.stop_token_ids,
    )
    checkpoint_s = 0.0

    def mixed(problem: Problem, rollout: Rollout) -> bool:
        return mixes is not None and mixes(problem.prompt, chat.decode(rollout.token_ids))

    with (
        StopSignal() as signal,
        checkpoint.Writer(checkpoints, keep_last=config.keep_last) as writer,
        Log(out, "rl", done) as log,
        Table(config.steps, done) as table,
    ):
        for step in range(done, config.steps):
            laps = _Laps()
            draws = pool.draws(step)
            policy = (decides or policy_of)(config, history, draws)
            learn = functools.partial(update, state, loss=loss, config=config, step=step, frozen=frozen)
            with (
                Journal(rollouts, seed=seed, step=step, policy_version=step, problem=pool.by_id) as journal,
                Background(learn) if frozen else contextlib.nullcontext() as background,
            ):
                batch = rollout_batch(
                    engine,
                    judge,
                    draw=draws,
                    render=lambda problem: chat.render_prompt(problem.prompt),
                    decode=chat.decode,
                    sampling=replace(sampling, max_new_tokens=budget.now),
                    num_rollouts=config.num_rollouts,
                    valid=lambda group: score(group, config, mixed),
                    policy=policy,
                    seed=seed,
                    step=step,
                    context=config.context,
                    slots=slots,
                    known=journal.groups,
                    on_judged=functools.partial(_keep, journal, signal, step, step == max(resumable)),
                    on_selected=background.put if background else None,
                )
                laps.lap("rollout_s")
                updates = background.finish() if background else learn(batch.groups)
            laps.lap("train_s")
            pool.apply(step, batch.prefix, draws)
            history.update(learnt(batch))
            engine.update_weights(model.state_dict(), step + 1)
            if frozen:
                load_weights(frozen, model.state_dict())
            laps.lap("weights_s")
            metrics = {**updates.metrics, **facts(batch, decode=chat.decode, mixes=mixes), "easy_pool": len(pool.easy)}
            metrics["budget"] = budget.now
            if "reward" in metrics:
                budget.observe(step, reward=metrics["reward"], truncated=metrics["truncated"])
            timing = {**updates.timing, **cost(batch), "checkpoint_s": checkpoint_s}
            if validate and config.validate_every and (step + 1) % config.validate_every == 0:
                with table.aside():
                    found, took = validate(step + 1)
                metrics.update(found)
                timing.update(took)
                best.look(step + 1, found["validation"])
                laps.lap("validate_s")
            timing.update(laps.total())
            if config.show_every and step % config.show_every == 0:
                shown = spread(batch.prefix, config.num_shown)
                write_rows(out / "samples" / f"rl-{step:06d}.jsonl", (_shown(group, chat) for group in shown))
            if not batch.num_known:
                _append_trace(rollouts / "trace.jsonl", step, batch, config, type(policy).__name__, laps.laps, slots)
            log.step(step, tokens=state.tokens, timing=timing, **metrics)
            table.step(step, {**metrics, **timing})
            stops.watch(
                step,
                num_valid=len(batch.groups),
                rewards=[group.rewards for group in batch.prefix],
                entropy=metrics.get("entropy"),
                not_finite_in_a_row=state.guard.in_a_row,
            )
            ends, stopping = step + 1 == config.steps, signal.asked
            if ends or stopping or (step + 1) % config.checkpoint_every == 0:
                started = time.perf_counter()
                log.sync()
                states = {name: part.state_dict() for name, part in lasting.items()}
                writer.save(step + 1, {**states, "iterations": step + 1})
                best.sweep()
                resumable = {max(resumable), step + 1}  # the one before is on disk; this one is being written
                checkpoint_s = time.perf_counter() - started
            keep_steps(rollouts, {*resumable, step + 1})
            if stopping and not ends:
                writer.wait()
                raise Stopped(f"rl stopped by SIGTERM after step {step + 1:,} of {config.steps:,}; all is saved")
    keep_steps(rollouts, set())
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


def score(
    group: Group, config: RLConfig, mixed: Callable[[Problem, Rollout], bool] | None = None
) -> tuple[bool | None, Group]:
    """Fill in the rewards; whether the group carries a gradient, or None if the judge failed on any of it.

    Args:
        mixed: whether a response mixes languages, for `language_penalty`.
    """
    weights = config.level_weights or None
    points = [reward(group.problem, verdict, scheme=config.scheme, weights=weights) for verdict in group.verdicts]
    if any(p is None for p in points):
        return None, group
    rewards = tuple(p for p in points if p is not None)
    if config.language_penalty and mixed:
        rewards = tuple(
            less_penalty(p, mixes_languages=mixed(group.problem, rollout), penalty=config.language_penalty)
            for p, rollout in zip(rewards, group.rollouts, strict=True)
        )
    return is_valid(rewards), replace(group, rewards=rewards)


def learnt(batch: BatchResult) -> list[Outcome]:
    """What later steps may know of this one."""
    return [
        Outcome(group.problem.id, group.stratum, valid, max(len(r.token_ids) for r in group.rollouts))
        for group, valid in zip(batch.prefix, batch.outcomes, strict=True)
    ]


def check_lengths(problems: Sequence[Problem], chat: Chat, config: RLConfig) -> None:
    """Every prompt must leave room for a response in a packed row: known before anything is generated.

    Raises:
        ValueError: for one that does not.
    """
    for problem in problems:
        length = len(chat.render_prompt(problem.prompt))
        if length >= config.context:
            raise ValueError(
                f"the prompt of problem {problem.id} takes {length} tokens and a row holds {config.context}: nothing "
                "is left for a response; raise rl.context or leave the problem out"
            )


def freeze_mtp(model: MiMo) -> None:
    """MTP layers are not trained in RL (MiMo, release notes)."""
    for name, parameter in model.named_parameters():
        if ".mtp_layers." in name:
            parameter.requires_grad_(False)


def _keep(journal: Journal, signal: StopSignal, step: int, saved: bool, group: Group) -> None:
    """Write a judged group; asked to stop, and with a checkpoint of all before this step, end at once.

    Raises:
        Stopped: the journal and that checkpoint hold all there is.
    """
    journal.add(group)
    if signal.asked and saved:
        raise Stopped(f"rl stopped by SIGTERM in step {step + 1:,}; its judged groups are kept, all before it is saved")


def _append_trace(
    path: Path, step: int, batch: BatchResult, config: RLConfig, policy: str, laps: dict[str, float], slots: int
) -> None:
    """What the simulator needs to play the step again."""
    trace.append(
        path,
        step,
        batch.spans,
        batch_groups=config.batch_groups,
        num_rollouts=config.num_rollouts,
        policy=policy,
        wall_s=laps["rollout_s"],
        train_s=laps["train_s"],
        slots=slots or batch.timing.peak_requests,
        rate=batch.rate,
    )


class Best:
    """The model that did best in validation: RUN/best.json names its folder, RUN/models/rl-best-STEP.

    Args:
        save_model: writes the policy as a model folder; None: only the step is kept.
    """

    def __init__(self, out: Path, save_model: Callable[[Path], object] | None) -> None:
        self.out, self._save_model = out, save_model
        self.found: dict[str, Any] | None = None
        """`step` (iterations done), `validation`, `model`."""
        self._in_checkpoint: dict[str, Any] | None = None

    def look(self, step: int, validation: float) -> None:
        """Keep the policy if it is better than the best so far."""
        if self.found and validation <= self.found["validation"]:
            return
        folder = Path("models") / f"rl-best-{step:06d}"
        if self._save_model:
            self._save_model(self.out / folder)
        self.found = {"step": step, "validation": validation, "model": str(folder) if self._save_model else None}
        self._point()

    def sweep(self) -> None:
        """Remove the folders that neither this checkpoint nor the one before it names."""
        kept = {found["model"] for found in (self.found, self._in_checkpoint) if found}
        for folder in (self.out / "models").glob("rl-best-*"):
            if str(folder.relative_to(self.out)) not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        self._in_checkpoint = self.found

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.found = self._in_checkpoint = state["found"]
        self._point()

    def _point(self) -> None:
        if self.found:
            checkpoint.write_text(self.out / "best.json", json.dumps(self.found) + "\n")


def _shown(group: Group, chat: Chat) -> dict[str, Any]:
    """One problem with its responses, to read."""
    rewards = group.rewards or (None,) * len(group.rollouts)
    return {
        "problem": dataclasses.asdict(group.problem),
        "responses": [
            {"text": chat.decode(r.token_ids), "status": v.status, "finish_reason": r.finish_reason, "reward": points}
            for r, v, points in zip(group.rollouts, group.verdicts, rewards, strict=True)
        ],
    }


class _Laps:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._started = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now

    def total(self) -> dict[str, float]:
        """The phases, and `step_s` up to now."""
        return {**self.laps, "step_s": time.perf_counter() - self._started}
