"""What lies beside the weights of a folder for people and for other programs: model card, generation settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openmimo.model.config import MiMoConfig

CARD, GENERATION = "README.md", "generation_config.json"
MARK = "<!-- made by openmimo; remove this line to keep your own text -->"
"""In a card of ours, which is made anew when the folder is written again."""


def generation_config(config: MiMoConfig) -> dict[str, Any]:
    """generation_config.json: how the paper samples (MiMo 3.5), and the ids that begin and end a text."""
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    return {
        **{name: value for name, value in ids.items() if value is not None},
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
    }


def model_card(config: MiMoConfig, format: str) -> str:
    """README.md: what the folder is and what reads it."""
    mtp_layers = config.num_nextn_predict_layers if format == "mimo" else 0
    trunk, mtp = config.num_parameters()
    front = {
        "library_name": "openmimo" if format == "mimo" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mimo", "multi-token-prediction"] if mtp_layers else [format],
    }
    rows = {
        "parameters": f"{trunk + (mtp if mtp_layers else 0):,}" + (f" ({mtp:,} of them MTP)" if mtp_layers else ""),
        "layers": f"{config.num_hidden_layers}",
        "hidden size, FFN": f"{config.hidden_size:,}, {config.intermediate_size:,}",
        "heads": f"{config.num_attention_heads} over {config.num_key_value_heads} key-value heads of {config.head_dim}",
        "vocabulary": f"{config.vocab_size:,}",
        "context": f"{config.max_position_embeddings:,} tokens, RoPE base {config.rope_theta:,.0f}",
        "MTP layers": _mtp(config, mtp_layers),
    }
    reads = {
        "mimo": "openmimo serves it with its MTP layers as drafts (`openmimo serve DIR`); vLLM reads it as "
        "`MiMoForCausalLM`, with one MTP layer at most and none of chained ones.",
        "qwen2": "transformers and every other Qwen2 loader read it; it is the trunk alone, without MTP layers.",
    }
    header = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    name = "MiMoForCausalLM" if format == "mimo" else "Qwen2ForCausalLM"
    return (
        f"---\n{header}\n---\n{MARK}\n\n# {name}\n\nA decoder of the shape of MiMo (arXiv 2505.07608).\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n{reads[format]}\n"
    )


def is_ours(card: Path) -> bool:
    """Whether a card was made here."""
    return MARK in card.read_text(encoding="utf-8", errors="replace")


def _mtp(config: MiMoConfig, layers: int) -> str:
    if layers < 2:
        return f"{layers}"
    kind = (
        "chained: each reads the output of the one before" if config.mtp_chained else "parallel: each reads the trunk"
    )
    return f"{layers}, {kind}"
