"""Claim: pages that Chromium prints are read back, in one column and in two.

    python benchmarks/extract_pdf.py [benchmarks/results/extract_pdf.json]

Needs `chromium` (or CHROMIUM, its path) and ../shared/data/pages, the gold pages. Forty of them (documentation of
SciPy, scikit-learn, SymPy and Python; no page twice) are printed on A4 with their own markup, boilerplate included,
justified and hyphenated, once in one column and once in two of CSS. Pages of even rank were looked at while this was
written (`seen`), the others not (`unseen`).

Figures: paragraph recall, the share of gold paragraphs (twenty letters at least, standing once on the page) whose
letters and digits stand in the text in one piece; order, the share of neighbouring gold paragraphs, both found, of
which the first stands first; `in one paragraph`, the share that no blank line cuts. CPU seconds are ours.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import record  # noqa: E402

from openmimo.data.pages.pdf import pdf_text  # noqa: E402

GOLD = ROOT.parent / "shared" / "data" / "pages" / "pages.jsonl.gz"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
NUM_PAGES, MOST_PARAGRAPHS = 40, 200
STYLE = """<style>@page {{ size: A4; margin: 2cm }}
body {{ column-count: {columns}; column-gap: 1cm; font: 10pt serif }}
p, li, dd {{ text-align: justify; hyphens: auto }} pre {{ white-space: pre-wrap; overflow-wrap: anywhere }}
table {{ table-layout: fixed; width: 100% }} * {{ max-width: 100%; overflow-wrap: anywhere }}</style>"""


def main() -> None:
    if not CHROMIUM or not GOLD.is_file():
        sys.exit(f"needs chromium and {GOLD}")
    pages = gold_pages()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for rank, page in enumerate(pages):
            for columns in (1, 2):
                content = printed(page["html"], columns, Path(folder))
                started_s = time.process_time()
                _, text = pdf_text(content)
                cpu_s = time.process_time() - started_s
                found = measured(page["paras"], text)
                rows.append({"page": page["src"], "columns": columns, "half": "unseen" if rank % 2 else "seen",
                             **found, "cpu_s": round(cpu_s, 3)})  # fmt: skip
    figures = {
        f"{columns} column{'s' * (columns > 1)}, {half}": totals(
            [row for row in rows if row["columns"] == columns and half in (row["half"], "all")]
        )
        for columns in (1, 2)
        for half in ("seen", "unseen", "all")
    }
    claim = "PDF printed by Chromium from gold pages: paragraph recall at least 0.97, order at least 0.95"
    record.write(claim, "python benchmarks/extract_pdf.py", {"figures": figures, "pages": rows}, chromium=version())


def gold_pages() -> list[dict[str, Any]]:
    with gzip.open(GOLD, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    chosen = [row for row in rows if not row["kind"].startswith("R:") and 5 <= len(row["paras"]) <= MOST_PARAGRAPHS]
    unique = {row["src"]: row for row in chosen}
    names = sorted(unique)
    return [unique[names[i * len(names) // NUM_PAGES]] for i in range(min(NUM_PAGES, len(names)))]


def printed(page: str, columns: int, folder: Path) -> bytes:
    """The page as a PDF, without its own styles and scripts."""
    page = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<link\b[^>]*>|<img\b[^>]*>", "", page)
    source, target = folder / "page.html", folder / "page.pdf"
    source.write_text(page.replace("</head>", STYLE.format(columns=columns) + "</head>", 1), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--no-pdf-header-footer", f"--print-to-pdf={target}", source.as_uri()]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return target.read_bytes()


def measured(paragraphs: list[str], text: str) -> dict[str, int]:
    """Counts of one page: gold paragraphs, those found, found uncut, neighbours found, those in order."""
    whole = letters(text)
    blocks = [letters(block) for block in text.split("\n\n")]
    wanted = [gold for paragraph in paragraphs if len(gold := letters(paragraph)) >= 20]
    wanted = [gold for gold in dict.fromkeys(wanted) if whole.count(gold) <= 1]
    places = [whole.find(gold) for gold in wanted]
    pairs = [(a, b) for a, b in itertools.pairwise(places) if a >= 0 and b >= 0]
    return {
        "paragraphs": len(wanted),
        "found": sum(place >= 0 for place in places),
        "uncut": sum(any(gold in block for block in blocks) for gold in wanted),
        "pairs": len(pairs),
        "in_order": sum(a < b for a, b in pairs),
    }


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", text)).lower()


def totals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    total = {key: sum(row[key] for row in rows) for key in ("paragraphs", "found", "uncut", "pairs", "in_order")}
    return {
        "paragraph recall": round(total["found"] / max(1, total["paragraphs"]), 4),
        "in one paragraph": round(total["uncut"] / max(1, total["paragraphs"]), 4),
        "order": round(total["in_order"] / max(1, total["pairs"]), 4),
        "paragraphs": total["paragraphs"],
        "pages": len(rows),
        "cpu_s a page": round(sum(row["cpu_s"] for row in rows) / max(1, len(rows)), 3),
    }


def version() -> str:
    done = subprocess.run([CHROMIUM, "--version", "--no-sandbox"], capture_output=True, text=True, check=False)
    return done.stdout.strip().split(" built")[0]


if __name__ == "__main__":
    main()
