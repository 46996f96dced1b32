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
        if not self.pieces:
            return text.replace(MARK, "")

        def piece(match: re.Match[str]) -> str:
            number = int(match.group(2))
            if number >= len(self.pieces):  # the page's own
                return ""
            kind, content = self.pieces[number]
            if kind == "inline":
                return match.group(1) + content + match.group(3)
            return f"\x00{content}\x00"  # a block: borders become line breaks below

        # A block eats the blanks around it; an inline piece keeps them.
        text = re.sub(rf"([ \t]*){MARK}(\d+);([ \t]*)", piece, text)
        return re.sub(r"\n*\x00\n*\x00\n*|\n*\x00\n*", lambda m: "\n\n" if m.group().count("\n") >= 2 else "\n", text)
