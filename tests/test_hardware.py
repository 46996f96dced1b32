"""Which chip a name means."""

import pytest
import torch

from openmimo.hardware import GPUS, peak_flops

NAMES = {"NVIDIA H200": "h200", "NVIDIA H20": "h20", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA A100-SXM4-80GB": "a100"}


@pytest.mark.parametrize("name", NAMES)
def test_a_chip_is_told_by_its_whole_word(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops("cuda", torch.bfloat16) == GPUS[NAMES[name]].bf16_flops
