"""Claims: main text and little else. Of documentation pages at least 0.97 of paragraphs and at most 0.02 of
boilerplate are kept; on magic-html's article pages, char 5-gram F1 is at least 0.90.

    MAGIC_HTML=DIR OPENWEBMATH=DIR python benchmarks/extract_text.py PAGES [benchmarks/results/extract_text.json]

PAGES is pages.jsonl.gz with gold paragraphs and lines of boilerplate. A paragraph is kept if its letters and digits
stand in the text, in order and in one piece; formulas count as part of it or not, as the gold has it. A line of
boilerplate is kept if it stands in the text as a line. MAGIC_HTML is a copy of github.com/opendatalab/magic-html, with
the 158 article pages of its benchmark, nothing left out. Precision and recall are those of the multisets of 5
characters in a row, white space apart; F1 is of their means over pages, as its own benchmark sums up, and beside it
the mean of every page's F1. Of the articles, seven in eight by hash were looked at during development.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record
from extract_peer import all_texts

PEERS = ("trafilatura", "resiliparse", "magic-html", "OpenWebMath")


def grams(text: str) -> Counter[str]:
    """Multiset of 5 characters in a row, white space apart."""
    text = re.sub(r"\s+", "", text)
    return Counter(text[i : i + 5] for i in range(len(text) - 4)) if len(text) >= 5 else Counter([text] if text else [])


def precision_recall(gold: str, found: str) -> tuple[float, float]:
    """Of the 5-grams; nothing found where there is nothing is right."""
    a, b = grams(gold), grams(found)
    common = (a & b).total()
    if not a and not b:
        return 1.0, 1.0
    return common / max(b.total(), 1), common / max(a.total(), 1)


def f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def summed_up(scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Means over pages of (precision, recall)."""
    precision, recall = (sum(values) / len(scores) for values in zip(*scores, strict=True))
    by_page = sum(f1(*score) for score in scores) / len(scores)
    found = {"precision": precision, "recall": recall, "f1": f1(precision, recall), "mean f1 of pages": by_page}
    return {name: round(value, 4) for name, value in found.items()}


def magic_html_pages(folder: Path, part: str) -> list[dict[str, str]]:
    """`id`, `url`, `html` and gold `content` of a part of magic-html's benchmark, `article` or `forum`."""
    folder = folder / "benchmark/data" / part
    gold = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    return [
        {"id": name, "html": (folder / "htmls" / f"{name}.html").read_text(encoding="utf-8"), **row}
        for name, row in gold.items()
    ]


def unseen(page_id: str) -> bool:
    """Whether an article was not looked at during development."""
    return hashlib.md5(page_id.encode()).digest()[0] % 8 == 7


def letters(text: str) -> str:
    return re.sub(r"\W+", "", text)


def without_formulas(text: str) -> str:
    return re.sub(r"\$\$[^$]+\$\$|\$[^$\n]+\$", "", text)


def paragraphs_and_boilerplate(pages: list[dict[str, Any]], texts: list[str]) -> dict[str, Any]:
    """Kept and all of each, and their shares, by half of the pages' sources."""
    found: dict[str, Any] = {}
    for page, text in zip(pages, texts, strict=True):
        half = "unseen" if hashlib.md5(page["src"].encode()).digest()[0] % 2 else "looked at"
        whole, bare = letters(text), letters(without_formulas(text))
        lines = {" ".join(line.strip("#-| ").split()) for line in text.split("\n")}
        for name in ("all", half):
            counts = found.setdefault(name, {"paragraphs": [0, 0], "boilerplate": [0, 0]})
            counts["paragraphs"][0] += sum(letters(p) in whole or letters(p) in bare for p in page["paras"])
            counts["paragraphs"][1] += len(page["paras"])
            counts["boilerplate"][0] += sum(line in lines for line in page["boil"])
            counts["boilerplate"][1] += len(page["boil"])
    for counts in found.values():
        for entry in counts.values():
            entry.append(round(entry[0] / entry[1], 4))
    return found


def main() -> None:
    with gzip.open(sys.argv[1], "rb") as file:
        pages = [json.loads(line) for line in file]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        texts = all_texts([{"html": page["html"]} for page in pages], Path(name), *PEERS)
        figures["documentation pages"] = {
            peer: paragraphs_and_boilerplate(pages, found) for peer, found in texts.items()
        }
        if "MAGIC_HTML" in os.environ:
            articles = magic_html_pages(Path(os.environ["MAGIC_HTML"]), "article")
            scores = {
                peer: [precision_recall(p["content"], text) for p, text in zip(articles, found, strict=True)]
                for peer, found in all_texts(articles, Path(name), *PEERS).items()
            }
            figures["articles"] = {peer: summed_up(found) for peer, found in scores.items()}
            seen = [unseen(page["id"]) for page in articles]
            figures["articles, unseen"] = {
                peer: summed_up([score for score, new in zip(found, seen, strict=True) if new])
                for peer, found in scores.items()
            }
            figures["articles, counts"] = {"all": len(articles), "unseen": sum(seen)}
        else:
            print("the articles are left out: they need MAGIC_HTML=DIR", file=sys.stderr)
    record.write(
        "main text kept and boilerplate left out by extraction",
        "MAGIC_HTML=DIR OPENWEBMATH=DIR python benchmarks/extract_text.py PAGES",
        {"wanted": {"paragraphs": 0.97, "boilerplate": 0.02, "article f1": 0.90}, **figures},
    )


if __name__ == "__main__":
    main()
