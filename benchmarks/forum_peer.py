"""trafilatura and magic-html on magic-html's forum pages, run in their own environment by extract_forum.py.

Prints texts by peer and page, as JSON. magic-html is used from the repository that the pages are in; its dependencies
and beautifulsoup4 have to be installed beside trafilatura.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    pages = Path(sys.argv[1])
    sys.path.insert(0, str(pages.parents[2]))
    from bs4 import BeautifulSoup
    from magic_html import GeneralExtractor
    from trafilatura import extract

    magic = GeneralExtractor()
    urls = {key: row["url"] for key, row in json.loads((pages / "base.json").read_text(encoding="utf-8")).items()}
    texts: dict[str, dict[str, str]] = {"trafilatura": {}, "magic-html": {}}
    for key, url in urls.items():
        page = (pages / "htmls" / f"{key}.html").read_text(encoding="utf-8")
        texts["trafilatura"][key] = extract(page, include_comments=True, fast=False) or ""
        found = magic.extract(html=page, base_url=url, html_type="forum")["html"]
        texts["magic-html"][key] = BeautifulSoup(found, "lxml").get_text("\n", strip=True)
    print(json.dumps(texts))


if __name__ == "__main__":
    main()
