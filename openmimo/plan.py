"""A recipe's figures before it runs: parameters, FLOPs per token, memory, the pre-training schedule, time and cost.

Time and cost are those of pre-training alone; SFT, draft and RL are counted in steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from openmimo.cluster import Cluster, check_cluster, memory_plan, time_plan
from openmimo.model.flops import flops_per_token
from openmimo.recipes import Recipe
from openmimo.train.pretrain import PretrainConfig, check_stages, count_steps, first_steps, settings_at

HEADERS = {"learning_rate": "rate", "batch_sequences": "batch", "mtp_weight": "MTP", "rope_theta": "RoPE base"}
SHORT = {"optimizer": "optim.", "gradients": "grads", "activations": "activ.", "attention": "attn"}


def plan_of(recipe: Recipe, cluster: Cluster | None = None, *, at: Sequence[float] = ()) -> dict[str, Any]:
    """Plain JSON: parameters, FLOPs per token at each context, memory per rank, one schedule row a boundary.

    Args:
        cluster: GPUs to run on: adds wall time and cost. None: memory is that of one CPU process.
        at: token counts to give schedule rows for.

    Raises:
        ValueError: for a plan that cannot run, with what would be right.
    """
    check_stages(recipe.pretrain)
    if cluster:
        check_cluster(recipe, cluster)
    trunk, mtp = recipe.model.num_parameters()
    _, one_layer = dataclasses.replace(recipe.model, num_nextn_predict_layers=1).num_parameters()
    contexts = sorted({stage.context for stage in recipe.pretrain.stages})
    return {
        "recipe": recipe.name,
        "parameters": {"trunk": trunk, "mtp": mtp, "total": trunk + mtp},
        "flops_per_token": {
            str(context): {
                f"{mask}_{'with' if mtp_on else 'without'}_mtp": flops_per_token(
                    recipe.model, context, causal=mask == "causal", mtp=mtp_on
                )
                for mask in ("causal", "full")
                for mtp_on in (True, False)
            }
            for context in contexts
        },
        "schedule": rows_at(recipe.pretrain, boundaries(recipe.pretrain)),
        **({"at": rows_at(recipe.pretrain, at)} if at else {}),
        "memory": memory_plan(recipe, cluster),
        **({"time": time_plan(recipe, cluster)} if cluster else {}),
        "pretrain_tokens": recipe.pretrain.total_tokens,
        "pretrain_steps": count_steps(recipe.pretrain),
        "sft": {"rows": recipe.sft.batch_rows, "context": recipe.sft.context, "rate": recipe.sft.learning_rate},
        "draft": {
            "layers": recipe.draft.train.num_layers,
            "chained": recipe.draft.train.chained,
            "steps": recipe.draft.train.steps,
            "parameters": (recipe.draft.train.num_layers - 1) * one_layer,
        },
        "rl": {
            "steps": recipe.rl.steps,
            "responses_per_step": recipe.rl.batch_groups * recipe.rl.num_rollouts,
            "updates_per_step": -(-recipe.rl.batch_groups // recipe.rl.minibatch_groups),
        },
    }


def boundaries(config: PretrainConfig) -> list[float]:
    """Token counts at which any schedule changes its shape, and the end."""
    marks = {0.0, config.batch_ramp_tokens}
    marks |= {piece.until_tokens for piece in config.learning_rate + config.mtp_weight}
    marks |= {stage.until_tokens for stage in config.stages}
    return sorted(marks)


def row_at(config: PretrainConfig, tokens: float) -> dict[str, Any]:
    """The first step that begins at or after `tokens`, and every setting at exactly that count."""
    return rows_at(config, [tokens])[0]


def rows_at(config: PretrainConfig, marks: Sequence[float]) -> list[dict[str, Any]]:
    """`row_at` of every mark, in one walk over the run."""
    steps = first_steps(config, marks)
    rows = []
    for tokens in marks:
        settings = dataclasses.asdict(settings_at(config, tokens))
        settings.pop("mixture")
        rows.append({"tokens": tokens, "step": steps[tokens], **settings})
    return rows


def steps_before(config: PretrainConfig, tokens: float) -> int:
    """Steps that begin before `tokens`."""
    return first_steps(config, [tokens])[tokens]


def token_counts(text: str, config: PretrainConfig) -> list[float]:
    """`84e9,10.284e12` as numbers within the run.

    Raises:
        ValueError: naming what is no token count of this run.
    """
    found = []
    for word in text.split(","):
        try:
            tokens = float(word)
        except ValueError as error:
            raise ValueError(f"--at takes token counts such as 84e9,10.284e12, got {word.strip()!r}") from error
        if not 0 <= tokens <= config.total_tokens or math.isnan(tokens):
            raise ValueError(f"--at {word.strip()}: the run goes from 0 to {config.total_tokens:.6g} tokens")
        found.append(tokens)
    return found


def table(plan: dict[str, Any]) -> None:
    """Print a plan for a person: one screen."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    counts = plan["parameters"]
    console.print(
        f"{plan['recipe']}: {counts['total']:,} parameters ({counts['trunk']:,} trunk + {counts['mtp']:,} MTP), "
        f"{_amount(plan['pretrain_tokens'])} pre-training tokens in {plan['pretrain_steps']:,} steps"
    )

    def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        grid = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0), title_justify="left", show_edge=False)
        for name in head:
            grid.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            grid.add_row(*row)
        console.print(grid)

    contexts = list(plan["flops_per_token"])
    kinds = list(plan["flops_per_token"][contexts[0]])
    show(
        "GFLOPs a token",
        ["context", *(kind.replace("_", " ") for kind in kinds)],
        [
            [f"{int(context):,}", *(f"{plan['flops_per_token'][context][kind] / 1e9:,.4g}" for kind in kinds)]
            for context in contexts
        ],
    )
    for key, title in (("schedule", "schedule"), ("at", "at")):
        if key in plan:
            show(
                title,
                [HEADERS.get(name, name) for name in plan[key][0]],
                [[_amount(row.pop("tokens")), *map(_number, row.values())] for row in map(dict, plan[key])],
            )
    _show_memory(console, show, plan["memory"])
    if "time" in plan:
        time = plan["time"]
        console.print(
            f"time: {time['flops']:.4g} FLOPs at {time['mfu']:.0%} of {time['gpus']:,} x "
            f"{time['peak_flops'] / 1e12:,.0f} TFLOP/s: {time['wall_days']:,.4g} days; {time['gpu_hours']:,.0f} GPU "
            f"hours at ${time['dollars_per_gpu_hour']:g}: ${time['cost_dollars']:,.0f} (pre-training alone)"
        )
    rl, draft = plan["rl"], plan["draft"]
    console.print(
        f"SFT: {plan['sft']['rows']} rows of {plan['sft']['context']:,}, rate {plan['sft']['rate']:g}; "
        f"draft: {draft['layers']} MTP layers, {draft['parameters']:,} parameters tuned for {draft['steps']} steps; "
        f"RL: {rl['steps']} steps of {rl['responses_per_step']:,} responses, {rl['updates_per_step']} updates each"
    )


def _number(value: float) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"


def _amount(tokens: float) -> str:
    """Tokens as the paper writes them."""
    for unit, size in (("T", 1e12), ("B", 1e9)):
        if tokens >= size:
            return f"{tokens / size:,.8g} {unit}"
    return f"{tokens:,.10g}"


def _show_memory(console: Any, show: Any, memory: dict[str, Any]) -> None:
    on_gpu = "capacity_bytes" in memory
    where = f"each of {memory['ranks']:,} {memory['device']}" if on_gpu else "one CPU process"
    stages = memory["stages"]
    names = [name for name in stages[0]["largest"] if any(row["largest"][name] for row in stages)]
    unit, scale = ("GB", 1e9) if memory["total_bytes"] >= 1e9 else ("MB", 1e6)

    def cells(parts: dict[str, int]) -> list[str]:
        return [f"{parts[name] / scale:,.3g}" for name in names]

    last = max(stages, key=lambda row: row["total_bytes"])
    show(
        f"memory of {where}, {unit}: {memory['dtype']}, recompute {memory['recompute']}, {memory['optimizer']}",
        ["stage", "rows", "at", *(SHORT.get(name, name) for name in names), "total"],
        [
            *(
                [
                    str(row["stage"]),
                    f"{row['rows']:,}",
                    row["moment"],
                    *cells(row["parts"]),
                    f"{row['total_bytes'] / scale:,.4g}",
                ]
                for row in stages
            ),
            [str(last["stage"]), f"{last['rows']:,}", "largest", *cells(last["largest"]), ""],
        ],
    )
    modes = ", ".join(
        f"{mode} {size['total_bytes'] / scale:,.4g} {unit} (activations {size['activations'] / scale:,.4g})"
        for mode, size in memory["by_recompute"].items()
    )
    has = f"; {memory['device']} has {memory['capacity_bytes'] / 1e9:g} GB" if on_gpu else ""
    console.print(f"by recompute: {modes}{has}")
