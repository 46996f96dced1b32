"""litgpt beside us: its GPT of our shape in training, in an environment of its own (`.venv-litgpt`: make litgpt).

Its model with the settings of the Llama family (RMSNorm, LLaMAMLP, grouped queries, RoPE) and a bias on q, k and v;
its cross-entropy, in chunks of 128 positions as its own pre-training takes it or whole, whichever is faster; the model
compiled, as its pre-training compiles it. The rest of the step is `train_process.plain_step`: its own, Lightning
Fabric's, adds nothing on one CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from train_process import plain_step, serve

PYTHON = Path(__file__).resolve().parents[1] / ".venv-litgpt" / "bin" / "python"


def build(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import torch
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    shape = settings["shape"]
    config = Config(
        name="peer",
        block_size=settings["context"],
        vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"],
        n_layer=shape["num_hidden_layers"],
        n_embd=shape["hidden_size"],
        n_head=shape["num_attention_heads"],
        n_query_groups=shape["num_key_value_heads"],
        head_size=shape["head_dim"],
        intermediate_size=shape["intermediate_size"],
        norm_class_name="RMSNorm",
        norm_eps=shape["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
        rope_base=int(shape["rope_theta"]),
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        attn_bias=True,
    )
    model = GPT(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, 0.0, 0.02)
            if getattr(module, "bias", None) is not None:
                torch.nn.init.zeros_(module.bias)
    num_parameters = sum(p.numel() for p in model.parameters())
    called = torch.compile(model)

    def loss(_: Any, ids: Any) -> Any:
        logits = called(ids[:, :-1].contiguous())
        return chunked_cross_entropy(logits, ids[:, 1:].contiguous(), chunk_size=settings["chunk"])

    return plain_step(model, loss, settings["precision"]), {"parameters": num_parameters}


if __name__ == "__main__" and sys.argv[1:]:  # settings; without them it is a module
    serve(build)
