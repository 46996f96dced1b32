"""Worker processes, files and the server."""

import json
import os
import signal
import time

import pytest

from openmimo.cli import main
from openmimo.judge.pool import JudgeConfig, JudgePool
from openmimo.judge.rows import judge_rows
from openmimo.judge.sandbox.supervisor import isolation
from openmimo.rows import problem_from
from openmimo.types import Problem, UnitTest

ADD = Problem("add", "", "code", tests=(UnitTest("[1, 2]", "3"), UnitTest("[5, 5]", "10")), entry_point="add")
HALF = Problem("half", "", "math", answer="0.5")
GOOD = "```python\ndef add(a, b):\n    return a + b\n```"
SLOW = "```python\nimport time\ndef add(a, b):\n    time.sleep(0.3)\n    return a + b\n```"


def test_a_pool_judges_both_kinds_at_once():
    with JudgePool(2, JudgeConfig(cpu_s=1.0, wall_s=2.0)) as pool:
        futures = [pool.submit(ADD, GOOD if n % 2 else SLOW) for n in range(4)]
        futures += [pool.submit(HALF, "\\boxed{1/2}"), pool.submit(HALF, "\\boxed{0.5}"), pool.submit(HALF, "?")]
        verdicts = [future.result(timeout=30) for future in futures]
    assert [verdict.status for verdict in verdicts] == ["accepted"] * 6 + ["wrong_answer"]


def test_a_lost_worker_is_replaced_and_its_work_redone():
    with JudgePool(1) as pool:
        assert pool.judge(ADD, GOOD).status == "accepted"
        future = pool.submit(ADD, SLOW)
        time.sleep(0.2)
        os.kill(pool._workers[0]._process.pid, signal.SIGKILL)
        assert future.result(timeout=30).status == "accepted"


def test_closing_cancels_what_has_not_begun():
    pool = JudgePool(1)
    futures = [pool.submit(ADD, SLOW) for _ in range(20)]
    pool.judge(HALF, "\\boxed{0.5}")
    pool.close()
    assert futures[-1].cancelled()
    with pytest.raises(ValueError, match="closed"):
        pool.submit(ADD, GOOD)


def test_a_problem_that_cannot_be_judged_is_refused_at_once():
    with JudgePool(1) as pool:
        with pytest.raises(ValueError, match="no tests"):
            pool.submit(Problem("p", "", "code"), GOOD)
    with pytest.raises(ValueError, match="at least 1 worker, got 0"):
        JudgePool(0)
    with pytest.raises(ValueError, match="limit wall_s must be positive and finite, got -1"):
        JudgePool(1, JudgeConfig(wall_s=-1))


HALF_ROW = {"id": "m", "prompt": "half\u2028?", "kind": "math", "answer": "0.5"}
ADD_ROW = {
    "id": "c", "prompt": "", "kind": "code", "entry_point": "add", "tests": [{"input": "[1, 2]", "expected": "3"}],
}  # fmt: skip


def test_rows_are_judged_in_order():
    responses = [
        {"id": "c", "response": GOOD},
        {"id": "m", "response": "\\boxed{1}"},
        {"id": "m", "response": "\\boxed{1/2}"},
    ]
    found = judge_rows([problem_from(HALF_ROW), problem_from(ADD_ROW)], responses, num_workers=1)
    assert [(row["id"], row["status"]) for row in found] == [
        ("c", "accepted"), ("m", "wrong_answer"), ("m", "accepted")
    ]  # fmt: skip
    assert [test["status"] for test in found[0]["tests"]] == ["accepted"]
    assert set(found[0]) == {"id", "status", "detail", "isolation", "tests"}
    json.dumps(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anwser": "1"}, "unknown field 'anwser'; the nearest is 'answer'"),
        ({"kind": "maths"}, "has kind 'maths'; math and code are known"),
        ({"id": 7}, "id must be text, got '7'"),
        ({"tests": 3}, "tests must be a list, got '3'"),
        ({"tests": [{"input": "1"}]}, "a test has input, expected and maybe level or assertion, got"),
        ({"tests": [{"input": "1", "expected": 2}]}, "input, expected and assertion must be text"),
        ({"tests": [{"input": "1", "expected": "2", "level": -1}]}, "level must be 0 or more, or null, got -1"),
    ],
)  # fmt: skip
def test_a_bad_problem_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message):
        problem_from({**HALF_ROW, **change})


@pytest.mark.parametrize(
    ("problems", "response", "message"),
    [
        ([HALF], {"id": "hafl", "response": ""}, "response 1: no problem 'hafl'; the nearest is 'half'"),
        ([HALF], {"id": "half"}, "response 1 needs the texts id and response"),
        ([HALF], {"id": "half", "response": 3}, "response 1 needs the texts id and response"),
        ([HALF, HALF], {"id": "half", "response": ""}, "problem 'half' is there twice"),
        ([], {"id": "half", "response": ""}, "no problem 'half'; the file of problems is empty"),
    ],
)  # fmt: skip
def test_a_bad_response_is_refused_in_one_line(problems, response, message):
    with pytest.raises(ValueError, match=message):
        judge_rows(problems, [response], num_workers=1)


def test_the_command_judges_files_and_names_what_is_wrong(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text(json.dumps(HALF_ROW) + "\n", encoding="utf-8")
    (tmp_path / "r.jsonl").write_text('{"id": "m", "response": "\\\\boxed{1/2}"}\n', encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["judge", str(tmp_path / "p.jsonl"), str(tmp_path / "r.jsonl"), "--json", "--workers", "1"])
    assert end.value.code == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)] == ["accepted"]
    (tmp_path / "r.jsonl").write_text('{"id": "n", "response": ""}\n', encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["judge", str(tmp_path / "p.jsonl"), str(tmp_path / "r.jsonl")])
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and "no problem 'n'" in error


def test_isolation_names_every_layer_and_is_quick():
    started = time.monotonic()
    found = isolation()
    assert time.monotonic() - started < 10.0
    assert list(found) == ["own user", "pid", "network", "ipc", "mount", "root"]
    assert all(isinstance(has, bool) for has in found.values())


def test_isolation_never_raises_where_nothing_can_start(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert not any(isolation().values())


def test_the_server_judges_and_counts():
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    from openmimo.judge.server import create_app

    with TestClient(create_app(num_workers=1)) as client:
        assert client.get("/health").json()["status"] == "ok"
        verdict = client.post("/judge", json={"problem": ADD_ROW, "response": GOOD}).json()
        assert verdict["status"] == "accepted" and verdict["tests"][0]["status"] == "accepted"
        bad = client.post("/judge", json={"problem": {**ADD_ROW, "tests": []}, "response": GOOD})
        assert bad.status_code == 422 and "no tests" in bad.json()["detail"]
        assert 'kind="code",status="accepted"} 1.0' in client.get("/metrics").text
