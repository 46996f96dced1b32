"""A recipe's figures before it runs: parameters, FLOPs per token, and the pre-training schedule.

Left out for now: memory per GPU and wall time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from openmimo.model.flops import flops_per_token
from openmimo.recipes import Recipe
from openmimo.train.pretrain import PretrainConfig, count_steps, settings_at

HEADERS = {"learning_rate": "rate", "batch_sequences": "batch", "mtp_weight": "MTP", "rope_theta": "RoPE base"}


def plan_of(recipe: Recipe) -> dict[str, Any]:
    """Plain JSON: parameters, FLOPs per token at each context, one schedule row a boundary."""
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
        "schedule": [row_at(recipe.pretrain, tokens) for tokens in boundaries(recipe.pretrain)],
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
    settings = dataclasses.asdict(settings_at(config, tokens))
    settings.pop("mixture")
    return {"tokens": tokens, "step": steps_before(config, tokens), **settings}


def steps_before(config: PretrainConfig, tokens: float) -> int:
    """Steps that begin before `tokens`."""
    stages = [s for s in config.stages if s.until_tokens < tokens]
    rest = next((s for s in config.stages if s.until_tokens >= tokens), None)
    cut = [*stages, dataclasses.replace(rest, until_tokens=tokens)] if rest else stages
    return count_steps(dataclasses.replace(config, stages=tuple(cut))) if tokens > 0 else 0


def table(plan: dict[str, Any]) -> None:
    """Print a plan for a person."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    counts = plan["parameters"]
    console.print(
        f"{plan['recipe']}: {counts['total']:,} parameters ({counts['trunk']:,} trunk + {counts['mtp']:,} MTP), "
        f"{plan['pretrain_tokens']:.4g} pre-training tokens in {plan['pretrain_steps']:,} steps"
    )
    for context, flops in plan["flops_per_token"].items():
        console.print(
            f"FLOPs a token at {int(context):,}: " + ", ".join(f"{k} {v / 1e9:.4g} G" for k, v in flops.items())
        )
    rows = Table(title="pre-training schedule", box=box.SIMPLE, padding=(0, 0))
    for name in plan["schedule"][0]:
        rows.add_column(HEADERS.get(name, name), justify="right", no_wrap=True)
    for row in plan["schedule"]:
        rows.add_row(*(f"{v:,.5g}" if isinstance(v, float) else f"{v:,}" for v in row.values()))
    console.print(rows)
    rl, draft = plan["rl"], plan["draft"]
    console.print(
        f"SFT: {plan['sft']['rows']} rows of {plan['sft']['context']:,}, rate {plan['sft']['rate']:g}; "
        f"draft: {draft['layers']} MTP layers, {draft['parameters']:,} parameters tuned for {draft['steps']} steps; "
        f"RL: {rl['steps']} steps of {rl['responses_per_step']:,} responses, {rl['updates_per_step']} updates each"
    )
