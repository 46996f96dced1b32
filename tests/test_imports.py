"""The house's import rules (docs/house.md): rooms import the floor, and each other only where the plan says so."""

import ast
from pathlib import Path

import pytest

import openmimo

ROOT = Path(openmimo.__file__).parent
ROOMS = ("data", "model", "judge", "train", "engine", "rollout", "curate", "rl", "eval", "report")
FLOOR = {"types", "config", "log", "mesh", "checkpoint", "run", "rows", "hardware", "stop"}
TOP = {
    "cli", "stages", "recipes", "plan", "cluster", "memory", "talk", "draft", "sft", "rl_folder", "doctor", "runs",
    "rl_memory", "own_problems", "rollout_sim",
    "__main__",
}  # fmt: skip

MAY_IMPORT = {
    "rl": {"rollout", "train", "engine", "judge", "data.pack", "data.chat", "report", "model"},
    "eval": {"rollout", "engine", "judge", "data.chat", "data.decontaminate", "report"},
    "curate": {
        "rollout",
        "engine",
        "judge",
        "train",
        "model",
        "data.decontaminate",
        "data.copies",
        "data.pack",
        "data.chat",
    },
    "rollout": {"data.chat"},
    "train": {"model", "data.pack", "data.shards"},
    "engine": {"model"},
    "data": set(),
    "model": set(),
    "judge": set(),
    "report": set(),
}
"""What a room may import besides the floor and itself."""

SPECIAL = {"engine/server/app.py": {"data.chat"}, "engine/server/answers.py": {"data.chat"}}


def modules_imported(path: Path) -> set[str]:
    """Dotted names below `openmimo` that a file imports, at any depth of the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("openmimo"):
            below = node.module.removeprefix("openmimo").lstrip(".")
            found |= {below} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("openmimo.") for a in node.names if a.name.startswith("openmimo.")}
    return found


def allowed(name: str, room: str, permitted: set[str]) -> bool:
    top = name.split(".")[0]
    if top == room or top in FLOOR or name == "__version__":
        return True
    return any(name == rule or name.startswith(rule + ".") for rule in permitted)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_plan_allows(room: str) -> None:
    broken = []
    for path in sorted((ROOT / room).rglob("*.py")):
        inside = path.relative_to(ROOT).as_posix()
        permitted = MAY_IMPORT[room] | SPECIAL.get(inside, set())
        broken += [f"{inside} imports {n}" for n in sorted(modules_imported(path)) if not allowed(n, room, permitted)]
    assert not broken, "\n".join(broken)


def test_the_floor_imports_no_room() -> None:
    for name in FLOOR:
        assert all(n.split(".")[0] in FLOOR for n in modules_imported(ROOT / f"{name}.py")), name


def test_every_module_is_a_room_the_floor_or_the_top() -> None:
    names = {p.stem if p.is_file() else p.name for p in ROOT.iterdir() if p.suffix in ("", ".py")}
    assert names - {"__pycache__", "__init__"} == set(ROOMS) | FLOOR | TOP


def test_the_nouns_need_only_the_standard_library() -> None:
    assert not modules_imported(ROOT / "types.py")


def test_the_judge_never_imports_torch() -> None:
    for path in (ROOT / "judge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.split(".")[0] == "torch" for n in names), path
