"""Hugging Face folders in the released format: config.json, (sharded) safetensors, no conversion step.

`mimo` folders are MiMoForCausalLM, tensors named as released; `qwen2` folders are the trunk alone, which transformers
reads as Qwen2ForCausalLM. Safetensors only. A missing, unexpected or wrong-shaped tensor is named in one line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openmimo.checkpoint import sync_folder, write_text
from openmimo.config import missing_file
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo

Format = Literal["mimo", "qwen2"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
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


def save_folder(
    model: MiMo,
    folder: Path,
    *,
    format: Format = "mimo",
    tokenizer_from: Path | None = None,
    max_shard_bytes: int = 4_000_000_000,
) -> Path:
    """Write a model folder whole or not at all, replacing one that is there.

    Args:
        tokenizer_from: folder whose tokenizer and generation files come along.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config = dataclasses.replace(model.config, rope_theta=float(model.rope_theta))
    write_text(temporary / "config.json", json.dumps(config_json(config, format, _dtype(model)), indent=2) + "\n")
    tensors = {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if not (format == "qwen2" and ".mtp_layers." in name)
        and not (config.tie_word_embeddings and name == "lm_head.weight")
    }
    _write_shards(tensors, temporary, max_shard_bytes)
    if tokenizer_from:
        for name in TOKENIZER_FILES:
            if (tokenizer_from / name).is_file():
                shutil.copyfile(tokenizer_from / name, temporary / name)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    sync_folder(folder.parent)
    return folder


def load_folder(folder: Path, *, dtype: torch.dtype | None = None) -> MiMo:
    """Read a MiMo or Qwen2 folder; tensors are memory-mapped and copied once.

    Raises:
        ValueError: for a folder that is none, or a tensor that is missing, unexpected, torn or of the wrong shape.
    """
    config = load_config(folder)
    with torch.device("meta"):
        model = MiMo(config)
    expected = dict(model.state_dict())
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    found = read_tensors(folder)
    for name, tensor in expected.items():
        if name not in found:
            raise ValueError(f"{folder}: tensor {name} is missing, expected shape {tuple(tensor.shape)}")
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"{folder}: tensor {name} has shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
            )
    spare = sorted(set(found) - set(expected) - {"lm_head.weight"})
    if spare:
        raise ValueError(
            f"{folder}: unexpected tensor {spare[0]} ({len(spare)} in all); config.json does not call for it"
        )
    tensors = {name: found[name].to(dtype) if dtype else found[name].clone() for name in expected}
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
    if isinstance(rope := raw.get("rope_parameters"), dict) and "rope_theta" in rope:
        values.setdefault("rope_theta", rope["rope_theta"])
    if kind == "qwen2":
        values = {**QWEN2_DEFAULTS, **values, "num_nextn_predict_layers": 0, "attention_bias": True}
        values.pop("mtp_chained", None)
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


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files, memory-mapped.

    Raises:
        ValueError: if there are none, or one is truncated or missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is no index of tensors: expected an object with a weight_map") from error
    else:
        files = sorted(p.name for p in folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no safetensors file")
    tensors: dict[str, Tensor] = {}
    for name in files:
        try:
            with safe_open(str(folder / name), framework="pt") as file:
                tensors.update({key: file.get_tensor(key) for key in file.keys()})
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / name} cannot be read: {error}") from error
    return tensors


def inspect_folder(folder: Path) -> dict[str, Any]:
    """What a folder holds: parameters, MTP layers, dtypes, missing and unexpected tensors."""
    config = load_config(folder)
    with torch.device("meta"):
        expected = dict(MiMo(config).state_dict())
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    found = read_tensors(folder)
    mtp = sum(t.numel() for n, t in found.items() if ".mtp_layers." in n)
    return {
        "folder": str(folder),
        "parameters": {"trunk": sum(t.numel() for t in found.values()) - mtp, "mtp": mtp},
        "mtp_layers": config.num_nextn_predict_layers,
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in found.values()}),
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "wrong_shape": sorted(n for n, t in expected.items() if n in found and found[n].shape != t.shape),
        "config": dataclasses.asdict(config),
    }


def _write_shards(tensors: dict[str, Tensor], folder: Path, max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        _write_file(shards[0], folder / "model.safetensors")
        return
    weight_map = {}
    for n, shard in enumerate(shards, 1):
        name = f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        _write_file(shard, folder / name)
        weight_map.update(dict.fromkeys(shard, name))
    total = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def _write_file(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, str(path), metadata={"format": "pt"})
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _dtype(model: MiMo) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
