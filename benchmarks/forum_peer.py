"""trafilatura on magic-html's forum pages, run in its own environment by extract_forum.py: texts by page, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    from trafilatura import extract

    pages = Path(sys.argv[1])
    keys = sorted(json.loads((pages / "base.json").read_text(encoding="utf-8")))
    texts = {}
    for key in keys:
        page = (pages / "htmls" / f"{key}.html").read_text(encoding="utf-8")
        texts[key] = extract(page, include_comments=True, fast=False) or ""
    print(json.dumps(texts))


if __name__ == "__main__":
    main()
