"""Claim: one GRPO step gives TRL's loss to 1e-5 where settings coincide, at twice its trained tokens per CPU-second.

    OMP_NUM_THREADS=1 python benchmarks/trl_step.py [benchmarks/results/trl_step.json]

The same Qwen2 folder, prompts, completions and rewards, float32, one thread, each contestant a process of its own.

Loss: one mini-batch, two iterations on it, so that the second has ratios off 1. TRL's GRPOTrainer with loss_type dapo
(the token mean), beta 0, epsilon 0.2 and epsilon_high 0.28. What had to be set to coincide: our advantages with TRL's
1e-4 beside the standard deviation in place of 1e-6, TRL's beta_2 0.95, weight decay 0 and a constant rate.

Speed: the training half on given rollouts (old log-probabilities, losses, backward passes, 4 updates), as trained
response tokens per CPU-second. TRL runs without gradient checkpointing, logging or saving, with PyTorch's attention;
what its loop spends on rollouts and rewards is taken off. Its other settings gave less on `tiny spread`, tried once
beforehand: 997 with eager attention, 1,259 with torch_compile after four minutes of compiling, 1,338 as it runs here.
`spread` has completions of many lengths, as a policy's are; `even` all of one, where TRL pads none of them. TRL packs
neither, ours both. Rounds are interleaved; a round is a process that takes one batch to warm up and then one.

`whole` has generation too, each with its own: our engine, and transformers' `generate` as TRL calls it, 64 tokens a
completion at most. `--only "tiny even"` measures one part; in the JSON it takes its place beside the others.

TRL needs its own environment (make trl).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import trl_peer

from openmimo.model.config import MiMoConfig

TINY = MiMoConfig(
    vocab_size=768, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, rope_theta=1e4, max_position_embeddings=512, initializer_range=0.1,
    num_nextn_predict_layers=0,
)  # fmt: skip
SHAPES = {
    "tiny": TINY,
    "5M": replace(
        TINY, vocab_size=4096, hidden_size=256, intermediate_size=704, num_hidden_layers=5, head_dim=64,
        initializer_range=0.05,
    ),
}  # fmt: skip
GROUPS, SIZE, UPDATES, MOST = 16, 8, 4, 256
CONTEXT = 1024
MOST_GENERATED = 64
LEARNING_RATE, TEMPERATURE = 1e-3, 1.0
PARTS = ("loss", "tiny spread", "tiny even", "5M spread", "whole")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("result", nargs="?", type=Path)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not trl_peer.PYTHON.is_file():
        sys.exit(f"{trl_peer.PYTHON} is missing: make trl")
    result = arguments.result
    found = json.loads(result.read_text(encoding="utf-8")).get("measured", {}) if result and result.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [arguments.only] if arguments.only else PARTS:
            found[name] = {"commit": record.commit(), **part(name, Path(folder), arguments.rounds)}
            print(name, found[name], file=sys.stderr)
            record.write(
                "one GRPO step against TRL's GRPOTrainer: loss, and trained tokens per CPU-second",
                "OMP_NUM_THREADS=1 python benchmarks/trl_step.py",
                {
                    "groups": GROUPS,
                    "completions a group": SIZE,
                    "updates": UPDATES,
                    "row": CONTEXT,
                    "measured": {key: found[key] for key in PARTS if key in found},
                },
                threads=1,
            )


def part(name: str, place: Path, num_rounds: int) -> dict[str, Any]:
    """The figures of one of PARTS."""
    size, kind = name.split() if " " in name else ("tiny", "spread")
    model = write_model(place / size, SHAPES[size])
    rollouts = write_rollouts(place / "rollouts.json", SHAPES[size].vocab_size, kind)
    if name == "loss":
        return equal_losses(place, model, rollouts)
    if name == "whole":
        return measured_whole(place, model, rollouts, num_rounds)
    return measured(place, model, rollouts, num_rounds)


def write_model(folder: Path, shape: MiMoConfig) -> Path:
    """A random Qwen2 folder with a tokenizer."""
    import torch

    from openmimo.data.chat import CHAT_TEMPLATE
    from openmimo.data.tokenizer import save_tokenizer, train_tokenizer
    from openmimo.model.hf import save_folder
    from openmimo.model.mimo import MiMo

    tokenizer = train_tokenizer(["prompt 0123456789 and what is said of it"] * 9, 300)
    beside, longest = folder.with_name("tokenizer"), shape.max_position_embeddings
    save_tokenizer(tokenizer, beside, chat_template=CHAT_TEMPLATE, max_length=longest)
    model = MiMo(shape).init_weights(torch.Generator().manual_seed(0))
    return save_folder(model, folder, format="qwen2", tokenizer_from=beside)


def write_rollouts(path: Path, vocabulary: int, kind: str) -> Path:
    """Groups of random tokens; lengths of completions exponential around 64, 16 to MOST, or all 128."""
    rng = random.Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(10, 290 if vocabulary < 1000 else vocabulary) for _ in range(count)]

    def length() -> int:
        return 128 if kind == "even" else min(MOST, 16 + int(rng.expovariate(1 / 64)))

    rows = [
        {
            "prompt": ids(rng.randrange(24, 64)),
            "completions": [ids(length()) for _ in range(SIZE)],
            "rewards": [1.0, 0.0, *(float(rng.random() < 0.4) for _ in range(SIZE - 2))],
        }
        for _ in range(GROUPS)
    ]
    path.write_text(json.dumps(rows))
    return path


def settings_of(place: Path, folder: Path, rollouts: Path, **changes: Any) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "rollouts": str(rollouts),
        "out": str(place / "out"),
        "updates_a_batch": UPDATES,
        "num_iterations": 1,
        "batches": 2,
        "max_completion_length": MOST,
        "learning_rate": LEARNING_RATE,
        "temperature": TEMPERATURE,
        **changes,
    }


def ask(command: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    """What a contestant answers, in a process of its own."""
    path = Path(settings["out"]).with_suffix(".json")
    path.write_text(json.dumps(settings))
    done = subprocess.run(
        [*command, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(record.ROOT)},
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().split("\n")[-1])
    return answer


OURS = [sys.executable, __file__]
TRL = [str(trl_peer.PYTHON), trl_peer.__file__]


def equal_losses(place: Path, folder: Path, rollouts: Path) -> dict[str, Any]:
    settings = settings_of(place, folder, rollouts, updates_a_batch=1, num_iterations=2, batches=1)
    ours, theirs = ask(OURS, {**settings, "work": "losses"}), ask(TRL, settings)
    gaps = [abs(a - b) for a, b in zip(ours["losses"], theirs["losses"], strict=True)]
    found = {"openmimo": ours["losses"], "trl": theirs["losses"], "largest difference": max(gaps)}
    return {**found, "versions": theirs["versions"]}


def measured(place: Path, folder: Path, rollouts: Path, num_rounds: int) -> dict[str, Any]:
    """Trained tokens per CPU-second of both, and the ratio paired by round."""
    settings = settings_of(place, folder, rollouts)
    trained = sum(len(c) for row in json.loads(rollouts.read_text()) for c in row["completions"])

    def rate(command: list[str], work: str) -> float:
        spent = ask(command, {**settings, "work": work})["cpu_s"]
        return trained * len(spent) / sum(spent)

    rates: dict[str, list[float]] = {"openmimo": [], "trl": []}
    for number in range(num_rounds):
        for name, command in list({"openmimo": OURS, "trl": TRL}.items())[:: -1 if number % 2 else 1]:
            rates[name].append(rate(command, "steps"))
    found = {
        "trained_tokens": trained,
        "tokens_per_cpu_s": {name: record.spread(values, digits=1) for name, values in rates.items()},
        "openmimo / trl": record.over(rates, "openmimo", "trl"),
    }
    return found


def measured_whole(place: Path, folder: Path, rollouts: Path, num_rounds: int) -> dict[str, Any]:
    """Generated and trained tokens per CPU-second of whole steps, each with its own generation."""
    settings = settings_of(place, folder, rollouts, generate=True, max_completion_length=MOST_GENERATED)

    def rate(command: list[str]) -> float:
        found = ask(command, {**settings, "work": "whole"})
        return sum(found["generated_tokens"]) / sum(found["whole_cpu_s"])

    rates: dict[str, list[float]] = {"openmimo": [], "trl": []}
    for number in range(num_rounds):
        for name, command in list({"openmimo": OURS, "trl": TRL}.items())[:: -1 if number % 2 else 1]:
            rates[name].append(rate(command))
    found = {
        "tokens a completion": MOST_GENERATED,
        "tokens_per_cpu_s": {name: record.spread(values, digits=1) for name, values in rates.items()},
        "openmimo / trl": record.over(rates, "openmimo", "trl"),
    }
    return found


def contestant(path: str) -> None:
    """Ours, in a process of its own."""
    import torch

    from openmimo.data.pack import Sample, pack
    from openmimo.model.hf import load_folder
    from openmimo.rl.advantage import advantages
    from openmimo.rl.config import RLConfig
    from openmimo.rl.loss import policy_loss
    from openmimo.rl.train import update
    from openmimo.train.loss import token_logprobs
    from openmimo.train.optim import OptimConfig, Optimizer
    from openmimo.train.step import TrainState, on_device, train_step

    torch.set_num_threads(1)
    settings = json.loads(Path(path).read_text())
    groups = []
    for number, row in enumerate(json.loads(Path(settings["rollouts"]).read_text())):
        prompt = row["prompt"]
        groups.append(
            [
                Sample(
                    (*prompt, *ids), (0.0,) * len(prompt) + (1.0,) * len(ids), advantage=advantage,
                    old_logprobs=(0.0,) * (len(prompt) + len(ids)), group=number,
                )
                for ids, advantage in zip(row["completions"], advantages(row["rewards"], eps=1e-4), strict=True)
            ]
        )  # fmt: skip
    config = RLConfig(
        batch_groups=GROUPS, minibatch_groups=GROUPS // settings["updates_a_batch"], context=CONTEXT,
        learning_rate=settings["learning_rate"], temperature=settings["temperature"],
        optim=OptimConfig(weight_decay=0.0),
    )  # fmt: skip
    model = load_folder(Path(settings["folder"]), dtype=torch.float32)
    state = TrainState(model, Optimizer(model, config.optim))
    loss = policy_loss(clip_low=0.2, clip_high=0.28, temperature=config.temperature)
    if settings["work"] == "losses":
        batch = pack([sample for group in groups for sample in group], CONTEXT)
        with torch.no_grad():
            old, _ = token_logprobs(model, on_device(batch, torch.device("cpu")), config.temperature)
        batch = replace(batch, old_logprobs=old.numpy())
        taken = [train_step(state, batch, loss, learning_rate=config.learning_rate) for _ in range(2)]
        print(json.dumps({"losses": [metrics["loss"] for metrics in taken]}))
        return
    if settings["work"] == "whole":
        print(json.dumps(whole_steps(state, loss, config, settings)))
        return
    spent = []
    for step in range(settings["batches"]):
        began = time.process_time()
        update(state, groups, loss, config, seed=0, step=step)
        spent.append(time.process_time() - began)
    print(json.dumps({"cpu_s": spent[1:]}))


def whole_steps(state: Any, loss: Any, config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Generation by our engine, training, and the weights back to the engine."""
    from openmimo.engine.engine import Engine, EngineConfig
    from openmimo.model.hf import load_folder
    from openmimo.rl.train import to_samples, update
    from openmimo.types import Group, Problem, Request, Sampling

    most = settings["max_completion_length"]
    engine = Engine(load_folder(Path(settings["folder"])), EngineConfig(max_model_len=64 + most))
    prompts = [tuple(row["prompt"]) for row in json.loads(Path(settings["rollouts"]).read_text())]
    spent: dict[str, list[float]] = {"whole_cpu_s": [], "generated_tokens": []}
    for step in range(settings["batches"]):
        began = time.process_time()
        requests = [
            Request(prompt, Sampling(most, temperature=config.temperature, seed=(step * GROUPS + n) * SIZE + s))
            for n, prompt in enumerate(prompts)
            for s in range(SIZE)
        ]
        made = engine.generate(requests)
        groups = [
            Group(
                Problem(str(n), "", "math"),
                tuple(made[n * SIZE : (n + 1) * SIZE]),
                (),
                rewards=(0.0, 1.0) * (SIZE // 2),
            )
            for n in range(GROUPS)
        ]
        update(state, [to_samples(group, n) for n, group in enumerate(groups)], loss, config, seed=0, step=step)
        engine.update_weights(state.model.state_dict(), step + 1)
        spent["whole_cpu_s"].append(time.process_time() - began)
        spent["generated_tokens"].append(sum(len(rollout.token_ids) for rollout in made))
    return {name: values[1:] for name, values in spent.items()}


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].endswith("out.json"):
        contestant(sys.argv[1])
    else:
        main()
