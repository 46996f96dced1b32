"""The chat format: messages to token ids, and which of them are the assistant's.

ChatML as Qwen2 has it, no system message unless one is given (decision 0023): reasoning between `<think>` and
`</think>`, then the answer. A folder's own template wins where it has one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from openmimo.data.tokenizer import END_OF_TEXT, IM_END, load_tokenizer

Message = dict[str, str]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Chat:
    """A tokenizer with its chat template."""

    def __init__(self, tokenizer: Tokenizer, template: str = CHAT_TEMPLATE, end_token: str = IM_END) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._render = _compile(template, end_token)
        self._is_byte_level = "ByteLevel" in repr(tokenizer.decoder)
        special = [str(t.content) for t in tokenizer.get_added_tokens_decoder().values() if t.special]
        self._ends = tuple(sorted({*special, end_token}, key=lambda token: (-len(token), token)))
        ids = (tokenizer.token_to_id(token) for token in (end_token, END_OF_TEXT, self._end_of_turn()))
        self.stop_token_ids: tuple[int, ...] = tuple(dict.fromkeys(token for token in ids if token is not None))
        """What ends an answer: the tokenizer's end token, the end of a text, the template's own end of a turn."""

    @classmethod
    def load(cls, folder: Path) -> Chat:
        """From a Hugging Face folder: its own template, from tokenizer_config.json or chat_template.jinja, wins."""
        tokenizer = load_tokenizer(folder)
        path = folder / "tokenizer_config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        end = config.get("eos_token") or IM_END
        if isinstance(end, dict):  # an AddedToken, as older files have it
            end = end["content"]
        template = config.get("chat_template") or CHAT_TEMPLATE
        if isinstance(template, list):  # several, by name
            template = next((t["template"] for t in template if t["name"] == "default"), CHAT_TEMPLATE)
        if (folder / "chat_template.jinja").is_file():
            template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        return cls(tokenizer, template, end)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to the text, byte for byte; of a special token its name, of an unknown id nothing."""
        token = self.tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if not self._is_byte_level:
            return self.tokenizer.decode([token_id], skip_special_tokens=False).encode()
        if any(letter not in _BYTE_OF for letter in token):
            return token.encode()  # an added token is written as it is
        return bytes(_BYTE_OF[letter] for letter in token)

    def render_prompt(self, text: str) -> tuple[int, ...]:
        """A user's message, ready for the assistant to answer."""
        return self.render_messages([{"role": "user", "content": text}])

    def render_messages(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """A conversation, ready for the assistant to answer."""
        ids, _ = self.render_training(messages)
        return ids + self.encode(self._turn(messages, len(messages)))

    def render_training(self, messages: Sequence[Message]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Token ids and loss weights: 1 on the assistant's tokens and the token that ends them, 0 elsewhere.

        Every assistant turn is encoded apart from its header, exactly as at inference time.

        Raises:
            ValueError: if the template cannot be trained on: it writes earlier messages differently once later ones
                have come, opens a written answer differently than one to be written, or ends it with no special token.
        """
        ids: list[int] = []
        weights: list[float] = []
        for n, message in enumerate(messages):
            before, after = self._render(messages[:n], False), self._render(messages[: n + 1], False)
            if not after.startswith(before):
                raise ValueError(f"the chat template rewrites earlier messages at message {n}; train without it")
            text = after[len(before) :]
            if message["role"] != "assistant":
                piece = self.encode(text)
                ids += piece
                weights += [0.0] * len(piece)
                continue
            header = self._turn(messages, n)
            if not text.startswith(header):
                raise ValueError(
                    f"the chat template opens the answer of message {n} with {text[: len(header)]!r} and one to be "
                    f"written with {header!r}; train with a template that opens both alike"
                )
            body = text[len(header) :].rstrip()
            rest = text[len(header) + len(body) :]
            if not body.endswith(self._ends):
                raise ValueError(
                    f"the chat template ends the answer of message {n} with {body[-20:]!r}, which is no special token "
                    f"of the tokenizer; {self._ends[0]!r} would be one: without it nothing teaches where to stop"
                )
            for part, weight in ((header, 0.0), (body, 1.0), (rest, 0.0)):
                piece = self.encode(part)
                ids += piece
                weights += [weight] * len(piece)
        return tuple(ids), tuple(weights)

    def _end_of_turn(self) -> str:
        """The special token with which the template ends an answer; nothing if it ends with none."""
        from jinja2.exceptions import TemplateError

        probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            text = self._render(probe, False).rstrip()
        except (TemplateError, ValueError):  # a template that refuses the probe is refused where it is used
            return ""
        return next((token for token in self._ends if text.endswith(token)), "")

    def _turn(self, messages: Sequence[Message], n: int) -> str:
        """The header that opens the assistant's answer after the first n messages."""
        return self._render(messages[:n], True)[len(self._render(messages[:n], False)) :]


def _byte_letters() -> dict[str, int]:
    """The letter with which byte-level BPE writes each byte: printable ones as they are, the rest from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_letters()


@lru_cache(maxsize=8)
def _compile(template: str, end_token: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    compiled = environment.from_string(template)

    def render(messages: Sequence[Message], add_generation_prompt: bool) -> str:
        if not messages and not add_generation_prompt:
            return ""  # templates that look at messages[0] need one
        return compiled.render(
            messages=list(messages), add_generation_prompt=add_generation_prompt, eos_token=end_token, bos_token=""
        )

    return render


def _refuse(message: str) -> None:
    """What Hugging Face templates call `raise_exception`."""
    raise ValueError(f"the chat template refuses the messages: {message}")
