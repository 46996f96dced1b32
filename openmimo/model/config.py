"""Shape of a MiMo model, in the field names of the released config.json (MiMo 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MiMoConfig:
    """Defaults are MiMo-7B's, as the released config.json has them."""

    vocab_size: int = 151_680
    hidden_size: int = 4096  # MiMo 2.2
    intermediate_size: int = 11_008  # MiMo 2.2
    num_hidden_layers: int = 36  # MiMo 2.2
    num_attention_heads: int = 32  # MiMo 2.2
    num_key_value_heads: int = 8  # MiMo 2.2
    head_dim: int = 128
    rope_theta: float = 640_000.0  # MiMo 2.3, stage 3; released checkpoint
    max_position_embeddings: int = 32_768
    rms_norm_eps: float = 1e-5  # released checkpoint
    attention_bias: bool = True  # released checkpoint: q, k and v
    tie_word_embeddings: bool = False
    num_nextn_predict_layers: int = 1  # MTP layers; 0 is Qwen2
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    mtp_hidden: Literal["pre_norm", "normed"] = "pre_norm"
    """Which hidden state the MTP layer reads: before the trunk's final norm (decision 0013), or after it."""
    mtp_chained: bool = False
    """Whether MTP layer k > 0 reads layer k - 1's output at its slot in place of the trunk's hidden state (decision
    0036). MiMo 2.2: parallel, so false."""

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.mtp_hidden not in ("pre_norm", "normed"):
            raise ValueError(f"mtp_hidden is pre_norm or normed, got {self.mtp_hidden!r}")
        if not isinstance(self.mtp_chained, bool):
            raise ValueError(f"mtp_chained is true or false, got {self.mtp_chained!r}")

    def num_parameters(self) -> tuple[int, int]:
        """Exact (trunk, MTP) parameter counts; the released model has 7,622,619,136 and 210,790,400."""
        hidden, ffn = self.hidden_size, self.intermediate_size
        q_out, kv_out = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = hidden * (q_out + 2 * kv_out) + q_out * hidden
        if self.attention_bias:
            attention += q_out + 2 * kv_out
        block = attention + 3 * hidden * ffn + 2 * hidden
        head = 0 if self.tie_word_embeddings else self.vocab_size * hidden
        trunk = self.vocab_size * hidden + head + self.num_hidden_layers * block + hidden
        mtp = self.num_nextn_predict_layers * (block + 2 * hidden * hidden + 3 * hidden)
        return trunk, mtp

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by its released name, in the model's order."""
        hidden, ffn = self.hidden_size, self.intermediate_size
        q_out, kv_out = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        projections: dict[str, tuple[int, ...]] = {}
        for name, out in (("q", q_out), ("k", kv_out), ("v", kv_out)):
            projections[f"self_attn.{name}_proj.weight"] = (out, hidden)
            if self.attention_bias:
                projections[f"self_attn.{name}_proj.bias"] = (out,)
        block = {
            "input_layernorm.weight": (hidden,),
            **projections,
            "self_attn.o_proj.weight": (hidden, q_out),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (ffn, hidden),
            "mlp.up_proj.weight": (ffn, hidden),
            "mlp.down_proj.weight": (hidden, ffn),
        }
        mtp = {
            "token_layernorm.weight": (hidden,),
            "hidden_layernorm.weight": (hidden,),
            "input_proj.weight": (hidden, 2 * hidden),
            **block,
            "final_layernorm.weight": (hidden,),
        }
        return {
            "model.embed_tokens.weight": (self.vocab_size, hidden),
            **_numbered("layers", self.num_hidden_layers, block),
            "model.norm.weight": (hidden,),
            **_numbered("mtp_layers", self.num_nextn_predict_layers, mtp),
            "lm_head.weight": (self.vocab_size, hidden),
        }


def _numbered(name: str, count: int, tensors: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"model.{name}.{n}.{tensor}": shape for n in range(count) for tensor, shape in tensors.items()}
