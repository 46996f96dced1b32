"""How a model is computed while it trains: precision, recomputation, compilation, sharding. Never what is computed.

The weights that are trained are float32 (the masters). In bfloat16 the losses see a copy of them that is rounded once a
step; its gradients are added up in the masters' float32 as soon as they exist, so no second set of them lives.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from openmimo.mesh import Mesh
from openmimo.model.mimo import MiMo
from openmimo.model.parallel import shard

Recompute = Literal["none", "selective", "full"]
KEPT = ("mm", "addmm", "bmm", "_scaled_dot_product", "tiled_attention", "flex_attention")
"""Operations whose results selective recomputation keeps: matrix products and attention."""


@dataclass(frozen=True)
class ComputeConfig:
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What blocks, MTP layers and head are computed in; masters, optimizer state and sums over losses are float32."""
    compile: bool = False
    """torch.compile of blocks and norms. The first start compiles, about a minute; later ones find it in the cache on
    disk ($TORCHINDUCTOR_CACHE_DIR, else ~/.cache/openmimo/compiled)."""
    recompute: Recompute = "none"
    """Activation checkpointing: `full` keeps each block's input alone, `selective` also what matrix products gave."""
    shard: bool = False
    """FSDP2: weights, gradients and optimizer state spread over the ranks. False: every rank holds all."""


class Worker:
    """The model that losses are computed with, made from the masters.

    Args:
        masters: the float32 model that is trained; sharded in place if the config says so.
    """

    def __init__(self, masters: MiMo, config: ComputeConfig | None = None, mesh: Mesh | None = None) -> None:
        self.config, self.mesh = config or ComputeConfig(), mesh or Mesh()
        self.masters, self.model = masters, masters
        dtype = getattr(torch, self.config.dtype)
        if self.config.shard and self.mesh.world_size > 1:
            shard(masters, self.mesh.device_mesh(), param_dtype=None if dtype == torch.float32 else dtype)
        elif dtype != next(masters.parameters()).dtype:
            self.model = copy_of(masters, dtype)
        self._pairs = (
            [(m, c) for m, c in zip(masters.parameters(), self.model.parameters(), strict=True) if m.requires_grad]
            if self.model is not masters
            else []
        )
        for master, copy in self._pairs:
            copy.register_post_accumulate_grad_hook(functools.partial(_hand_over, master))
        _prepare(self.model, self.config)

    @property
    def sharded(self) -> bool:
        return self.model is self.masters and self.config.shard and self.mesh.world_size > 1

    def refresh(self) -> None:
        """Round the masters into the copy: call after every change of the masters."""
        if self._pairs:
            with torch.no_grad():
                torch._foreach_copy_([copy for _, copy in self._pairs], [master for master, _ in self._pairs])
        self.model.rope_theta = self.masters.rope_theta

    def reduce_gradients(self) -> None:
        """Sum the masters' gradients over ranks; a sharded model's are summed already."""
        if self.mesh.world_size == 1 or self.sharded:
            return
        parameters = [p for p in self.masters.parameters() if p.requires_grad]
        for p in parameters:
            if p.grad is None:  # a rank without rows
                p.grad = torch.zeros_like(p)
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([g.flatten() for g in bucket])
            self.mesh.sum(flat)
            for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))


def cache_folder() -> Path:
    """Where compiled code is kept between runs."""
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or Path.home() / ".cache" / "openmimo" / "compiled")


def copy_of(masters: MiMo, dtype: torch.dtype) -> MiMo:
    """The same model with weights of its own, rounded to `dtype`; how the masters are computed does not go along."""
    copy = MiMo.skeleton(masters.config)
    copy.load_state_dict(
        {name: t.detach().to(dtype, copy=True) for name, t in masters.state_dict().items()}, assign=True
    )
    if masters.config.tie_word_embeddings:
        copy.lm_head.weight = copy.model.embed_tokens.weight
    for master, parameter in zip(masters.parameters(), copy.parameters(), strict=True):
        parameter.requires_grad_(master.requires_grad)
    copy.rope_theta = masters.rope_theta
    return copy


def _hand_over(master: nn.Parameter, copy: Tensor) -> None:
    if copy.grad is None:
        return
    if master.grad is None:
        master.grad = copy.grad.to(master.dtype)
    else:
        master.grad.add_(copy.grad)
    copy.grad = None


def _prepare(model: MiMo, config: ComputeConfig) -> None:
    """Wrap every block's and MTP layer's forward, not the module: FSDP2's hooks stay outside of what is compiled."""
    if config.compile:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder()))
    layers = [*model.model.layers, *(model.model.mtp_layers if model.config.num_nextn_predict_layers else ())]
    for layer in layers:
        if config.recompute != "none":
            layer.forward = _recomputed(layer.forward, config.recompute)
        if config.compile:
            layer.forward = torch.compile(layer.forward, dynamic=False)
    for norm in (model.model.norm, *(layer.final_layernorm for layer in layers[len(model.model.layers) :])):
        if config.compile:
            norm.forward = torch.compile(norm.forward, dynamic=False)


def _recomputed(forward: Callable[..., Tensor], how: Recompute) -> Callable[..., Tensor]:
    more: dict[str, Any] = {}
    if how == "selective":
        more["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    return functools.partial(checkpoint, forward, use_reentrant=False, **more)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = getattr(operation, "overloadpacket", operation).__name__  # a higher-order operator has no overloads
    kept = any(name == kind or (kind[0] == "_" and name.startswith(kind)) for kind in KEPT)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _buckets(gradients: list[Tensor], most_bytes: int = 32 << 20) -> list[list[Tensor]]:
    """Gradients side by side, as many as fit a bucket: one message instead of many."""
    buckets: list[list[Tensor]] = [[]]
    held = 0
    for gradient in gradients:
        if held and held + gradient.nbytes > most_bytes:
            buckets.append([])
            held = 0
        buckets[-1].append(gradient)
        held += gradient.nbytes
    return buckets
