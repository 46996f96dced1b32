"""Byte-level BPE: any text comes back; digits stay single; what is trained is what is saved."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from openmimo.data.tokenizer import (
    SPECIAL_TOKENS,
    THINK_TOKENS,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

TEXTS = ["def f(xs):\n    return [x + 12 for x in xs]", "Let a = 3, b = a * 7. Find b.", "the list, the sum, 1999"] * 30
TOKENIZER = train_tokenizer(TEXTS, 400)
QWEN2 = Path(__file__).parents[2].parent / "shared" / "data" / "qwen2-tokenizer"

WILD = st.lists(
    st.one_of(st.text(), st.sampled_from(["😀", "\0", "\u2028", "\r\n", "\ufeff", "e\u0301", " 42", *SPECIAL_TOKENS]))
).map("".join)


@settings(max_examples=300, deadline=None)
@given(WILD)
def test_any_text_comes_back_byte_for_byte(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@given(st.text(alphabet="0123456789 ab+-", max_size=60))
@settings(deadline=None)
def test_no_token_holds_two_digits(text: str) -> None:
    for token in TOKENIZER.encode(text).tokens:
        assert sum(c.isdigit() for c in token) <= 1, token


def test_no_entry_of_the_vocabulary_holds_two_digits_or_a_name_with_a_symbol() -> None:
    for token in set(TOKENIZER.get_vocab()) - set(SPECIAL_TOKENS) - set(THINK_TOKENS):
        plain = token.replace("Ġ", "")
        if plain.isascii():
            assert sum(c.isdigit() for c in plain) <= 1, token
            assert not (any(map(str.isalpha, plain)) and any(not c.isalnum() for c in plain)), token


def test_special_and_think_tokens_are_one_token_each() -> None:
    for token in (*SPECIAL_TOKENS, *THINK_TOKENS):
        assert len(TOKENIZER.encode(token).ids) == 1
    ids = TOKENIZER.encode("<think> 1 </think> 2<|im_end|>").ids
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<think> 1 </think> 2"


def test_the_vocabulary_never_exceeds_what_was_asked_for() -> None:
    for size in (261, 270, 400):
        assert train_tokenizer(TEXTS, size).get_vocab_size() <= size
    with pytest.raises(ValueError, match="vocab_size 260 is too small: bytes and special tokens take 261"):
        train_tokenizer(TEXTS, 260)


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert train_tokenizer(TEXTS, 400).to_str() == TOKENIZER.to_str()


def test_a_saved_tokenizer_is_loaded_as_it_was(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path / "t", chat_template="{{ messages }}", max_length=64)
    assert load_tokenizer(tmp_path / "t").to_str() == TOKENIZER.to_str()
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_qwen2s_tokenizer_gives_the_published_ids(tmp_path: Path) -> None:
    if not QWEN2.is_dir():
        pytest.skip("../shared/data/qwen2-tokenizer is not there")
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((QWEN2 / "tokenizer.json.gz").read_bytes()))
    qwen2: Tokenizer = load_tokenizer(tmp_path)
    assert qwen2.get_vocab_size() == 151_665
    assert [qwen2.token_to_id(t) for t in SPECIAL_TOKENS] == [151_643, 151_644, 151_645]
    assert qwen2.encode("Hello, world! 2024").ids == [9707, 11, 1879, 0, 220, 17, 15, 17, 19]
    for text in ("😀\u2028\0 naïve <think>", "\tif x:\r\n\n  y"):
        assert qwen2.decode(qwen2.encode(text).ids, skip_special_tokens=False) == text
