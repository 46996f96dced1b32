"""Tokens to text: what may go out, what is held back, where stop texts cut; the same however the tokens came."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from served import CHAT

from openmimo.data.chat import Chat
from openmimo.data.tokenizer import train_tokenizer
from openmimo.engine.server.stream import TextStream


def test_half_characters_and_half_stop_texts_are_held_back() -> None:
    stream = TextStream(CHAT.decode, (256,), ["END"])
    euro = tuple("€".encode())
    assert stream.push((*b"a", *euro[:2]), False) == ("a", False)
    assert stream.push(euro[2:], False) == ("€", False)
    assert stream.push(b"bE", False) == ("b", False)
    assert stream.push(b"N", False) == ("", False)
    assert stream.push(b"dEND...", False) == ("ENd", True)
    assert len(stream.offsets) == 1 + 3 + 2 + 1 + 4, "the tokens after the stop text are not taken"


def test_what_was_held_back_comes_at_the_end_without_the_stop_token() -> None:
    stream = TextStream(CHAT.decode, (256,), ["END"])
    assert stream.push(b"xEN", False) == ("x", False)
    assert stream.push((256,), True) == ("EN", False)
    late = TextStream(CHAT.decode, (256,), ["END"])
    assert late.push(b"xEN", False) == ("x", False)
    assert late.push((), True) == ("EN", False)


def test_offsets_say_where_each_tokens_text_begins() -> None:
    stream = TextStream(CHAT.decode, (256,), ())
    stream.push((*b"a", *"€".encode(), *b"b"), True)
    assert stream.offsets == [0, 1, 1, 1, 2]


@given(
    st.lists(st.one_of(st.sampled_from(b"abEND\xe2\x82\xac\xff"), st.integers(0, 255)), max_size=30),
    st.lists(st.sampled_from(["END", "ab", "b", "\u20ac", "a\u20acb"]), max_size=3, unique=True),
    st.lists(st.integers(0, 30), max_size=6),
)
def test_the_text_is_the_same_however_the_tokens_came(token_ids: list[int], stops: list[str], cuts: list[int]) -> None:
    def text(borders: list[int]) -> tuple[str, bool, list[int]]:
        stream = TextStream(CHAT.decode, (), stops)
        pieces = []
        for start, stop in itertools.pairwise([0, *borders, len(token_ids)]):
            piece, stopped = stream.push(token_ids[start:stop], stop == len(token_ids))
            pieces.append(piece)
            if stopped:
                return "".join(pieces), True, stream.offsets
        return "".join(pieces), False, stream.offsets

    whole = text([])
    assert text(sorted(min(cut, len(token_ids)) for cut in cuts)) == whole
    assert text(list(range(1, len(token_ids)))) == whole
    decoded = CHAT.decode(tuple(token_ids))
    assert decoded.startswith(whole[0])
    assert not any(stop in whole[0] for stop in stops)
    assert whole[1] or whole[0] == decoded


@given(st.text(max_size=40))
def test_a_real_tokenizers_text_comes_out_whole_and_its_bytes_add_up(text: str) -> None:
    chat = CHAT_OF_TOKENIZER
    token_ids = chat.encode(text)
    stream = TextStream(chat.decode, (), ())
    pieces = [stream.push((token_id,), n == len(token_ids) - 1)[0] for n, token_id in enumerate(token_ids)]
    assert "".join(pieces) == chat.decode(token_ids) == text
    assert b"".join(map(chat.token_bytes, token_ids)).decode() == text


def test_a_special_token_has_its_name_for_bytes_and_an_unknown_one_none() -> None:
    chat = CHAT_OF_TOKENIZER
    end = chat.tokenizer.token_to_id("<|im_end|>")
    assert chat.token_bytes(end) == b"<|im_end|>"
    assert chat.token_bytes(chat.tokenizer.token_to_id("<think>")) == b"<think>"
    assert chat.token_bytes(10**6) == b""


CHAT_OF_TOKENIZER = Chat(train_tokenizer(["the quick brown fox, \u00e9t\u00e9 \u20ac"] * 3, 300))
