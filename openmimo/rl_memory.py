"""RL on a folder of one's own, before it runs: the recipe as folder and machine need it, and whether it fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from openmimo.config import nearest, with_overrides
from openmimo.data.chat import Chat
from openmimo.engine.engine import EngineConfig
from openmimo.engine.runner import bytes_per_block
from openmimo.hardware import GPUS
from openmimo.log import say
from openmimo.memory import Colocated, Layout, Memory, rl_memory_of
from openmimo.model.config import MiMoConfig
from openmimo.recipes import Recipe
from openmimo.sft import open_start
from openmimo.train.compute import ComputeConfig


def plan_folder(recipe: Recipe, model: Path, gpu: str | None = None) -> dict[str, Any]:
    """Plain JSON: the memory of RL on a folder, by part, before it runs; on a kind of `hardware.GPUS`, or a CPU.

    Raises:
        ValueError: for a folder that cannot be trained, or an unknown GPU.
    """
    if gpu is not None and gpu not in GPUS:
        raise ValueError(f"unknown GPU {gpu!r}; the nearest is {nearest(gpu, GPUS)!r} of {', '.join(GPUS)}")
    device = "cpu" if gpu is None else "cuda"
    recipe, _, shape = fitted(recipe, model, device)
    memory = memory_needed(shape, recipe, device)
    room = free_bytes(device) if gpu is None else GPUS[gpu].memory_bytes
    trunk, mtp = shape.num_parameters()
    fits = memory.total <= room
    return {
        "model": str(model),
        "parameters": {"trunk": trunk, "mtp": mtp},
        "device": gpu or "cpu",
        "dtype": recipe.rl.compute.dtype,
        "moment": memory.moment,
        "parts": {part: round(size) for part, size in memory.parts.items() if size},
        "total_bytes": round(memory.total),
        "capacity_bytes": round(room),
        "fits": fits,
        **({} if fits else {"instead": _what_fits(shape, recipe, device, room)}),
    }


def show_plan(plan: dict[str, Any]) -> None:
    """`plan_folder` for a person."""
    counts = plan["parameters"]
    print(f"{plan['model']}: {counts['trunk']:,} parameters trained, {counts['mtp']:,} of MTP layers that stay")
    for part, size in plan["parts"].items():
        print(f"{part:<12}{size / 1e9:>10.3f} GB")
    print(
        f"{'total':<12}{plan['total_bytes'] / 1e9:>10.3f} GB of {plan['capacity_bytes'] / 1e9:.4g} ({plan['moment']})"
    )
    if not plan["fits"]:
        print(f"does not fit; {plan['instead']}")


def fitted(recipe: Recipe, model: Path, device: str) -> tuple[Recipe, Chat, MiMoConfig]:
    """The recipe as this folder and this machine need it, the folder's chat format and its shape.

    Without a GPU everything is computed in float32. The engine's longest sequence is a row, and its cache no larger
    than its batch of longest sequences needs.

    Raises:
        ValueError: for a folder that cannot be trained.
    """
    rl = recipe.rl
    chat, shape = open_start(model, rl.context, key="rl.context")
    if not 0 < rl.max_new_tokens < rl.context:
        raise ValueError(
            f"rl.max_new_tokens={rl.max_new_tokens} leaves no room for a prompt in a row of rl.context={rl.context}"
        )
    if device == "cpu" and rl.compute != ComputeConfig():
        say("rl: no GPU here: computing in float32 on the CPU, nothing offloaded or recomputed")
        optim = dataclasses.replace(rl.optim, offload=False)
        rl = dataclasses.replace(rl, compute=ComputeConfig(), optim=optim)
    engine = dataclasses.replace(
        recipe.engine,
        max_model_len=rl.context,
        num_token_ids=min(chat.tokenizer.get_vocab_size(), shape.vocab_size),
    )
    return dataclasses.replace(recipe, rl=rl, engine=engine), chat, shape


def memory_needed(shape: MiMoConfig, recipe: Recipe, device: str) -> Memory:
    """The largest moment of a step of this recipe on this device."""
    rl, engine = recipe.rl, recipe.engine
    # Without micro_rows a mini-batch goes through at once: at worst every response has a row of its own.
    rows = rl.micro_rows or rl.minibatch_groups * rl.num_rollouts
    layout = Layout(
        rows,
        rl.context,
        dtype=rl.compute.dtype,
        recompute=rl.compute.recompute,
        optimizer=rl.optim.kind,
        device="cuda" if device.startswith("cuda") else "cpu",
    )
    return rl_memory_of(
        shape,
        layout,
        Colocated(
            cache_bytes_of(shape, engine, rl.compute.dtype),
            engine.max_batch_size,
            rl.optim.offload,
            rl.num_engines,
            rl.stream_updates,
        ),
    )


def cache_bytes_of(shape: MiMoConfig, engine: EngineConfig, dtype: str) -> int:
    """Keys and values that the engine takes memory for."""
    block = bytes_per_block(shape, engine.block_size, engine.num_draft_layers, getattr(torch, dtype))
    longest = -(-engine.max_model_len // engine.block_size)
    return block * (engine.num_blocks or min(engine.cache_bytes // block, engine.max_batch_size * longest))


def free_bytes(device: str) -> float:
    """Memory that a run may take on the device now."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().split("\n"):
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return float("inf")


def check_memory(memory: Memory, room: float, shape: MiMoConfig, recipe: Recipe, device: str) -> None:
    """Refuse a run that does not fit, before anything is loaded.

    Raises:
        ValueError: with what it needs, by part, and the first settings that would fit.
    """
    if memory.total <= room:
        return
    parts = sorted(((size, part) for part, size in memory.parts.items() if size >= 0.01 * memory.total), reverse=True)
    needs = ", ".join(f"{part} {size / 1e9:.3g}" for size, part in parts)
    where = "this GPU" if device.startswith("cuda") else "this machine"
    raise ValueError(
        f"RL on this folder needs {memory.total / 1e9:.4g} GB ({needs}) and {where} has {room / 1e9:.4g} GB free; "
        f"{_what_fits(shape, recipe, device, room)}"
    )


def _what_fits(shape: MiMoConfig, recipe: Recipe, device: str, room: float) -> str:
    """Settings, one more at a time, until it fits."""
    given: list[str] = []
    needed = memory_needed(shape, recipe, device).total
    on_gpu = ("rl.compute.dtype=bfloat16", "rl.compute.recompute=full", "rl.optim.offload=true")
    for setting in ("rl.micro_rows=1", *(on_gpu if device != "cpu" else ()), "engine.cache_bytes=1e9"):
        changed = with_overrides(recipe, [setting])
        if changed == recipe:
            continue
        recipe, given = changed, [*given, f"--set {setting}"]
        needed = memory_needed(shape, recipe, device).total
        if needed <= room:
            return f"{' '.join(given)} needs {needed / 1e9:.4g} GB"
    return (
        f"even with {' '.join(given) or 'all of that'} it needs {needed / 1e9:.4g} GB: take a smaller model, or a "
        "shorter rl.context"
    )
