"""nanochat beside us: its GPT as near our shape as it can be, in training.

nanochat is on no package index. Get a copy of github.com/karpathy/nanochat and name its folder in the environment:
NANOCHAT=DIR. Nothing is installed: its model needs torch alone, so it runs in our environment.

What differs from our model, and is why the comparison is at equal FLOPs a token: ReLU squared over 4 x hidden size in
place of SwiGLU (8.0 in place of 8.25 weights per hidden size squared at 25 M), no biases, norms without weights but
one more on q and k, a soft cap on the logits, and per-layer scalars. Grouped queries, untied head, full causal
attention in every layer (its window pattern "L") and context are ours. Its value embeddings are left out: they
would add a seventh of parameters to be updated and no matrix product.

Optimizer: clip and fused AdamW, as everyone here, in place of its own (Muon for matrices, AdamW for the rest), whose
orthogonalisation costs the more the fewer tokens a step has. Precision as it does it itself: float32 weights, rounded
where they are used; embeddings kept in bfloat16.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from train_process import plain_step, serve


def build(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    sys.path.insert(0, os.environ["NANOCHAT"])
    import torch
    from nanochat import gpt

    shape = settings["shape"]
    gpt.has_ve = lambda layer, num_layers: False
    model = gpt.GPT(
        gpt.GPTConfig(
            sequence_len=settings["context"],
            vocab_size=shape["vocab_size"],
            n_layer=shape["num_hidden_layers"],
            n_head=shape["num_attention_heads"],
            n_kv_head=shape["num_key_value_heads"],
            n_embd=shape["hidden_size"],
            window_pattern="L",
        )
    )
    model.init_weights()
    called = torch.compile(model, dynamic=False)

    def loss(_: Any, ids: Any) -> Any:
        return called(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())

    # Its own count of FLOPs takes the whole square of attention; ours takes the causal half.
    attention = 12 * shape["num_hidden_layers"] * shape["hidden_size"] * settings["context"]
    about = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_per_token": model.estimate_flops() - attention / 2,
    }
    return plain_step(model, loss, "float32"), about


if __name__ == "__main__" and sys.argv[1:]:  # settings; without them it is a module
    serve(build)
