"""Peers of page extraction, each in an environment of its own (make data-peers), served as a process.

`.venv-extract` has trafilatura, resiliparse and what magic-html needs, `.venv-openwebmath` the resiliparse that
OpenWebMath was written for. OpenWebMath and magic-html are repositories: OPENWEBMATH=DIR and MAGIC_HTML=DIR name a
copy, without one the peer is left out. Ours is served the same way. One line in, `texts` or `time`, one JSON object
out. Everyone gets the bytes of a page, knows that they are UTF-8, and decodes them itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OURS = "openmimo"
_COMMON, _OPENWEBMATH = ROOT / ".venv-extract/bin/python", ROOT / ".venv-openwebmath/bin/python"


def peers(*names: str) -> dict[str, tuple[str, dict[str, str]]]:
    """By name, interpreter and variables of every contestant that is there, ours first; the missing are named.

    Args:
        names: of the peers that are wanted; all if there are none.
    """
    found = {OURS: (sys.executable, {"PYTHONPATH": str(ROOT)})}
    wanted: list[tuple[str, Path, str]] = [
        ("trafilatura", _COMMON, ""),
        ("trafilatura fast", _COMMON, ""),
        ("trafilatura markdown", _COMMON, ""),
        ("resiliparse", _COMMON, ""),
        ("magic-html", _COMMON, "MAGIC_HTML"),
        ("OpenWebMath", _OPENWEBMATH, "OPENWEBMATH"),
    ]
    for name, python, variable in wanted:
        if names and name not in names:
            continue
        if not python.exists() or (variable and variable not in os.environ):
            needs = f"{variable}=DIR" if python.exists() else "make data-peers"
            print(f"{name} is left out: it needs {needs}", file=sys.stderr)
            continue
        found[name] = (str(python), {"PYTHONPATH": str(Path(os.environ[variable]).resolve()) if variable else ""})
    return found


class Peer:
    """A contestant with its pages; a context manager."""

    def __init__(self, name: str, python: str, variables: dict[str, str], pages: Path) -> None:
        """
        Args:
            pages: a JSON file, a list of objects with `html` and perhaps `url`.
        """
        self._process = subprocess.Popen(
            [python, __file__, name, str(pages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            text=True,
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def texts(self) -> list[str]:
        """Text of each page, empty where there is none."""
        texts: list[str] = self._ask("texts")["texts"]
        return texts

    def cpu_s(self) -> float:
        """CPU seconds for all pages, one thread."""
        return float(self._ask("time")["cpu_s"])

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait(60)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def all_texts(pages: Sequence[dict[str, str]], folder: Path, *names: str) -> dict[str, list[str]]:
    """What each contestant, or each of those named, makes of the pages."""
    path = folder / "pages.json"
    path.write_text(json.dumps(list(pages)))
    found = {}
    for name, (python, variables) in peers(*names).items():
        with Peer(name, python, variables, path) as peer:
            found[name] = peer.texts()
    return found


def _ours() -> Callable[[bytes, str], str]:
    from openmimo.data.pages.extract import Dropped, extract
    from openmimo.data.read import Page

    def text(content: bytes, url: str) -> str:
        found = extract(Page(url, content, "text/html; charset=utf-8", "web"))
        return "" if isinstance(found, Dropped) else found.text

    return text


def _trafilatura(**settings: Any) -> Callable[[bytes, str], str]:
    import trafilatura

    return lambda content, url: trafilatura.extract(content.decode(), **settings) or ""


def _resiliparse() -> Callable[[bytes, str], str]:
    from resiliparse.extract.html2text import extract_plain_text

    return lambda content, url: extract_plain_text(content.decode(), main_content=True, preserve_formatting=True)


def _magic_html() -> Callable[[bytes, str], str]:
    from bs4 import BeautifulSoup
    from magic_html import GeneralExtractor

    extractor = GeneralExtractor()

    def text(content: bytes, url: str) -> str:  # as its own benchmark does
        markup = extractor.extract(html=content.decode(), base_url=url)["html"]
        return BeautifulSoup(markup, "lxml").get_text("\n", strip=True)

    return text


def _openwebmath() -> Callable[[bytes, str], str]:
    """Its extraction with its own settings, the likeliest where it draws them, and no language thrown away."""
    sys.path.insert(0, f"{os.environ['OPENWEBMATH']}/text_extraction")
    from text_extract.extract import extract_text

    settings = {
        "markdown_headings": True,
        "markdown_code": True,
        "boilerplate_config": {"ratio_threshold": 0.18, "absolute_threshold": 10, "end_threshold": 15, "enable": True},
        "remove_buttons": True,
        "remove_image_figures": True,
        "remove_link_clusters": True,
        "table_config": {"min_rows": 2, "min_cols": 3, "format": "plain"},
        "remove_chinese": False,
        "remove_edit_buttons": True,
        "extract_latex": True,
    }
    return lambda content, url: (extract_text(content.decode(), settings) or ("", {}))[0]


_CONTESTANTS: dict[str, Callable[[], Callable[[bytes, str], str]]] = {
    OURS: _ours,
    "trafilatura": lambda: _trafilatura(),
    "trafilatura fast": lambda: _trafilatura(fast=True, include_comments=False),
    "trafilatura markdown": lambda: _trafilatura(output_format="markdown"),
    "resiliparse": _resiliparse,
    "magic-html": _magic_html,
    "OpenWebMath": _openwebmath,
}


def serve(name: str, pages_path: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not speak to the benchmark
    extractor = _CONTESTANTS[name]()
    pages = [
        (page["html"].encode("utf-8", "replace"), page.get("url", "")) for page in json.loads(pages_path.read_text())
    ]

    def text(content: bytes, url: str) -> str:
        try:
            return extractor(content, url)
        except Exception:  # a peer that fails on a page keeps nothing of it
            return ""

    for line in sys.stdin:
        if line.strip() == "texts":
            answer: dict[str, Any] = {"texts": [text(*page) for page in pages]}
        else:
            start = time.process_time()
            for page in pages:
                text(*page)
            answer = {"cpu_s": time.process_time() - start}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__" and sys.argv[1:]:  # contestant and pages; without them it is a module
    serve(sys.argv[1], Path(sys.argv[2]))
