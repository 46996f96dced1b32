"""A model folder looked at without its weights: config.json, and whether the tensors are those it calls for.

Standard library only, so that a look at a folder of any size takes no longer than one at a small one.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from openmimo.config import missing_file
from openmimo.model.config import MiMoConfig
from openmimo.model.headers import Stored, find_tensors

Format = Literal["mimo", "qwen2"]
REQUIRED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
"""Of config.json; without them MiMo-7B's own would be taken."""
QWEN2_DEFAULTS = {"rope_theta": 10_000.0, "rms_norm_eps": 1e-6}
"""What transformers takes where a qwen2 config.json is silent."""
DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""What a model may be made of."""


def load_config(folder: Path) -> MiMoConfig:
    """Read config.json of a MiMo or Qwen2 folder.

    Raises:
        ValueError: if there is none, it is torn, of another architecture, or asks for what this model cannot do.
    """
    path = folder / "config.json"
    if not folder.exists():
        raise missing_file(folder)
    if not path.is_file():
        raise ValueError(f"{folder} is no model folder: config.json is missing")
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} is a {type(raw).__name__}, expected an object")
    kind = raw.get("model_type", "")
    if kind not in ("mimo", "qwen2"):
        raise ValueError(f"{path}: model_type {kind!r} is not supported; mimo and qwen2 are")
    for name in REQUIRED_FIELDS:
        if not isinstance(raw.get(name), int):
            raise ValueError(f"{path} lacks {name}, or it is no integer: {raw.get(name)!r}")
        if raw[name] < 1:
            raise ValueError(f"{path}: {name} must be at least 1, got {raw[name]}")
    _refuse_unsupported(raw, path)
    names = {f.name for f in dataclasses.fields(MiMoConfig)}
    values = {k: v for k, v in raw.items() if k in names and v is not None}
    values.setdefault("head_dim", raw["hidden_size"] // raw["num_attention_heads"])
    for name in ("bos_token_id", "eos_token_id"):
        if isinstance(values.get(name), list) and values[name]:
            values[name] = values[name][0]  # several may end a response; the chat template's comes first
    if isinstance(rope := raw.get("rope_parameters"), dict) and "rope_theta" in rope:
        values.setdefault("rope_theta", rope["rope_theta"])
    if kind == "qwen2":
        values = {**QWEN2_DEFAULTS, **values, "num_nextn_predict_layers": 0, "attention_bias": True}
        values.pop("mtp_chained", None)
    for name, least in (("num_nextn_predict_layers", 0), ("head_dim", 1), ("max_position_embeddings", 1)):
        value = values.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{path}: {name} must be an integer of at least {least}, got {value!r}")
    for name in ("tie_word_embeddings", "attention_bias"):
        if not isinstance(values.get(name, False), bool):
            raise ValueError(f"{path}: {name} must be true or false, got {values[name]!r}")
    for name in ("rope_theta", "rms_norm_eps"):
        value = values.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"{path}: {name} must be a number above 0, got {value!r}")
    return MiMoConfig(**values)


def _refuse_unsupported(raw: dict[str, Any], path: Path) -> None:
    """Fields that would change the result and that this model does not follow."""
    for name in ("rope_scaling", "rope_parameters"):
        scaling = raw.get(name) or {}
        rope_type = scaling.get("rope_type", scaling.get("type", "default"))
        if rope_type != "default":
            raise ValueError(f"{path}: {name} of type {rope_type!r} is not supported; plain RoPE is")
    if raw.get("use_sliding_window"):
        raise ValueError(f"{path}: use_sliding_window true is not supported; full attention is")
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{path}: hidden_act {raw['hidden_act']!r} is not supported; silu is")


def inspect_folder(folder: Path) -> dict[str, Any]:
    """What a folder holds, from headers alone: parameters, MTP layers, dtypes, missing and unexpected tensors."""
    config = load_config(folder)
    found = find_tensors(folder)
    expected = expected_tensors(config)
    mtp = sum(t.numel for n, t in found.items() if ".mtp_layers." in n)
    return {
        "folder": str(folder),
        "parameters": {"trunk": sum(t.numel for t in found.values()) - mtp, "mtp": mtp},
        "mtp_layers": config.num_nextn_predict_layers,
        "dtypes": sorted({DTYPE_NAMES.get(t.dtype, t.dtype) for t in found.values()}),
        "bytes": sum(t.num_bytes for t in found.values()),
        "files": len({t.path for t in found.values()}),
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected) - spare_tensors(config)),
        "wrong_shape": sorted(n for n, shape in expected.items() if n in found and found[n].shape != shape),
        "config": dataclasses.asdict(config),
    }


def expected_tensors(config: MiMoConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a folder of this config holds."""
    return {name: shape for name, shape in config.tensor_shapes().items() if name not in spare_tensors(config)}


def spare_tensors(config: MiMoConfig) -> set[str]:
    """Tensors that may be there and say nothing new."""
    return {"lm_head.weight"} if config.tie_word_embeddings else set()


def written_tensors(config: MiMoConfig, format: Format) -> set[str]:
    return {name for name in expected_tensors(config) if not (format == "qwen2" and ".mtp_layers." in name)}


def fitting_tensors(folder: Path, config: MiMoConfig) -> dict[str, Stored]:
    """The folder's tensors, once all are there and none is too many.

    Raises:
        ValueError: naming the first that is missing, of the wrong shape or type, or unexpected.
    """
    found, expected = find_tensors(folder), expected_tensors(config)
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"{folder}: tensor {name} is missing, expected shape {shape}")
        if found[name].shape != shape:
            raise ValueError(f"{folder}: tensor {name} has shape {found[name].shape}, expected {shape}")
        if found[name].dtype not in DTYPE_NAMES:
            known = ", ".join(DTYPE_NAMES)
            raise ValueError(f"{folder}: tensor {name} is {found[name].dtype}, which is not supported; {known} are")
    spare = sorted(set(found) - set(expected) - spare_tensors(config))
    if spare:
        raise ValueError(
            f"{folder}: unexpected tensor {spare[0]} ({len(spare)} in all); config.json does not call for it"
        )
    return {name: found[name] for name in expected}
