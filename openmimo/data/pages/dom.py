"""Which nodes of a parsed page a pre-pass may change (MiMo 2.1).

A node must not be touched after an ancestor has left the tree: its memory may be gone. So a pass first picks the nodes
it will change, none inside another, and only then changes them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def outermost(root: Any, selector: str) -> list[Any]:
    """Matches of a CSS selector below `root`, in order, each once, without those inside another match."""
    own = getattr(root, "mem_id", None)
    return without_nested([node for node in root.css(selector) if node.mem_id != own])


def without_nested(nodes: Sequence[Any]) -> list[Any]:
    """The nodes in order, each once, without those inside another of them."""
    by_id = {node.mem_id: node for node in nodes}
    return [node for node in by_id.values() if not _has_ancestor(node, by_id)]


def _has_ancestor(node: Any, among: Collection[int]) -> bool:
    parent = node.parent
    while parent is not None:
        if parent.mem_id in among:
            return True
        parent = parent.parent
    return False
