"""Real web pages without a network: what this machine's own documentation says, as one WARC file (MiMo 2.1).

Two kinds of page: every module of the standard library rendered to HTML by `pydoc`, and the long description of every
installed package that has one (at least 2 kB), rendered from Markdown. A child process renders them under a fixed
environment, so two snapshots on one machine are byte-identical. What a crawl would add (boilerplate, languages,
broken HTML) is not here; give the pipeline your own WARC files for that.
"""

from __future__ import annotations

import gzip
import html
import itertools
import json
import os
import pkgutil
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_NAME = "pages.warc.gz"
MIN_DESCRIPTION_BYTES = 2000
WARC_DATE = "2025-05-12T00:00:00Z"  # of the paper; a clock would make every snapshot another file

# Modules that open a browser or a window, print, or hold other people's test suites rather than documentation.
SKIPPED_MODULES = frozenset(
    "antigravity ensurepip idlelib lib2to3 nt nturl2path pydoc_data sre_compile sre_constants sre_parse test this "
    "tkinter turtle turtledemo venv".split()
)
SKIPPED_PARTS = frozenset({"__main__", "test", "tests", "idle_test", "lib2to3"})

# Object addresses, and whatever a child's environment leaks into a rendered `os.environ` or a path.
_ADDRESS = re.compile(r"(?: at |\bat&nbsp;)?0x[0-9a-fA-F]{9,16}\b|(?<=handle )[0-9a-f]{9,16}\b|(?<=from )'/[^'\n]*'")


def snapshot_pages(out: Path, *, max_pages: int = 600) -> Path:
    """Write `out/pages.warc.gz` and return its path; a file already there is returned as it is.

    Pages are ordered by URL; a module that fails to render is left out and counted in the WARC's first record
    (`warcinfo`). Atomic: the file appears whole or not at all.

    Args:
        out: folder, made if missing.
        max_pages: keeps so many, modules and packages in turn, so that a few pages hold both kinds whatever is
            installed.

    Raises:
        ValueError: if max_pages is below 1.
        RuntimeError: if the rendering process fails; its last line of stderr is in the message.
    """
    if max_pages < 1:
        raise ValueError(f"max_pages must be at least 1, got {max_pages}")
    path = out / FILE_NAME
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(f".{FILE_NAME}.*.tmp"):  # by a run that was killed
        left.unlink(missing_ok=True)
    if path.exists():
        return path
    temporary = out / f".{FILE_NAME}.{os.getpid()}.tmp"
    request = json.dumps({"out": str(temporary.resolve()), "max_pages": max_pages, "parent": os.getpid()})
    root = Path(__file__).resolve().parents[2]
    environment = {
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "ignore",
        "TZ": "UTC",
    }
    try:
        # The request goes in by stdin: `sys.argv` and `os.environ` are pages too.
        done = subprocess.run(
            [sys.executable, "-s", "-c", "from openmimo.data.snapshot import _child; _child()"],
            input=request, cwd=root, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != 0 or not temporary.exists():
            last = done.stderr.strip().rsplit("\n", 1)[-1]
            raise RuntimeError(f"rendering the page snapshot failed ({done.returncode}): {last}")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _child() -> None:
    """Runs in the child process: render, order, write, fsync."""
    request = json.loads(sys.stdin.read())
    failed: list[str] = []
    pairs = itertools.zip_longest(_module_pages(failed), sorted(_description_pages()))
    pages = sorted(itertools.islice(filter(None, itertools.chain.from_iterable(pairs)), request["max_pages"]))
    if os.getppid() != request["parent"]:
        os._exit(1)  # nobody is waiting for it any more
    with open(request["out"], "wb") as file:
        info = json.dumps({"pages": len(pages), "failed": sorted(failed)}, sort_keys=True).encode()
        file.write(warc_record("warcinfo", f"urn:openmimo:snapshot:{len(pages)}", info, "application/json"))
        for url, page in pages:
            file.write(warc_record("response", url, page.encode("utf-8", "replace"), "text/html; charset=utf-8"))
        file.flush()
        os.fsync(file.fileno())
    os._exit(0)  # some standard modules leave threads or exit hooks behind


def warc_record(kind: str, url: str, payload: bytes, media_type: str) -> bytes:
    """One WARC/1.1 record as one gzip member; bytes depend on the arguments alone."""
    if kind == "response":
        http = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(payload)}\r\n\r\n"
        payload, block_type = http.encode() + payload, "application/http; msgtype=response"
    else:
        block_type = media_type
    header = (
        f"WARC/1.1\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}>\r\n"
        f"WARC-Date: {WARC_DATE}\r\nWARC-Target-URI: {url}\r\nContent-Type: {block_type}\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    return gzip.compress(header.encode() + payload + b"\r\n\r\n", 6, mtime=0)


def _module_pages(failed: list[str]) -> Iterator[tuple[str, str]]:
    import importlib
    import pydoc

    names = sorted(n for n in sys.stdlib_module_names if not n.startswith("_") and n not in SKIPPED_MODULES)
    neutral = _neutral_paths()
    for name in sorted([*names, *(sub for top in names for sub in _submodules(top))], key=_module_url):
        try:
            module = importlib.import_module(name)
            page = pydoc.html.page(name, pydoc.html.document(module, name))
        except (Exception, SystemExit):  # a module of another platform, or one that its author never documented
            failed.append(name)
            continue
        for path, stand_in in neutral:
            page = page.replace(path, stand_in)
        yield _module_url(name), _ADDRESS.sub("", page)


def _module_url(name: str) -> str:
    return f"http://pydoc.localhost/{name}.html"


def _submodules(name: str) -> list[str]:
    """Public submodules of a standard package, found without importing any of them."""
    import importlib.util

    spec = importlib.util.find_spec(name)
    found: list[str] = []
    for info in pkgutil.iter_modules(spec.submodule_search_locations if spec else None, f"{name}."):
        last = info.name.rsplit(".", 1)[-1]
        if spec is None or spec.submodule_search_locations is None or last.startswith("_") or last in SKIPPED_PARTS:
            continue
        found.append(info.name)
        if info.ispkg:
            found += _submodules(info.name)
    return found


def _description_pages() -> Iterator[tuple[str, str]]:
    import importlib.metadata

    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark").enable("table")
    seen: set[str] = set()
    for package in importlib.metadata.distributions():
        facts: Any = package.metadata  # a message, though typed as less
        name = (facts["Name"] or "").lower()
        text = facts.get("Description") or str(facts.get_payload() or "")
        if not name or name in seen or len(text.encode("utf-8", "replace")) < MIN_DESCRIPTION_BYTES:
            continue
        seen.add(name)
        title = html.escape(f"{facts['Name']} {package.version}")
        summary = html.escape(facts.get("Summary") or "")
        page = (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n<body>'
            f"<header><p>{summary}</p></header>\n<main><article>\n{markdown.render(text)}</article></main></body></html>\n"
        )
        yield f"http://packages.localhost/{name}/{package.version}.html", page


def _neutral_paths() -> list[tuple[str, str]]:
    """Paths of this machine, longest first, with what stands in for them."""
    import site
    import sysconfig

    stand_ins = {p: "/usr/lib/python3/dist-packages" for p in site.getsitepackages()}
    stand_ins[sysconfig.get_paths()["stdlib"]] = "/usr/lib/python3"
    for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix):
        stand_ins[prefix] = "/usr"
    stand_ins[os.getcwd()] = "/srv"
    both = {**{str(Path(p).resolve()): s for p, s in stand_ins.items()}, **stand_ins}
    return sorted(((p, s) for p, s in both.items() if len(p) > 4), key=lambda pair: (-len(pair[0]), pair))
