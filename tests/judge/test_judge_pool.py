"""Worker processes, files and the server."""

import json
import os
import signal
import time

import pytest

from openmimo.judge.files import judge_file
from openmimo.judge.pool import JudgeConfig, JudgePool
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


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_is_judged_in_order(tmp_path):
    problems = write(
        tmp_path / "problems.jsonl",
        [
            {"id": "m", "prompt": "half\u2028?", "kind": "math", "answer": "0.5"},
            {"id": "c", "kind": "code", "entry_point": "add", "tests": [{"input": "[1, 2]", "expected": "3"}]},
        ],
    )
    responses = write(
        tmp_path / "responses.jsonl",
        [{"id": "c", "response": GOOD}, {"id": "m", "response": "\\boxed{1}"}, {"id": "m", "response": "\\boxed{1/2}"}],
    )
    found = [(problem_id, verdict.status) for problem_id, verdict in judge_file(problems, responses)]
    assert found == [("c", "accepted"), ("m", "wrong_answer"), ("m", "accepted")]


@pytest.mark.parametrize(
    ("problem", "response", "message"),
    [
        ({"id": "m", "kind": "math", "anwser": "1"}, {}, "jsonl:1: unknown field 'anwser'; the nearest is 'answer'"),
        ({"id": "m", "kind": "maths"}, {}, "kind must be math or code, got 'maths'"),
        ({"kind": "math"}, {}, "the field 'id' is missing"),
        ({"id": "m", "kind": "code", "tests": [{"input": "1"}]}, {}, "a test needs input and expected"),
        ({"id": "m", "kind": "math", "answer": "1"}, {"id": "n", "response": ""}, "no problem 'n'.*the nearest is 'm'"),
        ({"id": "m", "kind": "math", "answer": "1"}, {"id": "m"}, "needs the texts id and response"),
    ],
)  # fmt: skip
def test_bad_rows_are_refused_in_one_line(problem, response, message, tmp_path):
    problems = write(tmp_path / "problems.jsonl", [problem])
    responses = write(tmp_path / "responses.jsonl", [response])
    with pytest.raises(ValueError, match=message):
        list(judge_file(problems, responses))


def test_the_server_judges_and_counts():
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    from openmimo.judge.server import create_app

    with TestClient(create_app(num_workers=1)) as client:
        assert client.get("/health").json()["status"] == "ok"
        problem = {"id": "c", "kind": "code", "entry_point": "add", "tests": [{"input": "[1, 2]", "expected": "3"}]}
        verdict = client.post("/judge", json={"problem": problem, "response": GOOD}).json()
        assert verdict["status"] == "accepted" and verdict["tests"][0]["status"] == "accepted"
        bad = client.post("/judge", json={"problem": {"id": "c", "kind": "code"}, "response": GOOD})
        assert bad.status_code == 422 and "no tests" in bad.json()["detail"]
        assert 'kind="code",status="accepted"} 1.0' in client.get("/metrics").text
