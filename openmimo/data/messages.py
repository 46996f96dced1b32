"""Messages JSONL as the ecosystem has it: one conversation a line, broken lines named and passed over.

`{"messages": [{"role", "content"}, ...]}`, or ShareGPT's `{"conversations": [{"from", "value"}, ...]}`, which comes out
as the former. All other keys are kept, of rows and of messages. Left out: tool calls and pictures; such rows count as
`unknown_role` or `empty_content`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmimo.rows import read_lines

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
"""Roles, and what ShareGPT calls them."""

BROKEN = ("not_json", "not_unicode", "no_messages", "unknown_role", "empty_content", "no_query", "no_answer")
"""Why a line is no conversation to train on."""


@dataclass(frozen=True)
class Line:
    """One line of a file, in bytes that hold more than blanks."""

    number: int
    """From 1."""
    row: dict[str, Any]
    """With `messages`, a list of objects with role and content; {} if broken."""
    reason: str = ""
    """One of BROKEN, or nothing."""
    detail: str = ""
    text: str = ""
    """Of a broken line, how it begins."""


class _Broken(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


def read_conversations(path: Path) -> Iterator[Line]:
    """Every line that is not blank, one at a time; gzipped or not.

    Raises:
        ValueError: for a missing file or a torn gzip file.
    """
    for number, line in read_lines(path):
        try:
            yield Line(number, conversation_from(line))
        except _Broken as error:
            yield Line(number, {}, error.reason, error.detail, line[:2000].decode("utf-8", "replace").strip())


def conversation_from(line: bytes) -> dict[str, Any]:
    """The row of a line, its conversation as `messages`."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _Broken("not_json", str(error)) from error
    if not isinstance(row, dict):
        raise _Broken("no_messages", f"a {type(row).__name__}, expected an object")
    name = "messages" if "messages" in row else "conversations"
    turns = row.get(name)
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        have = ", ".join(map(str, sorted(row)))
        raise _Broken("no_messages", f"no list of objects under messages or conversations; the row has {have}"[:200])
    messages = [_message(turn, number) for number, turn in enumerate(turns)]
    if all(message["role"] != "user" for message in messages):
        raise _Broken("no_query", "no message is the user's")
    if messages[-1]["role"] != "assistant":
        raise _Broken("no_answer", f"the last message is the {messages[-1]['role']}'s, expected the assistant's")
    row = {key: value for key, value in row.items() if key != name}
    try:
        json.dumps([messages, row], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _Broken("not_unicode", f"half of a surrogate pair: {error.reason}") from error
    return {"messages": messages, **row}


def _message(turn: dict[str, Any], number: int) -> dict[str, Any]:
    plain = "role" in turn
    role, content = (turn.get("role"), turn.get("content")) if plain else (turn.get("from"), turn.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise _Broken("unknown_role", f"message {number} has role {role!r}; {', '.join(ROLES)} are known"[:200])
    if not isinstance(content, str) or not content.strip():
        raise _Broken("empty_content", f"message {number} has content {content!r}, expected text"[:200])
    rest = {
        key: value for key, value in turn.items() if key not in (("role", "content") if plain else ("from", "value"))
    }
    return {"role": ROLES[role], "content": content, **rest}
