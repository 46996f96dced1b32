"""Claim: from process start to the first token, this engine is at least 20 times quicker than vLLM's in eager mode.

    OMP_NUM_THREADS=1 python benchmarks/engine_load.py [MODEL_FOLDER] [benchmarks/results/engine_load.json]

Wall time, one thread, in turn, every round a new process: `openmimo generate DIR PROMPT --max-new-tokens 1`, as a user
starts it, until it has printed its answer; and vLLM through the product's adapter with enforce_eager (no compiling),
until its first token, once as it comes (its core in a second process) and once with all in one process. vLLM is
given the prompt's ids and loads no tokenizer, and its pages are warm as ours are: the first round is thrown away. All
must give the same greedy token. Beside it stands the part of that time that is the engine's own, from the moment the
libraries are imported. The model is the 25 M one; random weights if no folder is given. Needs `make vllm`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record
from vllm_peer import PYTHON, VllmPeer

from openmimo.data.chat import CHAT_TEMPLATE, Chat
from openmimo.types import Request, Sampling

NUM_ROUNDS = 5
INSIDE = """
import sys, time
from pathlib import Path
from openmimo.talk import answer
began = time.perf_counter()
answer(Path(sys.argv[1]), [sys.argv[2]], max_new_tokens=1, temperature=0.0, top_p=1.0, n=1, seed=0)
print(time.perf_counter() - began)
"""
PROMPT = "Work modulo 10. Start 4. A + 9. B * 3. End?"


def main() -> None:
    if not PYTHON.exists():
        sys.exit(f"{PYTHON} does not exist, and there is nobody to compare with: make vllm builds it")
    folders = [Path(word) for word in sys.argv[1:] if not word.endswith(".json")]
    with tempfile.TemporaryDirectory() as name:
        folder = folders[0] if folders else random_folder(Path(name))
        chat = Chat.load(folder)
        works = {
            "engine": lambda: ours(folder),
            "vllm eager": lambda: theirs(folder, chat, one_process=False),
            "vllm eager, one process": lambda: theirs(folder, chat, one_process=True),
        }
        texts: dict[str, set[str]] = {who: set() for who in works}
        imported: dict[str, list[float]] = {who: [] for who in works}

        def timed(who: str) -> float:
            text, wall_s, imported_s = works[who]()
            texts[who].add(text)
            imported[who].append(imported_s)
            return wall_s

        started = record.interleaved({who: lambda who=who: timed(who) for who in works}, NUM_ROUNDS)
    if len(set.union(*texts.values())) != 1:
        sys.exit(f"not everyone gave the same first token: {texts}")
    imported = {who: values[1:] for who, values in imported.items()}  # the first round warmed up
    record.write(
        "process start to first token",
        "OMP_NUM_THREADS=1 python benchmarks/engine_load.py",
        {"from_process_start": compared(started), "from_imported_libraries": compared(imported)},
        threads=1,
    )


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "wall_s": {who: record.spread(values, "s", digits=2) for who, values in seconds.items()},
        "ratios": {f"{who} / engine": record.over(seconds, who, "engine") for who in seconds if who != "engine"},
    }


def ours(folder: Path) -> tuple[str, float, float]:
    """First token, seconds from process start, and, in another process, from the libraries' import on."""
    command = [sys.executable, "-m", "openmimo", "generate", str(folder), PROMPT]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--max-new-tokens", "1", "--temperature", "0", "--json"], capture_output=True, text=True, check=True
    )
    wall_s = time.perf_counter() - began
    inside = subprocess.run([sys.executable, "-c", INSIDE, str(folder), PROMPT], capture_output=True, check=True)
    return json.loads(done.stdout)[0]["text"], wall_s, float(inside.stdout)


def theirs(folder: Path, chat: Chat, *, one_process: bool) -> tuple[str, float, float]:
    """The same of vLLM, from one process."""
    began = time.perf_counter()
    settings: dict[str, Any] = {"max_model_len": 512, "max_batch_size": 32, "dtype": "float32", "enforce_eager": True}
    settings["num_token_ids"] = chat.tokenizer.get_vocab_size()
    with VllmPeer(folder, one_process=one_process, **settings) as peer:
        answer = peer.generate([Request(chat.render_prompt(PROMPT), Sampling(1, temperature=0.0))])
        wall_s = time.perf_counter() - began
    return chat.decode(answer.token_ids[0]), wall_s, peer.ready["load_s"] + answer.wall_s


def random_folder(parent: Path) -> Path:
    """The 25 M shape with random weights and a tokenizer."""
    import torch
    from medium_recipe import MEDIUM

    from openmimo.data.tokenizer import save_tokenizer, train_tokenizer
    from openmimo.model.hf import save_folder
    from openmimo.model.mimo import MiMo

    tokenizer = train_tokenizer([PROMPT] * 10, MEDIUM.vocab_size)
    save_tokenizer(tokenizer, parent / "tokenizer", chat_template=CHAT_TEMPLATE, max_length=512)
    model = MiMo(MEDIUM).init_weights(torch.Generator().manual_seed(0))
    return save_folder(model, parent / "model", tokenizer_from=parent / "tokenizer")


if __name__ == "__main__":
    main()
