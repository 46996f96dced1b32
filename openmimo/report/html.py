"""A page as one HTML file that loads nothing from the network.

What a model or a web page wrote stands in it escaped, and a content security policy lets nothing run or load but the
page's own style and scripts, named by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from openmimo.report.figures import duration, short


def fill(template: str, **parts: Any) -> str:
    """A template of this folder as HTML, with style, plotly and the script that draws its curves."""
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(short=short, duration=duration)
    style, script = (environment.get_template(name).render() for name in ("page.css.jinja", "charts.js.jinja"))
    library = get_plotlyjs()
    assert "</script" not in library
    policy = [
        "default-src 'none'",
        f"style-src {_hash(style)} {_hash('')}",  # plotly opens an empty style element and fills it by script
        f"script-src {_hash(library)} {_hash(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return environment.get_template(template).render(
        style=Markup(style), scripts=[Markup(library), Markup(script)], policy="; ".join(policy), **parts
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
