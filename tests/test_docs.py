"""What the docs name exists: links, files, and `file.py: name`."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [p for room in ("openmimo", "tests", "benchmarks") for p in sorted((ROOT / room).rglob("*.py"))]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_named_function_stands_in_its_file(page: Path) -> None:
    for path, names in re.findall(r"`([\w/]+\.py): ([\w., ]+)`", page.read_text(encoding="utf-8")):
        file = next((p for p in FILES if p.as_posix().endswith(f"/{path}")), None)
        assert file, f"{page.name} names {path}"
        text = file.read_text(encoding="utf-8")
        for name in re.split(r"[, ]+", names.strip()):
            assert name.split(".")[-1] in text, f"{page.name}: {path} has no {name}"


def test_every_measured_claim_of_the_readme_has_its_result() -> None:
    linked = re.findall(r"benchmarks/results/\w+\.json", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert linked and all((ROOT / name).is_file() for name in linked)
