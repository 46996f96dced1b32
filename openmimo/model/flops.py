"""Arithmetic of one token, counted from the shape of the model."""

from __future__ import annotations

from openmimo.model.config import MiMoConfig


def flops_per_token(config: MiMoConfig, context: int, *, causal: bool = True, mtp: bool = True) -> float:
    """Forward + backward FLOPs of one token in a full row of `context`.

    6 per weight of every matrix product (embedding look-up is none; the head counts once per prediction), and
    12 * heads * head_dim * context per attention layer, half of that causal.
    """
    hidden, ffn = config.hidden_size, config.intermediate_size
    q_out, kv_out = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    block = hidden * (q_out + 2 * kv_out) + q_out * hidden + 3 * hidden * ffn
    head = config.vocab_size * hidden
    layers = config.num_hidden_layers
    weights = layers * block + head
    if mtp:
        layers += config.num_nextn_predict_layers
        weights += config.num_nextn_predict_layers * (block + 2 * hidden * hidden + head)
    attention = 12 * layers * q_out * context * (0.5 if causal else 1.0)
    return 6.0 * weights + attention
