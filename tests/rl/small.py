"""A small RL run without a run folder's other stages: an untrained model whose responses are read as one of three."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from openmimo import checkpoint
from openmimo.data.chat import Chat
from openmimo.data.tokenizer import train_tokenizer
from openmimo.engine.engine import Engine, EngineConfig
from openmimo.log import read_metrics
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.rl.config import RLConfig
from openmimo.rl.train import train
from openmimo.train.optim import OptimConfig
from openmimo.train.pretrain import seeded_model
from openmimo.train.step import TrainState
from openmimo.types import Problem, Verdict

MODEL = MiMoConfig(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=64, initializer_range=0.2,
    num_nextn_predict_layers=1,
)  # fmt: skip
CONFIG = RLConfig(
    steps=4, batch_groups=4, num_rollouts=4, minibatch_groups=2, learning_rate=3e-3, max_new_tokens=8, context=48,
    temperature=1.0, max_active_groups=3, alpha=0.3, validate_every=2, show_every=2, keep_last=2,
    optim=OptimConfig(weight_decay=0.0),
)  # fmt: skip
PROBLEMS = [Problem(f"p{n}", f"say {n}", "math", answer="0", family=f"family{n % 2}") for n in range(10)]


class Digits(Chat):
    """Reads a response as a digit, 0 to 2, of its token ids; 0 is right."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return str((token_ids[0] + len(token_ids)) % 3)


CHAT = Digits(train_tokenizer(["say 0 1 2 3 4 5 6 7 8 9"] * 3, 300))


class ThreadJudge:
    """In threads, after a random moment."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.pool, self.delay_s = ThreadPoolExecutor(2), delay_s

    def submit(self, problem: Problem, text: str) -> Future[Verdict]:
        return self.pool.submit(self.judge, problem, text)

    def judge(self, problem: Problem, text: str) -> Verdict:
        time.sleep(random.random() * self.delay_s)
        return Verdict("accepted" if text == problem.answer else "wrong_answer")


def policy() -> MiMo:
    return seeded_model(MiMo(MODEL), 3)


def make_engine(number: int = 0) -> Engine:
    return Engine(policy(), EngineConfig(max_batch_size=8, max_model_len=48))


def run(
    out: Path,
    config: RLConfig = CONFIG,
    *,
    engine: Any = None,
    judge: Any = None,
    problems: Sequence[Problem] = PROBLEMS,
    save_model: Callable[[Path], object] | None = None,
) -> TrainState:
    """Train, or go on."""
    model = policy()
    out.mkdir(exist_ok=True)

    def validate(version: int) -> tuple[dict[str, float], dict[str, float]]:
        value = float(model.lm_head.weight.detach().sum())
        return {"validation": value}, {"validation_idle": 0.5}

    engine = engine or make_engine()
    torch.manual_seed(5)  # as run_stages does
    return train(
        model, problems, config, chat=CHAT, engine=engine, judge=judge or ThreadJudge(), seed=5,
        out=out, checkpoints=out / "checkpoints", seen=[("p1", 0.5, 6.0)], mixes=lambda prompt, text: text == "2",
        validate=validate, save_model=save_model,
    )  # fmt: skip


def left_behind(out: Path) -> tuple[Any, Any]:
    """The last checkpoint, and every line of metrics without its timing."""
    lines = [{k: v for k, v in row.items() if k != "timing"} for row in read_metrics(out)]
    return checkpoint.latest(out / "checkpoints"), lines


def differing(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two states differ by a bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {*one, *other}
        return [w for key in keys for w in differing(one.get(key), other.get(key), f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        return [w for n, pair in enumerate(zip(one, other, strict=True)) for w in differing(*pair, f"{where}/{n}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [where]
