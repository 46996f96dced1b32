"""One model over many devices: FSDP2, a unit a block (MiMo 2.3's sizes need it).

A one-dimensional mesh shards everything over all ranks; a two-dimensional one (replicate, shard) is HSDP. Embedding,
final norm and head form the root unit, which stays whole from the end of the trunk's forward to the backward pass: the
loss and the MTP layers read them there. Left out: tensor and context parallelism.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from openmimo.model.mimo import MiMo


def shard(model: MiMo, mesh: DeviceMesh, *, param_dtype: torch.dtype | None = None) -> MiMo:
    """Shard a model's parameters in place, every rank holding the same ones; the model.

    Gradients are SUMMED over ranks, not averaged: losses here are sums, and each rank divides its own by the global
    batch's weight. Clip with the norm's `full_tensor()`.

    Args:
        mesh: over the ranks of one process group; 1-D shards, 2-D replicates over its first axis and shards over its
            second, and names both.
        param_dtype: what blocks compute in, e.g. bfloat16; gradients are then summed in float32. None: as stored.

    Raises:
        ValueError: for a mesh of other dimensions, or a model that is sharded already.
    """
    if mesh.ndim not in (1, 2):
        raise ValueError(f"a mesh has 1 axis (shard) or 2 (replicate, shard), got {mesh.ndim}")
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise ValueError("the model is sharded already; shard a whole one")
    # Inputs keep their type: RoPE's cosines stay float32.
    policy = MixedPrecisionPolicy(
        param_dtype=param_dtype, reduce_dtype=torch.float32 if param_dtype else None, cast_forward_inputs=False
    )
    mtp_layers = [*model.model.mtp_layers] if model.config.num_nextn_predict_layers else []
    final_norms = [layer.final_layernorm for layer in mtp_layers]  # read outside of their layer's forward
    for unit in (*model.model.layers, *final_norms, *mtp_layers, model):
        sharded = fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=unit is not model)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum
    return model


def whole(tensor: Any, *, keep: bool = True) -> Any:
    """A sharded tensor put together, in main memory; anything else as it is. All ranks must call it.

    Args:
        keep: False: take part, and give None in place of the whole.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if keep else None


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, spread over the ranks as `other` is."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)


def whole_state_dict(model: MiMo, *, keep: bool = True) -> dict[str, Tensor]:
    """Every tensor whole: what `save_folder` and checkpoints write. All ranks must call it."""
    return {name: whole(tensor, keep=keep) for name, tensor in model.state_dict().items()}


def load_whole_state_dict(model: MiMo, state: dict[str, Tensor]) -> None:
    """Take over whole tensors into a model that may be sharded; in place, so optimizers keep their parameters."""
    model.load_state_dict({name: like(state[name], tensor) for name, tensor in model.state_dict().items()})
