"""The killable process behind a maths verdict, and verifiers of the user's."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from openmimo.judge import verifier as verifier_file
from openmimo.judge.math import judge_math
from openmimo.judge.verifier import Verifier, check_verifier
from openmimo.types import Problem

sys.path.insert(0, str(Path(__file__).parent))


def own(name, **options):
    return Verifier(function=f"math_own_verifiers:{name}", **options)


@pytest.mark.parametrize(
    ("name", "gold", "answer", "status", "detail"),
    [
        ("same_length", "12", "34", "accepted", ""),
        ("same_length", "12", "3", "wrong_answer", ""),
        ("with_detail", "5", "5", "accepted", "looked at 5"),
        ("with_detail", "5", "6", "wrong_answer", "looked at 6"),
        ("raises", "5", "6", "internal_error", "RuntimeError: cannot verify 6"),
        ("leaves", "5", "6", "internal_error", "SystemExit: 0"),
        ("answers_one", "5", "6", "internal_error", "must give a bool or (bool, detail), got 1"),
        ("dies", "5", "6", "internal_error", "the verifier was lost 3 times, exit status -9"),
        ("crashes", "5", "6", "wrong_answer", "the answer crashes the verifier (SIGABRT)"),
        ("eats", "5", "6", "wrong_answer", "the answer needs more than 512 MiB"),
    ],
)
def test_a_users_verifier_gets_the_same_verdicts(name, gold, answer, status, detail):
    with own(name) as verifier:
        found = verifier.compare(gold, answer)
    assert found[0] == status
    assert detail in found[1]


def test_a_users_verifier_that_hangs_is_a_time_limit():
    with own("hangs", wall_s=0.3) as verifier:
        started_s = time.monotonic()
        assert verifier.compare("5", "6") == ("time_limit", "no verdict in 0.3 s")
        assert time.monotonic() - started_s < 10.0


def test_what_a_users_verifier_prints_is_no_output_of_ours(capfd):
    with own("prints") as verifier:
        assert verifier.compare("5", "6")[0] == "accepted"
    assert "a line of the verifier's" not in capfd.readouterr().out


def test_a_users_verifier_decides_instead_of_exact_match():
    with own("same_length") as verifier:
        assert judge_math(Problem("p", "", "math", answer="12"), r"\boxed{34}", verifier).status == "accepted"
        assert judge_math(Problem("p", "", "math", answer="12"), "34", verifier).status == "no_answer"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_verifier", "verifier must be module:function, e.g. my_verifier:verify, got 'my_verifier'"),
        ("a:b:c", "verifier must be module:function"),
        ("no_such_module_at_all:verify", "cannot import no_such_module_at_all: ModuleNotFoundError"),
        ("math_own_verifiers:nothing", "math_own_verifiers has no function nothing"),
        ("math_own_verifiers:NOT_A_FUNCTION", "has no function NOT_A_FUNCTION"),
    ],
)
def test_a_bad_name_of_a_verifier_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match="verifier") as error:
        check_verifier(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_good_name_passes():
    check_verifier("")
    check_verifier("math_own_verifiers:same_length")


def test_limits_out_of_range_are_refused():
    with pytest.raises(ValueError, match="wall_s must be positive, got 0"):
        Verifier(wall_s=0)
    with pytest.raises(ValueError, match="memory_bytes must be at least 268435456, got 1"):
        Verifier(memory_bytes=1)


def test_the_self_check_passes_here_and_says_what_is_broken(monkeypatch):
    with Verifier() as verifier:
        verifier.self_check()
    monkeypatch.setattr(verifier_file, "load", lambda function: lambda gold, answer: ("accepted", ""))
    with Verifier() as verifier, pytest.raises(ValueError, match=r"math-verify is broken: it should say wrong_answer"):
        verifier.self_check()


def test_a_missing_math_verify_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ValueError, match=r"math-verify cannot be imported: .*; pip install math-verify"):
        Verifier().self_check()


def test_a_killed_process_is_replaced_and_its_work_done_again():
    with Verifier() as verifier:
        assert verifier.compare("0.5", "1/2")[0] == "accepted"
        os.kill(verifier._child.pid, signal.SIGKILL)
        assert verifier.compare("0.5", "1/2")[0] == "accepted"


def test_an_answer_that_explodes_in_memory_is_wrong_or_late():
    with Verifier(wall_s=3.0, memory_bytes=256 << 20) as verifier:
        assert verifier.compare("5", "2^{2^{34}}")[0] in ("wrong_answer", "time_limit")
        assert verifier.compare("0.5", "1/2")[0] == "accepted"


def test_the_memory_limit_is_beyond_what_the_parent_holds():
    held = bytearray(600 << 20)  # more than the limit
    with Verifier() as verifier:
        assert verifier.compare("0.5", "1/2") == ("accepted", "")
    assert len(held) == 600 << 20
