"""Messages JSONL: both forms that the ecosystem has, and every way in which a line can be broken."""

import gzip
import json
from pathlib import Path

import pytest

from openmimo.data.messages import BROKEN, read_conversations

USER, ASSISTANT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def read(folder: Path, *lines: str) -> list[tuple[int, str]]:
    path = folder / "a.jsonl"
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return [(line.number, line.reason) for line in read_conversations(path)]


def line_of(*messages: object, **more: object) -> str:
    return json.dumps({"messages": list(messages), **more})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (line_of(USER, ASSISTANT), ""),
        (line_of({"role": "system", "content": "s"}, USER, ASSISTANT, USER, ASSISTANT), ""),
        ('{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}', ""),
        ("{nope", "not_json"),
        ("[" * 100_000, "not_json"),
        ("[]", "no_messages"),
        ("3", "no_messages"),
        ("{}", "no_messages"),
        ('{"messages": []}', "no_messages"),
        ('{"messages": "a"}', "no_messages"),
        ('{"messages": ["a"]}', "no_messages"),
        (line_of({"role": "tool", "content": "a"}, ASSISTANT), "unknown_role"),
        (line_of({"content": "a"}, ASSISTANT), "unknown_role"),
        (line_of({"role": ["user"], "content": "a"}, ASSISTANT), "unknown_role"),
        (line_of(USER, {"role": "assistant", "content": " \n"}), "empty_content"),
        (line_of(USER, {"role": "assistant"}), "empty_content"),
        (line_of(USER, {"role": "assistant", "content": None, "tool_calls": []}), "empty_content"),
        (line_of({"role": "user", "content": [{"type": "image"}]}, ASSISTANT), "empty_content"),
        (line_of(ASSISTANT), "no_query"),
        (line_of(USER), "no_answer"),
        (line_of(USER, ASSISTANT, USER), "no_answer"),
        (line_of(USER, {"role": "assistant", "content": "\ud800"}), "not_unicode"),
    ],
)
def test_a_line_is_a_conversation_or_says_why_not(line: str, reason: str, tmp_path: Path) -> None:
    assert read(tmp_path, line) == [(1, reason)] and (reason in BROKEN or not reason)


def test_broken_lines_are_passed_over_with_their_numbers(tmp_path: Path) -> None:
    good = line_of(USER, ASSISTANT)
    assert read(tmp_path, good, "", "{", "  ", good) == [(1, ""), (3, "not_json"), (5, "")]
    path = tmp_path / "b.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good.encode() + b"\r\n\xff\n" + good.encode())
    assert [line.reason for line in read_conversations(path)] == ["", "not_json", ""]


def test_a_line_separator_in_a_string_ends_no_line_and_other_keys_stay(tmp_path: Path) -> None:
    text = json.dumps(
        {"messages": [{**USER, "content": "a\u2028b", "name": "x"}, ASSISTANT], "source": {"a": [1]}},
        ensure_ascii=False,
    )
    assert read(tmp_path, text) == [(1, "")]
    (line,) = read_conversations(tmp_path / "a.jsonl")
    assert line.row == json.loads(text)


def test_sharegpt_comes_out_as_messages(tmp_path: Path) -> None:
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "a", "k": 1}, {"from": "gpt", "value": "b"}]
    read(tmp_path, json.dumps({"conversations": turns, "id": 7}))
    (line,) = read_conversations(tmp_path / "a.jsonl")
    assert line.row == {
        "messages": [{"role": "system", "content": "s"}, {**USER, "k": 1}, ASSISTANT],
        "id": 7,
    }


def test_gzip_is_read_and_a_torn_one_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    packed = gzip.compress((line_of(USER, ASSISTANT) + "\n").encode() * 50)
    path.write_bytes(packed)
    assert sum(1 for _ in read_conversations(path)) == 50
    path.write_bytes(packed[:-9])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is no whole gzip file"):
        list(read_conversations(path))
    with pytest.raises(ValueError, match=r"b\.jsonl does not exist; the nearest is .*a\.jsonl\.gz"):
        list(read_conversations(tmp_path / "b.jsonl"))
