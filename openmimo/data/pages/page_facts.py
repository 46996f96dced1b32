"""What a page says of itself: title, language, licence, wishes to robots (MiMo 2.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_LICENCE_NAMES = frozenset(("license", "licence", "dc.rights", "dcterms.license", "dcterms.rights", "copyright"))
_ROBOTS_NAMES = frozenset(("robots", "googlebot", "tdm-reservation"))


@dataclass(frozen=True, slots=True)
class PageFacts:
    title: str
    """`og:title`, else `<title>`, else the first `<h1>`; one line."""
    language: str
    """As declared, two or three letters; empty if it is not."""
    tags: dict[str, Any] = field(default_factory=dict)
    """`licence`: an address or words; `robots`: what crawlers are asked, in lower case; each only where it stands."""


def page_facts(tree: Any, names: str) -> PageFacts:
    """Facts of a parsed page.

    Args:
        names: what its source names (`source_names`), to see at once what needs no search.
    """
    title = shared = licence = ""
    robots: list[str] = []
    tags: dict[str, Any] = {}
    for node in tree.head.css("meta, title, link") if tree.head is not None else []:
        attributes = node.attributes
        value = (attributes.get("content") or "").strip()
        name = (attributes.get("name") or attributes.get("property") or "").lower()
        if node.tag == "title":
            title = title or _one_line(node.text())
        elif name == "og:title" and value:
            shared = _one_line(value)
        elif name in _ROBOTS_NAMES and value:
            robots.append(value.lower() if name == "robots" else f"{name}: {value.lower()}")
        elif name in _LICENCE_NAMES and value:
            licence = licence or value
    if "license" in names and (node := tree.css_first('a[rel~="license"], link[rel~="license"]')) is not None:
        licence = node.attributes.get("href") or licence
    title = shared or title
    if not title and (heading := tree.css_first("h1")) is not None:
        title = _one_line(heading.text())
    if robots:
        tags["robots"] = ", ".join(robots)
    if licence:
        tags["licence"] = licence
    return PageFacts(title, _declared_language(tree), tags)


def _declared_language(tree: Any) -> str:
    node = tree.root
    declared = (node.attributes.get("lang") or node.attributes.get("xml:lang") or "") if node is not None else ""
    match = re.match(r"[a-zA-Z]{2,3}(?=$|[-_])", declared.strip())
    return match.group().lower() if match else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
