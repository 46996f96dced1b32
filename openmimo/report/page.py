"""The run's page: one HTML file that loads nothing from the network."""

from __future__ import annotations

import html
from pathlib import Path

from openmimo.checkpoint import write_text


def render(folder: Path) -> Path:
    """Write report.html from what the run folder holds; its path."""
    path = folder / "report.html"
    summary = folder / "summary.json"
    text = summary.read_text(encoding="utf-8") if summary.is_file() else "{}"
    write_text(path, f"<!doctype html><meta charset=utf-8><title>{folder.name}</title><pre>{html.escape(text)}</pre>")
    return path
