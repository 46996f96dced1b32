"""Hostile programs against the sandbox: each must get one of the verdicts its author expects, and hurt nobody else."""

from pathlib import Path

import pytest

from openmimo.judge.code import judge_code
from openmimo.judge.sandbox.limits import Limits
from openmimo.judge.sandbox.supervisor import Sandbox
from openmimo.types import Problem, UnitTest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "judge" / "hostile"
SHORT = {
    "AC": "accepted", "WA": "wrong_answer", "TLE": "time_limit", "MLE": "memory_limit",
    "OLE": "output_limit", "RE": "runtime_error",
}  # fmt: skip
TESTS = (UnitTest("1 2\n", "3\n"), UnitTest("100 200\n", "300\n"), UnitTest("5 5\n", "10\n"))
SHORT_LIMITS = Limits(cpu_s=1.0, wall_s=1.5)
SUM = Problem("sum", "Read two integers and print their sum.", "code", tests=TESTS)
HONEST = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"

PROGRAMS = sorted(FOLDER.glob("*.py")) if FOLDER.is_dir() else []
if not PROGRAMS:
    pytest.skip(f"no hostile programs in {FOLDER}", allow_module_level=True)


def allowed(name):
    rows = dict(line.split("\t")[:2] for line in (FOLDER / "MANIFEST.tsv").read_text().split("\n") if line)
    expected = rows[name]
    words = expected.replace("(RE allowed)", "|RE").replace(" on every test", "").replace(",", "|").split("|")
    return {SHORT[word.strip()] for word in words}


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(SHORT_LIMITS) as sandbox:
        yield sandbox


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_hostile_program_gets_an_expected_verdict(path, sandbox):
    # Touching half a gigabyte may take more than the short limits on a loaded machine.
    sandbox.limits = Limits() if path.stem.startswith("A17") else SHORT_LIMITS
    verdict = judge_code(SUM, f"```python\n{path.read_text()}\n```", sandbox)
    assert {result.status for result in verdict.tests} <= allowed(path.name), verdict
    assert len(verdict.tests) == 3
    for result in verdict.tests:
        most_s = sandbox.limits.cpu_s + 0.5  # the manifest: "exceed cpu limit by more than 0.5 s"
        assert result.cpu_s < most_s or path.stem.startswith("A12"), "beyond the CPU limit"
    assert judge_code(SUM, HONEST, sandbox).status == "accepted", "the sandbox was damaged"
