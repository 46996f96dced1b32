"""Byte-level BPE: training, saving, loading. Any text comes back byte for byte (256 base bytes, no unknown token).

The pre-tokenizer keeps digits single and symbols apart from names, as arithmetic and code want, so a name is the same
token after any symbol; each keeps its leading space. Files are tokenizer.json and tokenizer_config.json as
`transformers` reads them; the chat template lies in the latter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from openmimo.config import missing_file

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
THINK_TOKENS = ("<think>", "</think>")
"""Ordinary text to a decoder, but one token each."""

WORDS = r" ?\p{L}+| ?\p{N}| ?([^\s\p{L}\p{N}])\1*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a BPE tokenizer of at most `vocab_size` entries, special tokens included.

    Raises:
        ValueError: if vocab_size cannot hold the 256 bytes and the special tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS) + len(THINK_TOKENS)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size {vocab_size} is too small: bytes and special tokens take {smallest}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(THINK_TOKENS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(list(THINK_TOKENS))
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, chat_template: str, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": chat_template,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [IM_START, IM_END],
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a Hugging Face folder.

    Raises:
        ValueError: if the folder does not exist, or has no tokenizer.json that can be read.
    """
    path = folder / "tokenizer.json"
    if not folder.exists():
        raise missing_file(folder)
    if not path.is_file():
        raise ValueError(f"{folder} has no tokenizer.json; a Hugging Face folder holds one beside config.json")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(f"{path} is no tokenizer: {error}") from error
