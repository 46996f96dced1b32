"""Hugging Face folders in the released format: config.json, (sharded) safetensors, no conversion step.

`mimo` folders are MiMoForCausalLM, tensors named as released; `qwen2` folders are the trunk alone, which transformers
reads as Qwen2ForCausalLM. Safetensors only. A missing, unexpected, torn or wrong-shaped tensor is named in one line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from openmimo.checkpoint import sync_folder, write_text
from openmimo.config import missing_file
from openmimo.model.card import CARD, GENERATION, generation_config, is_ours, model_card
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.model.tensors import Source, Stored, find_tensors, read_pieces, read_tensor, source_of, write_shards

Format = Literal["mimo", "qwen2"]
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "LICENSE",
)
"""Files of a folder that come along unchanged."""
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
MODEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_SHARD_BYTES = 4_000_000_000


def save_folder(
    model: MiMo,
    folder: Path,
    *,
    format: Format = "mimo",
    tokenizer_from: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a model folder whole or not at all, replacing one that is there.

    Args:
        tokenizer_from: folder whose tokenizer, generation settings and model card come along.
    """
    config = dataclasses.replace(model.config, rope_theta=float(model.rope_theta))
    written = _written(config, format)
    sources = {name: source_of(tensor) for name, tensor in model.state_dict().items() if name in written}
    return write_folder(folder, config, format, sources, companions=tokenizer_from, max_shard_bytes=max_shard_bytes)


def convert_folder(
    folder: Path,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    format: Format | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write a folder anew as another dtype or format, a piece of a tensor at a time: the model is never held.

    Args:
        dtype: None keeps every tensor's own.
        format: None keeps the folder's own.

    Raises:
        ValueError: if `out` exists, the folder does not fit its config.json, or a value does not fit `dtype`.
    """
    config = load_config(folder)
    own: Format = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    fitting = _fitting(folder, config)
    if out.exists():
        raise ValueError(f"{out} exists already; choose another -o")
    written = _written(config, format or own)
    sources = {name: _converted(stored, dtype) for name, stored in fitting.items() if name in written}
    return write_folder(out, config, format or own, sources, companions=folder, max_shard_bytes=max_shard_bytes)


def load_folder(folder: Path, *, dtype: torch.dtype | None = None) -> MiMo:
    """Read a MiMo or Qwen2 folder, each tensor straight into memory of its own: the peak is the weights' size.

    Raises:
        ValueError: for a folder that is none, or a tensor that is missing, unexpected, torn or of the wrong shape.
    """
    config = load_config(folder)
    fitting = _fitting(folder, config)
    with torch.device("meta"):
        model = MiMo(config)
    tensors = {name: read_tensor(stored, dtype) for name, stored in fitting.items()}
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


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


def config_json(config: MiMoConfig, format: Format, dtype: str) -> dict[str, Any]:
    """config.json's content."""
    values = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    if not config.mtp_chained or format == "qwen2":
        values.pop("mtp_chained")  # not a field of the released format: written only where it says something
    if format == "qwen2":
        for name in ("num_nextn_predict_layers", "mtp_hidden", "attention_bias"):
            values.pop(name)
        if not config.attention_bias:
            raise ValueError("qwen2 folders need attention_bias true: Qwen2 has biases on q, k and v")
        if config.head_dim * config.num_attention_heads != config.hidden_size:
            raise ValueError("qwen2 folders need head_dim * num_attention_heads = hidden_size")
    names = {"mimo": "MiMoForCausalLM", "qwen2": "Qwen2ForCausalLM"}
    return {
        "architectures": [names[format]],
        "model_type": format,
        **values,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_cache": True,
        "use_sliding_window": False,
        "torch_dtype": dtype,
    }


def inspect_folder(folder: Path) -> dict[str, Any]:
    """What a folder holds, from headers alone: parameters, MTP layers, dtypes, missing and unexpected tensors."""
    config = load_config(folder)
    found = find_tensors(folder)
    expected = _expected(config)
    mtp = sum(t.numel for n, t in found.items() if ".mtp_layers." in n)
    return {
        "folder": str(folder),
        "parameters": {"trunk": sum(t.numel for t in found.values()) - mtp, "mtp": mtp},
        "mtp_layers": config.num_nextn_predict_layers,
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in found.values()}),
        "bytes": sum(t.numel * t.dtype.itemsize for t in found.values()),
        "files": len({t.path for t in found.values()}),
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected) - _spare(config)),
        "wrong_shape": sorted(n for n, shape in expected.items() if n in found and found[n].shape != shape),
        "config": dataclasses.asdict(config),
    }


def _expected(config: MiMoConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a folder of this config holds."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in MiMo(config).state_dict().items()}
    return {name: shape for name, shape in shapes.items() if name not in _spare(config)}


def _spare(config: MiMoConfig) -> set[str]:
    """Tensors that may be there and say nothing new."""
    return {"lm_head.weight"} if config.tie_word_embeddings else set()


def _written(config: MiMoConfig, format: Format) -> set[str]:
    return {name for name in _expected(config) if not (format == "qwen2" and ".mtp_layers." in name)}


def _fitting(folder: Path, config: MiMoConfig) -> dict[str, Stored]:
    """The folder's tensors, once all are there and none is too many.

    Raises:
        ValueError: naming the first that is missing, of the wrong shape or type, or unexpected.
    """
    found, expected = find_tensors(folder), _expected(config)
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"{folder}: tensor {name} is missing, expected shape {shape}")
        if found[name].shape != shape:
            raise ValueError(f"{folder}: tensor {name} has shape {found[name].shape}, expected {shape}")
        if found[name].dtype not in MODEL_DTYPES:
            dtype = str(found[name].dtype).removeprefix("torch.")
            raise ValueError(f"{folder}: tensor {name} is {dtype}; float32, bfloat16 and float16 are supported")
    spare = sorted(set(found) - set(expected) - _spare(config))
    if spare:
        raise ValueError(
            f"{folder}: unexpected tensor {spare[0]} ({len(spare)} in all); config.json does not call for it"
        )
    return {name: found[name] for name in expected}


def _converted(stored: Stored, dtype: torch.dtype | None) -> Source:
    return Source(stored.shape, dtype or stored.dtype, lambda: read_pieces(stored, dtype))


def write_folder(
    folder: Path,
    config: MiMoConfig,
    format: Format,
    sources: Mapping[str, Source],
    *,
    companions: Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Write tensors, which need not exist as wholes, beside, then rename; nothing is left behind if that fails.

    Args:
        companions: folder whose tokenizer, generation settings and model card come along.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    dtype = str(next(iter(sources.values())).dtype).removeprefix("torch.")
    described = config_json(config, format, dtype)
    temporary.mkdir(parents=True)
    try:
        write_text(temporary / "config.json", json.dumps(described, indent=2) + "\n")
        write_text(temporary / GENERATION, json.dumps(generation_config(config), indent=2) + "\n")
        write_text(temporary / CARD, model_card(config, format))
        _copy_companions(companions, temporary)
        write_shards(sources, temporary, max_shard_bytes)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return folder


def _copy_companions(companions: Path | None, into: Path) -> None:
    """Tokenizer and the like; a model card that is somebody's own stays, ours says anew what is true now."""
    if not companions:
        return
    for name in (*COMPANIONS, GENERATION, CARD):
        path = companions / name
        if path.is_file() and not (name == CARD and is_ours(path)):
            shutil.copyfile(path, into / name)
