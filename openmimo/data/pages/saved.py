"""Pieces of a page that come through extraction unchanged: formulas and code, behind placeholders (MiMo 2.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["inline", "display", "code"]


MARK = "\ufdd0"
"""Starts every placeholder: a code point that is never a character."""


@dataclass
class Saved:
    """What was taken out of one page, by placeholder."""

    pieces: list[tuple[Kind, str]] = field(default_factory=list)
    """Kind and the text that goes back."""

    def put(self, kind: Kind, text: str) -> str:
        """Keep a piece and return what stands for it."""
        self.pieces.append((kind, text))
        return f"{MARK}{len(self.pieces) - 1};"

    def formula(self, tex: str, *, display: bool) -> str:
        return self.put("display" if display else "inline", f"$${tex}$$" if display else f"${tex}$")

    def count_in(self, text: str) -> int:
        """How many pieces have their placeholder in this text."""
        return len(set(re.findall(rf"{MARK}\d+;", text))) if self.pieces else 0

    def put_back(self, text: str) -> str:
        """The text with every piece in its place; displays and code on lines of their own."""
        first, *rest = re.split(rf"{MARK}(\d+);", text.replace("\0", ""))
        parts = [first]
        for number, after in zip(rest[::2], rest[1::2], strict=True):
            if int(number) >= len(self.pieces):  # the page's own
                parts.append(after)
                continue
            kind, content = self.pieces[int(number)]
            if kind == "inline":
                parts += (content, after)
            else:  # a block eats the blanks around it; its borders become line breaks below
                parts[-1] = parts[-1].rstrip(" \t")
                parts += (f"\0{content}\0", after.lstrip(" \t"))
        text = "".join(parts)
        if "\0" in text:
            text = re.sub("\n*\0\n*(?:\0\n*)?", lambda m: "\n\n" if m.group().count("\n") >= 2 else "\n", text)
        return text.replace(MARK, "")
