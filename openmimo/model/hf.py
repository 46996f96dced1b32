"""Hugging Face folders in the released format: config.json, (sharded) safetensors, no conversion step.

`mimo` folders are MiMoForCausalLM, tensors named as released; `qwen2` folders are the trunk alone, which transformers
reads as Qwen2ForCausalLM. Safetensors only. A missing, unexpected, torn or wrong-shaped tensor is named in one line.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from openmimo.checkpoint import aside, sync_folder, write_text
from openmimo.model.card import CARD, GENERATION, generation_config, is_ours, model_card
from openmimo.model.config import MiMoConfig
from openmimo.model.folder import Format, fitting_tensors, load_config, written_tensors
from openmimo.model.headers import Stored
from openmimo.model.mimo import MiMo
from openmimo.model.tensors import DTYPES, Source, read_pieces, read_tensor, source_of, write_shards

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
    written = written_tensors(config, format)
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
    fitting = fitting_tensors(folder, config)
    if out.exists():
        raise ValueError(f"{out} exists already; choose another -o")
    written = written_tensors(config, format or own)
    sources = {name: _converted(stored, dtype) for name, stored in fitting.items() if name in written}
    return write_folder(out, config, format or own, sources, companions=folder, max_shard_bytes=max_shard_bytes)


def load_folder(folder: Path, *, dtype: torch.dtype | None = None) -> MiMo:
    """Read a MiMo or Qwen2 folder, each tensor straight into memory of its own: the peak is the weights' size.

    Raises:
        ValueError: for a folder that is none, or a tensor that is missing, unexpected, torn or of the wrong shape.
    """
    config = load_config(folder)
    fitting = fitting_tensors(folder, config)
    model = MiMo.skeleton(config)
    tensors = {name: read_tensor(stored, dtype) for name, stored in fitting.items()}
    if config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


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


def _converted(stored: Stored, dtype: torch.dtype | None) -> Source:
    return Source(stored.shape, dtype or DTYPES[stored.dtype], lambda: read_pieces(stored, dtype))


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
    temporary = aside(folder)
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
