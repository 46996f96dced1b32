"""transformers' view of a MiMo config.json, for vLLM: Qwen2's fields with `num_nextn_predict_layers` beside them.

transformers knows no `mimo`, and vLLM reads a config through it; the released folder brings such a class as code of its
own, which is not run here. A module of its own because transformers is imported at once, and because vLLM's worker
processes must find the class by name. Imported by `vllm.py` alone.
"""

from __future__ import annotations

from transformers import AutoConfig, Qwen2Config


class MiMoHfConfig(Qwen2Config):
    model_type = "mimo"


def register() -> None:
    """Let transformers read folders of this type; again is nothing."""
    AutoConfig.register(MiMoHfConfig.model_type, MiMoHfConfig, exist_ok=True)
