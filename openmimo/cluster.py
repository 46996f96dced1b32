"""A pre-training on N GPUs before it starts: whether it can run, what a GPU holds, how long it takes, what it costs.

The trainer itself runs data parallel with sharded state (FSDP2). Context and tensor parallelism can be planned here and
are not built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, get_args

from openmimo.config import nearest
from openmimo.hardware import GPUS, Gpu
from openmimo.memory import PARTS, Layout, Memory, Recompute, memory_of, moments
from openmimo.model.flops import flops_per_token
from openmimo.recipes import Recipe


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind; state is sharded over all of them."""

    gpus: int
    gpu: str = "h100"
    """A key of `hardware.GPUS`."""
    mfu: float = 0.4
    """Share of the peak that the model's own FLOPs (causal) reach; work done again by recomputation is none of them."""
    price: float | None = None
    """Dollars a GPU hour; None: the kind's round figure."""
    context_parallel: int = 1
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        if self.gpu not in GPUS:
            raise ValueError(
                f"unknown GPU {self.gpu!r}; the nearest is {nearest(self.gpu, GPUS)!r} of {', '.join(GPUS)}"
            )
        for name in ("gpus", "context_parallel", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.mfu <= 1:
            raise ValueError(f"--mfu must be above 0 and at most 1, got {self.mfu}; 0.4 is common")
        if self.price is not None and not 0 <= self.price < math.inf:
            raise ValueError(f"--price must be dollars a GPU hour, 0 or more, got {self.price}")
        if self.gpus % self.apart:
            raise ValueError(
                f"{self.gpus} GPUs cannot be divided by context parallel {self.context_parallel} x tensor parallel "
                f"{self.tensor_parallel}; use a multiple of {self.apart}"
            )

    @property
    def apart(self) -> int:
        """GPUs that share the same rows."""
        return self.context_parallel * self.tensor_parallel

    @property
    def data_parallel(self) -> int:
        return self.gpus // self.apart

    @property
    def kind(self) -> Gpu:
        return GPUS[self.gpu]


def check_cluster(recipe: Recipe, cluster: Cluster) -> None:
    """Refuse what cannot run: rows, contexts or heads that do not divide, and too little memory.

    Only the constant batches must divide over the data-parallel ranks: while the batch grows ranks may hold unequal
    numbers of rows, even none.

    Raises:
        ValueError: with what would be right.
    """
    model, ranks, stages = recipe.model, cluster.data_parallel, recipe.pretrain.stages
    for number, stage in enumerate(stages, 1):
        if stage.context % cluster.context_parallel:
            raise ValueError(
                f"stage {number}'s context {stage.context:,} cannot be divided by context parallel "
                f"{cluster.context_parallel}; {_near(stage.context, cluster.context_parallel)} divides it"
            )
    heads, kv_heads = model.num_attention_heads, model.num_key_value_heads
    if heads % cluster.tensor_parallel or kv_heads % cluster.tensor_parallel:
        raise ValueError(
            f"{heads} heads and {kv_heads} KV heads cannot be divided by tensor parallel {cluster.tensor_parallel}; "
            f"{_near(math.gcd(heads, kv_heads), cluster.tensor_parallel)} divides them"
        )
    every = math.gcd(*(stage.batch_sequences for stage in stages))
    for number, stage in enumerate(stages, 1):
        if stage.batch_sequences % ranks:
            fits = _near(every, ranks)
            raise ValueError(
                f"stage {number}'s {stage.batch_sequences:,} sequences over {ranks} data-parallel ranks are "
                f"{stage.batch_sequences / ranks:.4g} sequences per rank; {fits} ranks divide every batch: use "
                f"--gpus {fits * cluster.apart}, or --context-parallel for more GPUs a row"
            )
    number, memory = _largest(recipe, cluster)
    if memory.total > cluster.kind.memory_bytes:
        raise ValueError(
            f"stage {number} needs {memory.total / 1e9:.4g} GB of memory per GPU at {stages[number - 1].context:,} "
            f"tokens a row with recompute={recipe.pretrain.compute.recompute}, an {cluster.gpu} has "
            f"{cluster.kind.memory_bytes / 1e9:.4g} GB; {_what_fits(recipe, cluster)}"
        )


def layouts(recipe: Recipe, cluster: Cluster | None) -> list[Layout]:
    """How every stage's constant batch lies on a rank; without a cluster on one CPU process."""
    config = recipe.pretrain
    found = []
    for stage in config.stages:
        rows = -(-stage.batch_sequences // (cluster.data_parallel if cluster else 1))
        at_once = min(config.micro_rows or rows, rows)
        found.append(
            Layout(
                rows=at_once,
                context=stage.context,
                dtype=config.compute.dtype,
                recompute=config.compute.recompute,
                optimizer=config.optim.kind,
                ranks=cluster.gpus // cluster.tensor_parallel if cluster else 1,
                passes=-(-rows // at_once),
                chunk_tokens=config.chunk_tokens,
                device="cuda" if cluster else "cpu",
                context_parallel=cluster.context_parallel if cluster else 1,
                tensor_parallel=cluster.tensor_parallel if cluster else 1,
            )
        )
    return found


def memory_plan(recipe: Recipe, cluster: Cluster | None) -> dict[str, Any]:
    """Plain JSON: bytes per rank by stage, and the most of all stages under every recompute mode.

    A stage's `parts` are those of its largest moment and sum to its total; `largest` has each part at its own largest.
    """
    rows: list[dict[str, Any]] = []
    for number, layout in enumerate(layouts(recipe, cluster), 1):
        memory = memory_of(recipe.model, layout)
        rows.append(
            {
                "stage": number,
                "context": layout.context,
                "rows": layout.rows,
                "passes": layout.passes,
                "moment": memory.moment,
                "total_bytes": round(memory.total),
                "parts": {name: round(size) for name, size in memory.parts.items()},
                "largest": {name: round(max(m.parts[name] for m in moments(recipe.model, layout))) for name in PARTS},
            }
        )
    modes = {}
    for mode in get_args(Recompute):
        _, memory = _largest(_with_recompute(recipe, mode), cluster)
        modes[mode] = {"total_bytes": round(memory.total), "activations": round(memory.parts["activations"])}
    compute = recipe.pretrain.compute
    return {
        "device": cluster.gpu if cluster else "cpu",
        "ranks": cluster.gpus if cluster else 1,
        "dtype": compute.dtype,
        "recompute": compute.recompute,
        "optimizer": recipe.pretrain.optim.kind,
        **({"capacity_bytes": round(cluster.kind.memory_bytes)} if cluster else {}),
        "total_bytes": max(row["total_bytes"] for row in rows),
        "stages": rows,
        "by_recompute": modes,
    }


def time_plan(recipe: Recipe, cluster: Cluster) -> dict[str, Any]:
    """Plain JSON: wall time and cost of pre-training, from its FLOPs (causal), the peak and the MFU."""
    mtp = recipe.model.num_nextn_predict_layers > 0
    flops, began = 0.0, 0.0
    rates = []
    for stage in recipe.pretrain.stages:
        per_token = flops_per_token(recipe.model, stage.context, causal=True, mtp=mtp)
        flops += (stage.until_tokens - began) * per_token
        rates.append(cluster.kind.bf16_flops * cluster.mfu / per_token)
        began = stage.until_tokens
    wall_s = flops / (cluster.gpus * cluster.kind.bf16_flops * cluster.mfu)
    price = cluster.kind.dollars_per_hour if cluster.price is None else cluster.price
    gpu_hours = wall_s / 3600 * cluster.gpus
    return {
        "gpu": cluster.gpu,
        "gpus": cluster.gpus,
        "data_parallel": cluster.data_parallel,
        "context_parallel": cluster.context_parallel,
        "tensor_parallel": cluster.tensor_parallel,
        "mfu": cluster.mfu,
        "peak_flops": cluster.kind.bf16_flops,
        "flops": flops,
        "tokens_per_s_per_gpu": rates,
        "wall_s": wall_s,
        "wall_days": wall_s / 86_400,
        "gpu_hours": gpu_hours,
        "dollars_per_gpu_hour": price,
        "cost_dollars": gpu_hours * price,
    }


def _largest(recipe: Recipe, cluster: Cluster | None) -> tuple[int, Memory]:
    """The stage that needs most, from 1, and what it needs."""
    found = [(n, memory_of(recipe.model, layout)) for n, layout in enumerate(layouts(recipe, cluster), 1)]
    return max(found, key=lambda pair: pair[1].total)


def _what_fits(recipe: Recipe, cluster: Cluster) -> str:
    limit = cluster.kind.memory_bytes
    for mode in ("selective", "full"):
        if _largest(_with_recompute(recipe, mode), cluster)[1].total <= limit:
            return f"--set pretrain.compute.recompute={mode} fits"
    every = math.gcd(*(stage.batch_sequences for stage in recipe.pretrain.stages))
    for ranks in (n for n in range(cluster.data_parallel + 1, every + 1) if every % n == 0):
        for recompute in (recipe.pretrain.compute.recompute, "full"):
            more = replace(cluster, gpus=ranks * cluster.apart)
            if _largest(_with_recompute(recipe, recompute), more)[1].total <= limit:
                changed = recompute != recipe.pretrain.compute.recompute
                return f"--gpus {more.gpus}{' with recompute=full' if changed else ''} fits"
    return "use bfloat16, fewer rows at a time, or GPUs with more memory"


def _with_recompute(recipe: Recipe, mode: Any) -> Recipe:
    compute = replace(recipe.pretrain.compute, recompute=mode)
    return replace(recipe, pretrain=replace(recipe.pretrain, compute=compute))


def _near(number: int, wanted: int) -> int:
    """The largest divisor of `number` that is at most `wanted`."""
    return max(n for n in range(1, min(number, wanted) + 1) if number % n == 0)
