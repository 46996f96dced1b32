"""The run's page: one HTML file that loads nothing from the network and can be opened while the run works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openmimo.checkpoint import write_text
from openmimo.report import panels, tables
from openmimo.report.contents import Contents, read_contents
from openmimo.report.curves import drawn
from openmimo.report.html import fill
from openmimo.report.panels import NAMES
from openmimo.report.rollouts import to_show


def render(folder: Path, out: Path | None = None) -> Path:
    """Write the page from what the run folder holds so far, by default as its report.html; the page's path.

    Raises:
        ValueError: for a folder that holds no run.
    """
    text = page(read_contents(folder))
    path = out or folder / "report.html"
    write_text(path, text)
    return path


def page(contents: Contents) -> str:
    """The page as HTML."""
    return fill("page.html.jinja", **_parts(contents))


def _parts(contents: Contents) -> dict[str, Any]:
    """What the template prints, by the name it has there."""
    metrics, evaluations = contents.metrics, contents.summary.get("evaluations") or {}
    curves = [
        ("pretrain", "Pre-training", panels.pretraining(metrics.get("pretrain", ()))),
        ("sft", "Supervised fine-tuning", panels.finetuning(metrics.get("sft", ()))),
        ("draft", "Draft layers", panels.drafting(metrics.get("draft", ()))),
        ("rl", "Reinforcement learning", panels.reinforcement(metrics.get("rl", ()))),
    ]
    times = tables.stage_times(contents)
    return {
        "name": contents.name,
        "recipe": contents.run.get("recipe") or contents.summary.get("recipe") or "unknown recipe",
        "seed": contents.run.get("seed", contents.summary.get("seed", "unknown")),
        "progress": tables.progress(contents),
        "left_out": contents.left_out,
        "finished": bool(contents.summary),
        "accuracy": tables.accuracy(contents.summary),
        "accuracies": drawn(panels.accuracies(contents.summary.get("accuracy") or {})),
        "gains": tables.gains(contents.summary),
        "times": times,
        "total_s": sum(seconds for _, seconds in times),
        "curves": [(key, title, shown) for key, title, charts in curves if (shown := drawn(charts))],
        "rl_time": tables.rl_time(metrics.get("rl", ())),
        "temperatures": drawn(panels.temperatures(evaluations)),
        "pass_at_k": drawn(panels.pass_at_k(evaluations)),
        "evaluations": tables.evaluations(evaluations),
        "families": tables.families(evaluations),
        "funnel": tables.funnel(contents.funnel),
        "sources": tables.sources(contents),
        "kept": tables.kept(contents),
        "dropped": tables.dropped(contents.funnel),
        "shown": to_show(contents.samples),
        "rl_shown": {step: to_show({"rl": rows}) for step, rows in contents.rl_samples.items()},
        "names": NAMES,
    }
