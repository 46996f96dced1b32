"""`openmimo judge`: what it prints, in which order, with which exit code, and what it leaves behind (nothing)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openmimo.cli import main
from openmimo.judge.command import is_source, line

ROOT = str(Path(__file__).resolve().parents[2])
SUM = {"id": "sum", "kind": "code", "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10"}]}
CALL = {"id": "add", "kind": "code", "entry_point": "f", "tests": [{"args": [1, 2], "expected": 3}]}
HALF = {"id": "half", "kind": "math", "answer": "\\frac{1}{2}"}
RIGHT = "print(sum(map(int, input().split())))\n"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["judge", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def rows(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json", "--workers", "1")
    assert code == 0, err
    return [json.loads(text) for text in out.split("\n") if text]


def written(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("_", ".", 1)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work"
    assert not list((tmp_path / "tmp").iterdir()), "something is left in TMPDIR"


def test_a_line_a_solution_in_the_order_of_the_arguments(folder, capsys):
    written(
        folder, p_json=SUM, right_py=RIGHT, three_py="print(3)", loose_py="print(", answer_md=f"So\n```\n{RIGHT}```\n"
    )
    found = rows(capsys, "p.json", "./three.py", "right.py", folder / "loose.py", "answer.md", "right.py")
    assert [row["solution"] for row in found] == [
        "./three.py", "right.py", str(folder / "loose.py"), "answer.md", "right.py"
    ]  # fmt: skip
    assert [(row["status"], row["passed"], row["total"]) for row in found] == [
        ("wrong_answer", 1, 2), ("accepted", 2, 2), ("compile_error", 0, 2), ("accepted", 2, 2), ("accepted", 2, 2)
    ]  # fmt: skip
    assert set(found[0]) == {"solution", "status", "passed", "total", "isolation", "detail", "tests"}
    assert set(found[0]["tests"][0]) == {"status", "cpu_s", "wall_s", "peak_bytes", "inferred"}
    assert found[1]["tests"][0]["cpu_s"] > 0 and found[1]["tests"][0]["peak_bytes"] > 0
    selftest = json.loads(run(capsys, "selftest", "--json")[1])
    assert found[0]["isolation"] == selftest["isolation"] != "refused" and selftest["reason"]


def test_functions_asserts_and_checkers_of_the_issue(folder, capsys):
    written(
        folder,
        call_json=CALL,
        assert_json={"kind": "code", "tests": [{"assert": "assert f(1, 2) == 3"}]},
        lines_json={"kind": "code", "checker": "unordered_lines", "tests": [{"input": "", "output": "1\n2\n"}]},
        close_json={"kind": "code", "checker": {"floats": 1e-3}, "tests": [{"input": "", "output": "0.5"}]},
        f_py="def f(a, b):\n    return a + b\n",
        lines_py="print(2)\nprint(1)",
        close_py="print(0.5001)",
    )
    for problem, solution in (("call", "f"), ("assert", "f"), ("lines", "lines"), ("close", "close")):
        (row,) = rows(capsys, f"{problem}.json", f"{solution}.py")
        assert (row["status"], row["passed"], row["total"]) == ("accepted", 1, 1), (problem, row)


def test_maths_takes_text_files_and_counts_one(folder, capsys):
    written(
        folder, p_json=HALF, a_txt="so \\boxed{0.5}", b_txt="\\boxed{2}", c_txt="no idea", d_txt=b"\xff \\boxed{1/2}"
    )
    found = rows(capsys, "p.json", "a.txt", "b.txt", "c.txt", "d.txt")
    assert [row["status"] for row in found] == ["accepted", "wrong_answer", "no_answer", "accepted"]
    assert [(row["passed"], row["total"]) for row in found] == [(1, 1), (0, 1), (0, 1), (1, 1)]


def test_a_verifier_of_the_users_own_decides(folder, capsys):
    written(folder, p_json=HALF, a_txt="\\boxed{2}", mine_py="def same(gold, answer):\n    return answer == '2'\n")
    assert rows(capsys, "p.json", "a.txt", "--verifier", "mine:same")[0]["status"] == "accepted"
    for wrong in ("mine", "nowhere:same", "mine:other", "a:b:c"):
        code, out, err = run(capsys, "p.json", "a.txt", "--verifier", wrong)
        assert (code, out, err.count("\n")) == (2, "", 1) and wrong in err, err


def test_a_solution_that_is_no_utf8_is_judged(folder, capsys):
    written(
        folder,
        p_json=SUM,
        latin_py="# coding: latin-1\ns = 'é'\n".encode("latin-1") + RIGHT.encode(),
        bad_py=b"\xff\xfe",
    )
    assert [row["status"] for row in rows(capsys, "p.json", "latin.py", "bad.py")] == ["accepted", "compile_error"]


def test_stop_on_fail_ends_a_solution_early(folder, capsys):
    problem = {**SUM, "tests": [{"input": "", "output": "1"}] * 5}
    written(folder, p_json=problem, a_py="print(2)")
    assert len(rows(capsys, "p.json", "a.py")[0]["tests"]) == 5
    (row,) = rows(capsys, "p.json", "a.py", "--stop-on-fail")
    assert (len(row["tests"]), row["total"], row["passed"]) == (1, 5, 0)


def test_a_batch_is_judged_in_input_order(folder, capsys):
    lines = [
        {"problem": SUM, "solutions": ["import time; time.sleep(0.3)\n" + RIGHT, "print(3)", f"```\n{RIGHT}```"]},
        {"problem": HALF, "solutions": ["\\boxed{0.5}", "</think>\\boxed{3}"]},
        {"problem": CALL, "solutions": ["def f(a, b): return a + b", "\ud800"]},
    ]
    (folder / "b.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    found = rows(capsys, "--batch", "b.jsonl")
    assert [(row["problem"], row["solution"], row["status"]) for row in found] == [
        ("sum", 0, "accepted"), ("sum", 1, "wrong_answer"), ("sum", 2, "accepted"), ("half", 0, "accepted"),
        ("half", 1, "wrong_answer"), ("add", 0, "accepted"), ("add", 1, "compile_error"),
    ]  # fmt: skip
    code, out, _ = run(capsys, "--batch", "b.jsonl")
    assert code == 0 and "7 judged: 4 accepted, 2 wrong_answer, 1 compile_error" in out


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ({**SUM, "chekcer": "exact"}, "unknown key 'chekcer'; the nearest is 'checker'"),
        ({**SUM, "tests": []}, "tests must be a list of at least one"),
        ({**SUM, "limits": {"cpu_s": -1}}, "limits.cpu_s must be a positive number, got -1"),
        ({**SUM, "language": "pythn"}, "language 'pythn'; the nearest is 'python'"),
        ({**HALF, "answer": ""}, "answer must not be empty"),
        ("{", "is not JSON"),
        (b"\xff", "is not JSON"),
    ],
)
def test_a_bad_problem_is_one_line_and_nothing_is_judged(problem, said, folder, capsys):
    written(folder, p_json=problem, a_py=RIGHT)
    code, out, err = run(capsys, "p.json", "a.py", "--json")
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err and "p.json" in err, err


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"problem": SUM}, "lacks 'solutions'"),
        ({"problem": SUM, "solutions": "print(3)"}, "solutions must be a list of texts"),
        ({"problem": SUM, "solutions": ["print(3)", 3]}, "solutions[1] must be text, got '3'"),
        ({"problem": SUM, "solution": []}, "unknown key 'solution'; the nearest is 'solutions'"),
        ({"problem": {**SUM, "limits": {"cpu": 1}}, "solutions": []}, "unknown key 'cpu'; the nearest is 'cpu_s'"),
        ({"problem": {**SUM, "language": "c"}, "solutions": []}, "language 'c'"),
        ([], "must be an object"),
    ],
)
def test_a_mistake_in_the_last_line_of_a_batch_is_found_first(bad, said, folder, capsys):
    good = json.dumps({"problem": SUM, "solutions": [RIGHT]})
    (folder / "b.jsonl").write_text(f"{good}\n{json.dumps(bad)}\n")
    code, out, err = run(capsys, "--batch", "b.jsonl", "--json")
    assert (code, out, err.count("\n")) == (2, "", 1) and "b.jsonl:2" in err and said in err, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("p.json",), "no solution of p.json is given"),
        (("p.json", "b.py"), "b.py does not exist; the nearest is 'a.py'"),
        (("p.json", "."), "solution . is a folder"),
        (("q.json", "a.py"), "q.json does not exist; the nearest is 'p.json'"),
        (("--json",), "name a PROBLEM.json"),
        (("p.json", "--batch", "b.jsonl"), "leave p.json out"),
        (("--batch", "nowhere.jsonl"), "nowhere.jsonl does not exist"),
        (("p.json", "a.py", "--workers", "0"), "--workers must be at least 1, got 0"),
        (("serve", "--host", "0.0.0.0"), "--host 0.0.0.0 can be reached by others"),
        (("serve", "--port", "99999"), "--port must be 0 to 65535, got 99999"),
        (("serve", "--token-file", "a.py"), "a.py must hold a token"),
        (("serve", "--token-file", "token"), "token does not exist"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, said, folder, capsys, monkeypatch):
    monkeypatch.delenv("OPENMIMO_JUDGE_TOKEN", raising=False)
    written(folder, p_json=SUM, a_py=RIGHT + RIGHT)
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err, err


def test_what_a_program_printed_does_not_steer_the_terminal():
    row = {
        "solution": "a\x1b[2J.py",
        "status": "wrong_answer",
        "passed": 0,
        "total": 1,
        "detail": "\x1b]0;x\x07\r\n",
        "tests": [],
    }
    assert line(row).isprintable() and "a" in line(row)


def test_which_text_is_a_program():
    assert is_source("print('```')") and is_source("x\n```\ncut off") and is_source("```\n1\n```", ".py")
    assert not is_source("So:\n```python\nprint(1)\n```\n") and not is_source("hm</think>print(1)")


def batch_process(folder):
    (folder / "b.jsonl").write_text(
        "".join(
            json.dumps({"problem": SUM, "solutions": ["import time\ntime.sleep(1)\n" + RIGHT] * 3}) + "\n"
            for _ in range(9)
        )
    )
    return subprocess.Popen(
        [sys.executable, "-m", "openmimo", "judge", "--batch", "b.jsonl", "--json", "--workers", "2"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores interrupts
    )  # fmt: skip


def group(pid):
    """Processes below one, itself included."""
    found = [pid]
    for child in open(f"/proc/{pid}/task/{pid}/children").read().split():
        found += group(int(child))
    for thread in os.listdir(f"/proc/{pid}/task"):
        if int(thread) != pid:
            for child in open(f"/proc/{pid}/task/{thread}/children").read().split():
                found += group(int(child))
    return found


@pytest.mark.parametrize("how", ["interrupted", "killed", "reader gone"])
def test_ended_early_it_leaves_no_process(how, folder):
    with batch_process(folder) as process:
        assert json.loads(process.stdout.readline())["status"] == "accepted"
        family = group(process.pid)
        assert len(family) >= 5, "two workers, two zygotes"
        if how == "reader gone":
            process.stdout.close()
        else:
            process.send_signal(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
        code = process.wait(timeout=20)
        said = process.stderr.read()
        assert code == {"interrupted": 130, "killed": -signal.SIGKILL, "reader gone": 1}[how], said
        assert "cli.py" not in said, said
    end = time.monotonic() + 10
    while left := [pid for pid in family if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
