"""Tokens to text as they come: what is settled goes out at once, what could still change is held back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[tuple[int, ...]], str]


class TextStream:
    """Turns one response's tokens into pieces of text, cut at stop texts.

    Text that could still change is held back: a character whose bytes are not complete, and what may be the beginning
    of a stop text. Tokens are taken one by one, so the text is the same however they came: one a step, several (as
    speculation gives), or all at the end. Only a window of tokens is decoded each time, from the last settled
    character but one on, because some tokenizers write a text's first token differently.
    """

    def __init__(self, decode: Decode, stop_token_ids: Sequence[int], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop_token_ids = frozenset(stop_token_ids)
        self._stop = tuple(stop)
        self._window: list[int] = []
        self._settled = 0  # tokens at the window's beginning whose text is complete
        self._seen = 0  # characters of the window's text that have been taken
        self._held = ""
        self._length = 0  # characters decoded so far
        self.offsets: list[int] = []
        """For every token taken: where its text begins, in characters. Its length is the number of tokens taken."""

    def push(self, token_ids: Sequence[int], finished: bool) -> tuple[str, bool]:
        """New text of new tokens, and whether a stop text ended the response; the tokens after it are not taken."""
        pieces: list[str] = []
        for n, token_id in enumerate(token_ids):
            last = finished and n == len(token_ids) - 1
            piece, stopped = self._take(token_id, last)
            pieces.append(piece)
            if stopped:
                return "".join(pieces), True
        if finished and not token_ids:
            piece, stopped = self._cut(self._rest(), True)
            return piece, stopped
        return "".join(pieces), False

    def _take(self, token_id: int, last: bool) -> tuple[str, bool]:
        self.offsets.append(self._length)
        if token_id not in self._stop_token_ids:
            self._window.append(token_id)
        return self._cut(self._rest() if last else self._complete(), last)

    def _complete(self) -> str:
        """New text without the replacement characters at its end: they may be the first bytes of a character."""
        text = self._decode(tuple(self._window))
        end = max(self._seen, len(text.rstrip("\ufffd")))
        new = text[self._seen : end]
        self._seen = end
        self._length += len(new)
        if end == len(text) and len(self._window) > self._settled:
            del self._window[: self._settled]
            self._settled = len(self._window)
            self._seen = len(self._decode(tuple(self._window)))
        return new

    def _rest(self) -> str:
        """New text, complete or not."""
        new = self._decode(tuple(self._window))[self._seen :]
        self._seen += len(new)
        self._length += len(new)
        return new

    def _cut(self, new: str, last: bool) -> tuple[str, bool]:
        """What of the held and new text may go out, and whether it was cut at a stop text."""
        text = self._held + new
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        end = len(text) if last else len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[end:]
        return text[:end], False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
