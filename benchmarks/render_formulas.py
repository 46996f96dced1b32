"""TeX rendered as web pages carry it, with KaTeX and MathJax from npm; and what two renderings have in common.

A module for `extract_formulas.py`. The renderers are installed into a folder of their own, by name and exact version;
without npm there is nothing to render, and `installed` says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("katex@0.16.22", "mathjax-full@3.2.2")
SCRIPT = Path(__file__).with_suffix(".cjs")


def installed(folder: Path) -> bool:
    """Install the renderers into `folder`, unless they are there; False if npm or node are missing."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return False
    if not (folder / "node_modules" / "mathjax-full").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n')
        subprocess.run(["npm", "install", "--silent", "--no-audit", *PACKAGES], cwd=folder, check=True)
    return True


def render(folder: Path, formulas: Sequence[dict[str, Any]]) -> list[dict[str, str | None]]:
    """Markup of each formula by renderer.

    Args:
        formulas: each `tex` and `display`, and `only` where not every renderer is wanted.
    """
    lines = "".join(json.dumps(formula) + "\n" for formula in formulas)
    done = subprocess.run(["node", SCRIPT], input=lines, capture_output=True, text=True, check=True, cwd=folder)
    return [json.loads(line) for line in done.stdout.split("\n") if line]


_WRAPPERS = {"mrow", "mstyle", "mpadded", "semantics", "math", "TeXAtom"}
_INVISIBLE = set("\u2061\u2062\u2063\u2064")
_SAME = str.maketrans(
    {"\u2212": "-", "\u2032": "'", "\u2223": "|", "\u00af": "\u203e", "\u02c9": "\u203e", "\u2217": "*"}
)


def normal(markup: str) -> list[Any]:
    """A MathML formula as a nested list: what is drawn, and where, without how it was put down.

    Left out are rows (their parts stand in the row around them), spaces, sizes, styles other than the letter's own
    alphabet, empty elements where they draw nothing, stretchiness, and borders between the digits of a number.
    """
    root = ET.fromstring(markup[markup.index("<math") : markup.index("</math>") + 7])
    return _row(root)


def _row(node: ET.Element) -> list[Any]:
    parts: list[Any] = []
    for child in node:
        parts += _parts(child)
    merged: list[Any] = []
    for part in parts:
        if merged and isinstance(part, str) and isinstance(merged[-1], str) and _joins(merged[-1], part):
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _joins(left: str, right: str) -> bool:
    return left[-1].isdigit() and (right[0].isdigit() or right[0] == ".")


def _parts(node: ET.Element) -> list[Any]:
    tag = node.tag.split("}")[-1]
    if tag in _WRAPPERS:
        return _row(node)
    if tag in ("annotation", "mspace", "mphantom", "none", "mprescripts"):
        return [] if tag != "mprescripts" else ["<mprescripts>"]
    if not len(node):
        text = "".join(c for c in (node.text or "") if c not in _INVISIBLE and not c.isspace()).translate(_SAME)
        variant = node.get("mathvariant", "")
        if not text:
            return []
        plain = variant in ("", "normal", "italic")
        return [text if plain else f"{variant}:{text}"]
    if tag in ("mo", "mi", "mn", "mtext"):
        return _row(node)
    if tag in ("mtd", "msqrt"):
        return [[tag, *_row(node)]]
    arguments = [_row_of(child) for child in node]
    if tag in ("munder", "mover", "munderover"):  # where limits stand depends on style alone
        tag = {"munder": "msub", "mover": "msup", "munderover": "msubsup"}[tag]
    if tag == "mfrac" and node.get("linethickness", "") in ("0", "0px", "0em", "0pt"):
        tag = "mbinom"
    if tag == "menclose":
        tag += node.get("notation", "")
    return [[tag, *arguments]]


def _row_of(node: ET.Element) -> list[Any]:
    tag = node.tag.split("}")[-1]
    return _row(node) if tag in _WRAPPERS or tag in ("mtd", "mtr") else _parts(node)
