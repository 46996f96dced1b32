"""What this machine has and lacks for openmimo, each finding with its fix."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

EXTRAS = {"ray": "ray", "eval": "lm_eval", "wandb": "wandb", "gym": "reasoning_gym"}
FREE_BYTES = 2_000_000_000


def examine() -> list[dict[str, Any]]:
    """Findings: what, status (ok, missing: works without, broken: does not), detail, fix."""
    return [_python(), _torch(), _gpu(), _disk(), _isolation(), _cores(), *_extras()]


def show(findings: list[dict[str, Any]]) -> None:
    """Print findings for a person."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "status", "detail", "fix")
    for row in findings:
        table.add_row(*(escape(row[name]) for name in ("what", "status", "detail", "fix")))
    Console().print(table)


def _finding(what: str, status: str, detail: str, fix: str = "") -> dict[str, Any]:
    return {"what": what, "status": status, "detail": detail, "fix": fix if status != "ok" else ""}


def _python() -> dict[str, Any]:
    ok = sys.version_info >= (3, 11)
    return _finding("python", "ok" if ok else "broken", platform.python_version(), "install Python 3.11 or newer")


def _torch() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return _finding("torch", "broken", "not installed", "make setup")
    return _finding("torch", "ok", importlib.metadata.version("torch"))


def _gpu() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return _finding("gpu", "missing", "no CUDA device: everything runs on the CPU", "none needed for tiny")
    free, total = torch.cuda.mem_get_info()
    return _finding("gpu", "ok", f"{torch.cuda.get_device_name()}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(Path.cwd()).free
    status = "ok" if free > FREE_BYTES else "broken"
    return _finding(
        "disk", status, f"{free / 1e9:.1f} GB free here", f"free {FREE_BYTES / 1e9:.0f} GB, or use --out elsewhere"
    )


def _isolation() -> dict[str, Any]:
    from openmimo.judge.sandbox.supervisor import self_test

    found = self_test()
    status = {"full": "ok", "without user namespaces": "missing", "refused": "broken"}[found.level]
    return _finding("isolation", status, f"{found.level}: {found.reason}", "run as root, or allow user namespaces")


def _cores() -> dict[str, Any]:
    count = len(os.sched_getaffinity(0))
    return _finding(
        "cores", "ok" if count > 1 else "missing", str(count), "two cores or more: judges run beside training"
    )


def _extras() -> list[dict[str, Any]]:
    return [
        _finding(
            f"extra {name}",
            "ok" if importlib.util.find_spec(module) else "missing",
            "installed" if importlib.util.find_spec(module) else "not installed",
            f"pip install 'openmimo[{name}]'",
        )
        for name, module in EXTRAS.items()
    ]
