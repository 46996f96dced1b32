"""The run's page: one HTML file that loads nothing from the network and can be opened while the run works.

What a model or a web page wrote stands in it escaped, and a content security policy lets nothing run or load but the
page's own style and script, named by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from openmimo.checkpoint import write_text
from openmimo.report import panels, tables
from openmimo.report.contents import Contents, read_contents
from openmimo.report.curves import Chart, draw
from openmimo.report.figures import duration, short
from openmimo.report.panels import NAMES
from openmimo.report.rollouts import to_show


def render(folder: Path) -> Path:
    """Write report.html from what the run folder holds so far; its path.

    Raises:
        ValueError: for a folder that holds no run.
    """
    path = folder / "report.html"
    write_text(path, page(read_contents(folder)))
    return path


def page(contents: Contents) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(short=short, duration=duration)
    style, script = (environment.get_template(f"page.{kind}.jinja").render() for kind in ("css", "js"))
    return environment.get_template("page.html.jinja").render(
        style=Markup(style),
        script=Markup(script),
        policy="; ".join(
            [
                "default-src 'none'",
                f"style-src {_hash(style)}",
                f"script-src {_hash(script)}",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        **_parts(contents),
    )


def _parts(contents: Contents) -> dict[str, Any]:
    """What the template prints, by the name it has there."""
    metrics, evaluations = contents.metrics, contents.summary.get("evaluations") or {}
    curves = [
        ("pretrain", "Pre-training", panels.pretraining(metrics.get("pretrain", ()))),
        ("sft", "Supervised fine-tuning", panels.finetuning(metrics.get("sft", ()))),
        ("rl", "Reinforcement learning", panels.reinforcement(metrics.get("rl", ()))),
    ]
    times = tables.stage_times(contents)
    return {
        "name": contents.name,
        "recipe": contents.run.get("recipe") or contents.summary.get("recipe") or "unknown recipe",
        "seed": contents.run.get("seed", contents.summary.get("seed", "unknown")),
        "progress": tables.progress(contents),
        "finished": bool(contents.summary),
        "accuracy": tables.accuracy(contents.summary),
        "gains": tables.gains(contents.summary),
        "times": times,
        "total_s": sum(seconds for _, seconds in times),
        "curves": [(key, title, drawn) for key, title, charts in curves if (drawn := _drawn(charts))],
        "rl_time": tables.rl_time(metrics.get("rl", ())),
        "temperatures": _drawn(panels.temperatures(evaluations)),
        "pass_at_k": _drawn(panels.pass_at_k(evaluations)),
        "evaluations": tables.evaluations(evaluations),
        "families": tables.families(evaluations),
        "funnel": tables.funnel(contents.funnel),
        "sources": tables.sources(contents),
        "kept": tables.kept(contents),
        "dropped": tables.dropped(contents.funnel),
        "shown": to_show(contents.samples),
        "names": NAMES,
    }


def _drawn(charts: Sequence[Chart]) -> list[Markup]:
    """The drawings of the charts that have something to show."""
    return [drawing for chart in charts if (drawing := draw(chart))]


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
