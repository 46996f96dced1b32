"""RL on a folder of one's own, engine and trainer side by side on one GPU of 24 to 80 GB.

`openmimo rl one_gpu --model DIR --problems FILE`. The paper's GRPO (MiMo 3.3) at a scale for one device; of the recipe
`rl`, `engine`, `judge`, `eval` and `threads` are used. On a machine without a GPU it computes in float32 on the CPU.
"""

from __future__ import annotations

from openmimo.engine.engine import EngineConfig
from openmimo.eval.run import EvalConfig
from openmimo.judge.pool import JudgeConfig
from openmimo.recipes import Recipe
from openmimo.rl.config import RLConfig
from openmimo.train.compute import ComputeConfig
from openmimo.train.optim import OptimConfig

RESPONSE, PROMPT = 2048, 1024
"""Tokens; ours."""


def one_gpu() -> Recipe:
    return Recipe(
        name="one_gpu",
        rl=RLConfig(
            steps=200,
            batch_groups=32,  # a sixteenth of MiMo 3.3.3
            num_rollouts=8,
            minibatch_groups=8,  # 4 updates a step
            learning_rate=1e-6,  # MiMo 3.3.3
            max_new_tokens=RESPONSE,
            context=RESPONSE + PROMPT,
            max_active_groups=64,
            curation_samples=0,  # dynamic sampling alone
            optim=OptimConfig(weight_decay=0.0, offload=True),
            compute=ComputeConfig(dtype="bfloat16", recompute="full"),
            micro_rows=1,
            checkpoint_every=5,
            validate_every=10,
        ),
        engine=EngineConfig(max_batch_size=128, max_model_len=RESPONSE + PROMPT, cache_bytes=4 << 30),
        judge=JudgeConfig(num_workers=2),
        eval=EvalConfig(max_new_tokens=RESPONSE, num_samples=4),
    )
