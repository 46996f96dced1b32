"""Hostile programs of our own: a mechanism each file of `hostile_programs/`, in it one program a target.

A program begins with a line `#: target | kind | weak judge | allowed statuses | harm`:

    target   verdict (be accepted unsolved or beyond a limit), others (other solutions), host (the judge, its machine)
    kind     stdin, function or assert: how the problem is tested
    harm     what it does to the weak judge, and must not do to ours: a word of `harms`

In its text MARK, IPC_KEY, PORT stand for a name, a number and a port of this run. `judge_ours` and `judge_weak` give
the same report, and `harms` reads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from leftovers import descendants, leftovers, peak_bytes

from openmimo.judge.pool import JudgeConfig, JudgePool
from openmimo.types import Problem, UnitTest

FOLDER = Path(__file__).with_name("hostile_programs")
CONFIG = JudgeConfig(cpu_s=0.5, wall_s=2.0, memory_bytes=128 << 20, output_bytes=1 << 20)
FLOOD_BYTES = 100 << 20
"""More than a judge may ever hold of what programs print."""

PAIRS = ((1, 2), (100, 200), (5, 5))
TESTS = {
    "stdin": tuple(UnitTest(f"{a} {b}\n", f"{a + b}\n") for a, b in PAIRS),
    "function": tuple(UnitTest(json.dumps([a, b]), json.dumps(a + b)) for a, b in PAIRS),
    "assert": tuple(UnitTest("", "", assertion=f"assert add({a}, {b}) == {a + b}") for a, b in PAIRS),
}
HONEST_SUM = "print(sum(map(int, input().split())))\n"
HONEST_ADD = "def add(a, b):\n    return a + b\n"
HONEST = """import time  # long enough to be there when the attack comes
# NEIGHBOUR
end = time.process_time() + 0.1
while time.process_time() < end:
    pass
a, b = map(int, input().split())
print(a + b)
"""


@dataclass(frozen=True)
class Attack:
    """One hostile program and what is expected of it."""

    mechanism: str
    target: str
    kind: str
    weak_judge: str
    allowed: frozenset[str]
    """Statuses that a test may get from our judge."""
    harm: str
    source: str
    language: str = "python"

    @property
    def name(self) -> str:
        return f"{self.mechanism}-{self.target}" + ("-cpp" if self.language == "cpp" else "")

    @property
    def problem(self) -> Problem:
        return replace(self.honest_problem, language=self.language)

    @property
    def honest_problem(self) -> Problem:
        """The same; the honest programs are Python, also after an attack in C++."""
        entry_point = "add" if self.kind == "function" else ""
        return Problem(self.name, "", "code", tests=TESTS[self.kind], entry_point=entry_point)

    @property
    def honest(self) -> str:
        """The program that is judged next, on the same problem."""
        return HONEST_SUM if self.kind == "stdin" else HONEST_ADD


@dataclass
class Report:
    """What happened around one attack."""

    attack: list[list[str]]
    """Statuses of its tests, each time that it was judged."""
    outputs: list[str]
    beside: list[str]
    """Statuses of the honest program that was judged at the same time."""
    after: list[str]
    """Statuses of the honest program that was judged next."""
    left: set[str] = field(default_factory=set)
    """Kinds of `leftovers`."""
    judge_ended: bool = True
    judge_peak_bytes: int = 0
    called: bool = False
    """The host's own port was reached."""
    secrets: tuple[str, ...] = ()


def load_attacks() -> list[Attack]:
    """All of them; those in C++ where there is a compiler."""
    attacks = _load(FOLDER, "python")
    return attacks + _load(FOLDER / "cpp", "cpp") if shutil.which("g++") else attacks


def _load(folder: Path, language: str) -> list[Attack]:
    attacks = []
    for path in sorted(folder.glob("*.txt")):
        for text in path.read_text(encoding="utf-8").split("#: ")[1:]:
            head, _, source = text.partition("\n")
            target, kind, weak_judge, allowed, harm = (word.strip() for word in head.split("|"))
            statuses = frozenset(word.strip() for word in allowed.split(","))
            attacks.append(Attack(path.stem, target, kind, weak_judge, statuses, harm, source.strip() + "\n", language))
    return attacks


def harms(report: Report) -> set[str]:
    """What an attack achieved.

    accepted, neighbour (an honest program lost its verdict), state (a later run saw an earlier), secret (it printed
    the judge's token or another solution's text), held (more memory than allowed), flood (the judge's memory), network,
    judge (it died, stopped or hangs), and the kinds of `leftovers`.
    """
    found = {
        "accepted": any(statuses and set(statuses) == {"accepted"} for statuses in report.attack),
        "neighbour": any(set(statuses) != {"accepted"} for statuses in (report.beside, report.after)),
        "state": any("SEEN" in output for output in report.outputs),
        "held": any("HELD" in output for output in report.outputs),
        "secret": any(secret in output for secret in report.secrets for output in report.outputs),
        "flood": report.judge_peak_bytes > FLOOD_BYTES,
        "network": report.called,
        "judge": not report.judge_ended or any("internal_error" in statuses for statuses in report.attack),
    }
    return {harm for harm, there in found.items() if there} | report.left


@dataclass(frozen=True)
class Ours:
    """The judge under test, in a process that holds what a program must not reach."""

    pool: JudgePool
    journal: Path
    """A file that this process holds open, to be inherited by whoever is careless."""
    token: str
    """In the environment."""


@contextlib.contextmanager
def our_judge() -> Iterator[Ours]:
    with tempfile.TemporaryDirectory() as folder:
        journal, token = Path(folder, "journal"), f"token-{uuid.uuid4().hex}"
        fd = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.set_inheritable(fd, True)
        os.environ["JUDGE_TOKEN"] = token
        try:
            with JudgePool(2, CONFIG) as pool:
                yield Ours(pool, journal, token)
        finally:
            os.environ.pop("JUDGE_TOKEN", None)
            os.close(fd)


def judge_ours(attack: Attack, ours: Ours) -> Report:
    """The attack, twice where it leaves something for later, an honest program beside it and one after it."""
    pool = ours.pool
    with run_of(attack) as run:
        futures = [pool.submit(attack.problem, fenced(run.source, attack.language)) for _ in range(run.times)]
        beside = pool.submit(HONEST_PROBLEM, fenced(run.beside))
        verdicts = [future.result(timeout=120) for future in futures]
        after = pool.judge(attack.honest_problem, fenced(attack.honest))
        return Report(
            attack=[[test.status for test in verdict.tests] for verdict in verdicts],
            outputs=[test.output for verdict in verdicts for test in verdict.tests],
            beside=[test.status for test in beside.result(timeout=120).tests],
            after=[test.status for test in after.tests],
            left=leftovers(run.mark, run.key, ours.journal),
            judge_peak_bytes=max(map(peak_bytes, descendants(os.getpid())), default=0),
            called=run.called,
            secrets=(ours.token, *run.secrets),
        )


def judge_weak(attack: Attack) -> Report:
    """The same by the attack's weak judge, on a machine to lose.

    Raises:
        RuntimeError: where no such machine can be had.
    """
    with run_of(attack) as run:
        job = {
            "judge": attack.weak_judge,
            "attack": as_job(attack.problem, run.source),
            "after": as_job(attack.honest_problem, attack.honest),
            "beside": as_job(HONEST_PROBLEM, run.beside),
            "times": run.times,
            "mark": run.mark,
            "key": run.key,
            "token": run.token,
        }
        process = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("throwaway.py"))],
            input=json.dumps(job).encode(),
            capture_output=True,
            timeout=60,
        )
        if process.returncode:
            raise RuntimeError(f"no throw-away machine: {process.stderr.decode(errors='replace')[-300:]}")
        facts = json.loads(process.stdout)
        facts["left"] = set(facts["left"])
        return Report(**facts, called=run.called, secrets=run.secrets)


@dataclass
class Run:
    """Names of one run of an attack, so that two never meet."""

    mark: str
    key: int
    token: str
    source: str
    beside: str
    times: int
    called: bool = False

    @property
    def secrets(self) -> tuple[str, ...]:
        return self.token, f"neighbour-{self.mark}"


@contextlib.contextmanager
def run_of(attack: Attack) -> Iterator[Run]:
    """With a port of the host's that adds two numbers for whoever reaches it."""
    nonce = uuid.uuid4().hex[:8]
    mark, key = f"mimo{nonce}", int(nonce, 16) & 0x7FFFFFF
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        source = attack.source.replace("MARK", mark).replace("IPC_KEY", str(key)).replace("PORT", str(port))
        beside = HONEST.replace("NEIGHBOUR", f"neighbour-{mark}")
        run = Run(mark, key, f"token-{nonce}", source, beside, 2 if attack.harm == "state" else 1)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    run.called = True
                    with connection, contextlib.suppress(ValueError):
                        connection.sendall(str(sum(map(int, connection.recv(1000).split()))).encode())

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield run
        finally:
            server.shutdown(socket.SHUT_RDWR)


def as_job(problem: Problem, source: str) -> dict[str, Any]:
    tests = [{"input": t.input, "expected": t.expected, "assertion": t.assertion} for t in problem.tests]
    return {"source": source, "tests": tests, "entry_point": problem.entry_point, "language": problem.language}


def fenced(source: str, language: str = "python") -> str:
    return f"```{language}\n{source}\n```"


HONEST_PROBLEM = Problem("honest", "", "code", tests=TESTS["stdin"])
