"""What an RL run is told; defaults are MiMo 3.3.3's figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from openmimo.rl.budget import BudgetConfig
from openmimo.rl.loss import Normalization
from openmimo.rl.reward import Clustering, Scheme
from openmimo.rl.sampling import Solved
from openmimo.train.compute import ComputeConfig
from openmimo.train.optim import OptimConfig


@dataclass(frozen=True)
class RLConfig:
    """Defaults are MiMo 3.3.3's figures."""

    start: Literal["sft", "base"] = "sft"
    """Which model of a run RL begins with; `base` is RL-Zero (MiMo 3.5, 3.6)."""
    steps: int = 1000
    """Iterations: a rollout batch and its updates."""
    batch_groups: int = 512  # MiMo 3.3.3; decision 0001: prompts
    num_rollouts: int = 16  # decision 0001
    minibatch_groups: int = 32  # MiMo 3.3.3
    learning_rate: float = 1e-6  # MiMo 3.3.3
    warmup_steps: int = 0
    """Iterations of linear warm-up. Ours, for fresh optimizer state."""
    max_new_tokens: int = 32_768  # MiMo 3.3.3: maximum length
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """Shorter budgets before it."""
    temperature: float = 1.0  # MiMo 3.3.3
    top_p: float = 1.0  # MiMo 3.3.3
    clip_low: float = 0.2  # decision 0002
    clip_high: float = 0.28  # decision 0002
    importance_cap: float = 0.0
    """Most that a token weighs by truncated importance sampling between engine and trainer; 0 is off (decision 0019).
    2 is common."""
    normalization: Normalization = "token"  # decision 0004
    scheme: Scheme = "soft"  # MiMo 3.3.1
    levels: Clustering = "cuts"  # decision 0006
    level_weights: tuple[float, ...] = ()
    """Points of the levels easy, medium, hard, scaled to sum to 1 over those present; (): equal (decision 0006)."""
    language_penalty: float = 0.0
    """Points that a response loses which mixes languages. MiMo 3.6 tried it and did not keep it: 0."""
    solved: Solved = "pool"  # MiMo 3.3.2
    alpha: float = 0.1
    """Probability that a launch draws from the easy pool. MiMo 3.3.2."""
    context: int = 32_768
    """Slots of a packed row; at least the longest prompt and response."""
    prior: float = 0.5
    """P(a group is valid) before anything is known; then learnt across steps (decision 0008)."""
    risk: float | None = 0.2
    """Accepted probability that the groups launched so far do not fill the batch; None: the paper's rule, launch while
    fewer are expected. Ours."""
    longest_first: bool = True
    """Groups that are expected to take long start early enough to end with the rest (decision 0041). Ours."""
    max_active_groups: int = 1024
    """Groups that may generate at once."""
    max_launch_factor: int = 6
    """Give a step up after batch_groups times so many launches, with the groups it has."""
    curation_samples: int = 16  # MiMo 3.2
    """Rollouts a problem for its pass-rate filter and its tests' difficulty."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.0))
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    micro_rows: int = 0
    num_engines: int = 0
    """Engines in processes of their own; 0: one in this process. Ours."""
    stream_updates: bool = False
    """Whether mini-batches whose groups are final train while the others still generate. The same updates, for the
    memory of one more copy of the weights (decision 0043). Ours."""
    checkpoint_every: int = 1
    keep_last: int = 2
    """Newest checkpoints that stay."""
    validate_every: int = 0
    """Steps between validations; 0 is none."""
    show_every: int = 10
    """Steps between those of which some rollouts are kept to read; 0 is none. Ours."""
    num_shown: int = 4
    """Groups that are kept to read of such a step. Ours."""
    no_groups_steps: int = 5
    """Steps in a row without a valid group that end the run; 0 watches for none. Ours."""
    not_finite_updates: int = 10
    """Updates in a row whose loss or gradient is not finite, which are left out, that end the run; 0: none. Ours, as in
    pre-training."""
    least_entropy: float = 1e-3
    """Nats a token; below it the policy has collapsed. Ours: far below what a trained policy shows."""
    collapsed_steps: int = 3
    """Collapsed steps in a row that end the run; 0 watches for none. Ours."""
