"""TRL beside us: its GRPOTrainer on rollouts that it is given, in an environment of its own (`.venv-trl`: make trl).

`rollout_func` hands over prompts and completions as they are, and rewards stand beside them, so that what is measured
is TRL's training half alone: old log-probabilities, loss, backward pass, update. What its own loop spends in getting
rollouts and rewards is told apart. With `generate` it makes the completions itself.

    .venv-trl/bin/python benchmarks/trl_peer.py SETTINGS.json    -> one JSON object on standard output
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PYTHON = Path(__file__).resolve().parents[1] / ".venv-trl" / "bin" / "python"


def main(path: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not speak to the benchmark
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    torch.set_num_threads(1)
    settings = json.loads(Path(path).read_text())
    rollouts = json.loads(Path(settings["rollouts"]).read_text())
    size, groups = len(rollouts[0]["completions"]), len(rollouts)
    steps = settings["updates_a_batch"] * settings["num_iterations"] * settings["batches"]
    config = trl.GRPOConfig(
        output_dir=settings["out"],
        per_device_train_batch_size=groups * size // settings["updates_a_batch"],
        gradient_accumulation_steps=1,
        steps_per_generation=settings["updates_a_batch"],
        num_iterations=settings["num_iterations"],
        num_generations=size,
        max_steps=steps,
        max_completion_length=settings["max_completion_length"],
        learning_rate=settings["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type="dapo",
        scale_rewards="group",
        temperature=settings["temperature"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        torch_compile=settings.get("compile", False),
        seed=0,
    )
    model = AutoModelForCausalLM.from_pretrained(
        settings["folder"], dtype=torch.float32, attn_implementation=settings.get("attention", "sdpa")
    )
    tokenizer = AutoTokenizer.from_pretrained(settings["folder"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    order = {f"prompt {n}": n for n in range(groups)}

    def given(prompts: list[str], trainer: Any) -> dict[str, Any]:
        """Each prompt comes `size` times in a row."""
        asked = [(order[prompt], i % size) for i, prompt in enumerate(prompts)]
        return {
            "prompt_ids": [rollouts[g]["prompt"] for g, _ in asked],
            "completion_ids": [rollouts[g]["completions"][s] for g, s in asked],
            "logprobs": None,
        }

    def reward(prompts: list[str], **_: Any) -> list[float]:
        if settings.get("generate"):
            return [float(i % 2) for i in range(len(prompts))]
        return [rollouts[order[prompt]]["rewards"][i % size] for i, prompt in enumerate(prompts)]

    texts = list(order)
    if settings.get("generate"):
        texts = [tokenizer.decode(row["prompt"]) for row in rollouts]
    trainer = trl.GRPOTrainer(
        model,
        reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
        processing_class=tokenizer,
        **({} if settings.get("generate") else {"rollout_func": given}),
    )
    losses: list[float] = []
    outside = {"cpu_s": 0.0, "tokens": 0}
    compute_loss, generate, score = trainer.compute_loss, trainer._generate, trainer._calculate_rewards

    def kept(*args: Any, **options: Any) -> Any:
        value = compute_loss(*args, **options)
        losses.append(float(value.detach()))
        return value

    def timed(work: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            found = work(*args, **options)
            outside["cpu_s"] += time.process_time() - began
            if work is generate:
                outside["tokens"] += sum(map(len, found[1]))
            return found

        return call

    trainer.compute_loss, trainer._generate, trainer._calculate_rewards = kept, timed(generate), timed(score)
    marks: list[tuple[float, float, int]] = []

    class Mark(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % (settings["updates_a_batch"] * settings["num_iterations"]) == 0:
                marks.append((time.process_time(), outside["cpu_s"], outside["tokens"]))

    trainer.add_callback(Mark())
    trainer.train()
    pairs = list(itertools.pairwise(marks))
    answer = {
        "losses": losses,
        "whole_cpu_s": [b[0] - a[0] for a, b in pairs],
        "cpu_s": [(b[0] - a[0]) - (b[1] - a[1]) for a, b in pairs],
        "generated_tokens": [b[2] - a[2] for a, b in pairs],
        "threads": torch.get_num_threads(),
        "versions": {"trl": trl.__version__, "torch": torch.__version__},
    }
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
