"""New weights into a live model, all or nothing (MiMo 3.4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Copy a state dict over the model's parameters, in place, after checking every name and shape.

    Raises:
        ValueError: for a missing, unknown or misshapen tensor; the model is then unchanged.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state_dict.keys())
    unknown = sorted(state_dict.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"weights do not fit the model: missing {missing[:3] or 'none'}, unknown {unknown[:3] or 'none'}"
        )
    for name, tensor in own.items():
        if state_dict[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(state_dict[name].shape)}, the model's is {tuple(tensor.shape)}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state_dict[name])
