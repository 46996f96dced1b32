"""Small models whose MTP layers draft as well as is wanted, for checks of speculative decoding; nothing is trained.

A model whose blocks add nothing predicts from the last token alone, and an MTP layer that copies the embedding half of
its input predicts the same: an identical drafter. Letting the blocks speak (`context`) and disturbing the copy
(`noise`) makes the target depend on everything before it and the drafter wrong as often as one likes.
"""

from __future__ import annotations

import torch

from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo

SHAPE = MiMoConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
    num_nextn_predict_layers=3,
    initializer_range=0.3,
)


def drafting_model(*, vocab_size: int = 97, context: float = 0.0, noise: float = 0.0, seed: int = 6) -> MiMo:
    """
    Args:
        context: factor of what blocks add to the last token's embedding, 0 to 1.
        noise: standard deviation of what disturbs each MTP layer's copy of the embedding.
    """
    import dataclasses

    model = MiMo(dataclasses.replace(SHAPE, vocab_size=vocab_size)).init_weights(torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    hidden = SHAPE.hidden_size
    with torch.no_grad():
        for block in [*model.model.layers, *model.model.mtp_layers]:
            block.self_attn.o_proj.weight *= context
            block.mlp.down_proj.weight *= context
        for mtp in model.model.mtp_layers:
            mtp.input_proj.weight.zero_()
            mtp.input_proj.weight[:, hidden:] = torch.eye(hidden)
            mtp.input_proj.weight += noise * torch.randn(hidden, 2 * hidden, generator=generator)
    return model
