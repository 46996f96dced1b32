"""The judge over HTTP: who may ask, what is refused, and that a lost host loses no verdict."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from openmimo.judge.config import JudgeConfig
from openmimo.judge.pool import JudgePool
from openmimo.judge.problem_file import problem_from_json
from openmimo.types import Problem, UnitTest

ROOT = str(Path(__file__).resolve().parents[2])
TOKEN = "a-token-of-the-test"
ADD_ROW = {"id": "add", "kind": "code", "entry_point": "add", "tests": [{"args": [1, 2], "expected": 3}]}
ADD = problem_from_json(ADD_ROW)
GOOD = "def add(a, b):\n    return a + b\n"
SLOW = "import time\ndef add(a, b):\n    time.sleep(0.5)\n    return a + b\n"


class Server:
    """`openmimo judge serve`, as a user starts it."""

    def __init__(self, folder, *more):
        (folder / "token").write_text(TOKEN + "\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.arguments = [
            sys.executable, "-m", "openmimo", "judge", "serve", "--port", str(self.port),
            "--token-file", str(folder / "token"), *more,
        ]  # fmt: skip
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.arguments, env={**os.environ, "PYTHONPATH": ROOT}, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    self.process.kill()
                    raise AssertionError("the server does not start") from None
                time.sleep(0.05)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(timeout=20)

    def ask(self, path, body=None, *, token=TOKEN):
        """(status, headers, JSON or text)."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                text, status, found = response.read().decode(), response.status, response.headers
        except urllib.error.HTTPError as error:
            text, status, found = error.read().decode(), error.code, error.headers
        return status, found, json.loads(text) if text.startswith("{") else text


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(
        tmp_path_factory.mktemp("server"), "--workers", "1", "--queue-size", "2", "--max-body-bytes", "100000"
    )
    yield server
    server.stop()


def test_it_judges_and_counts(server):
    status, _, verdict = server.ask("/judge", {"problem": ADD_ROW, "response": GOOD, "source": True})
    assert status == 200 and verdict["status"] == "accepted" and verdict["tests"][0]["status"] == "accepted"
    assert verdict["isolation"]
    status, _, verdict = server.ask("/judge", {"problem": ADD_ROW, "response": f"```\n{GOOD}```"})
    assert verdict["status"] == "accepted", "a response is looked through for its program"
    half = {"kind": "math", "answer": "\\frac{1}{2}"}
    assert server.ask("/judge", {"problem": half, "response": "\\boxed{0.5}"})[2]["status"] == "accepted"
    text = server.ask("/metrics")[2]
    assert 'kind="code",status="accepted"} 2.0' in text and "openmimo_judge_waiting 0.0" in text
    health = server.ask("/health")[2]
    assert health == {"status": "ok", "workers": 1, "waiting": 0, "running": 0}


def test_without_the_token_nothing_is_judged(server):
    body = {"problem": ADD_ROW, "response": GOOD}
    for token in (None, "", "wrong", TOKEN + "x", "\u00e9"):
        status, headers, answer = server.ask("/judge", body, token=token)
        assert status == 401 and "token" in answer["detail"] and headers["WWW-Authenticate"] == "Bearer"
    assert server.ask("/metrics", token=None)[0] == 401
    assert server.ask("/health", token=None)[0] == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body is not JSON"),
        ([], "the body must be an object"),
        ({"problem": ADD_ROW}, "the body lacks 'response'"),
        ({"problem": ADD_ROW, "response": 3}, "response must be str, got '3'"),
        ({"problem": ADD_ROW, "response": "", "source": 1}, "source must be bool"),
        ({"problem": ADD_ROW, "response": "", "deadline_s": 0}, "deadline_s must be positive, got 0"),
        ({"problem": ADD_ROW, "response": "", "wait_s": 1}, "wait_s needs an id"),
        ({"problem": ADD_ROW, "response": "", "sauce": True}, "unknown key 'sauce'; the nearest is 'source'"),
        ({"problem": {**ADD_ROW, "tests": []}, "response": ""}, "tests must be a list of at least one"),
        ({"problem": {**ADD_ROW, "language": "pythn"}, "response": ""}, "the nearest is 'python'"),
    ],
)
def test_a_mistake_is_named(body, said, server):
    status, _, answer = server.ask("/judge", body)
    assert status == 422 and said in answer["detail"], answer


def test_a_body_too_large_is_refused(server):
    status, _, answer = server.ask("/judge", {"problem": ADD_ROW, "response": "x" * 200_000})
    assert status == 413 and "larger than 100000 bytes" in answer["detail"]


def test_a_full_queue_sends_callers_away_and_an_id_is_judged_once(server):
    def ask(id):
        answers.append((id, *server.ask("/judge", {"problem": ADD_ROW, "response": SLOW, "source": True, "id": id})))

    answers = []
    threads = [threading.Thread(target=ask, args=(f"full-{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [status for _, status, _, _ in answers]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 3
    assert all(headers["Retry-After"] == "1" for _, status, headers, _ in answers if status == 429)
    id, _, _, verdict = next(row for row in answers if row[1] == 200)
    ask(id)
    assert answers[-1][1] == 200 and answers[-1][3] == verdict, "remembered, to the last digit of its seconds"
    other = server.ask("/judge", {"problem": ADD_ROW, "response": GOOD, "id": id})
    assert other[0] == 422 and "stands for another response" in other[2]["detail"]


def test_not_yet_is_an_answer(server):
    body = {"problem": ADD_ROW, "response": SLOW, "source": True, "id": "patience", "wait_s": 0.05}
    assert server.ask("/judge", body)[0] == 202
    body["wait_s"] = 30
    assert server.ask("/judge", body)[2]["status"] == "accepted"
    late = {"problem": ADD_ROW, "response": SLOW, "source": True, "deadline_s": 0.05}
    assert "deadline" in server.ask("/judge", late)[2]["detail"]


def test_a_pool_of_hosts_judges_as_a_local_one(server):
    special = Problem("s", "", "math", answer="\\frac{1}{2}")
    with JudgePool(hosts=[server.address], token=TOKEN) as pool:
        futures = [pool.submit(ADD, GOOD if n % 2 else "def add(a, b): return 0", source=True) for n in range(20)]
        assert [future.result(timeout=60).status for future in futures] == ["wrong_answer", "accepted"] * 10
        assert pool.judge(special, "\\boxed{0.5}").status == "accepted"
        verdict = pool.judge(ADD, f"```\n{GOOD}```")
        assert verdict.tests[0].cpu_s > 0 and verdict.isolation
        odd = Problem("o", "", "code", tests=(UnitTest("\ud800", ""),))
        with pytest.raises(ValueError, match="half a surrogate pair"):
            pool.judge(odd, GOOD)


def test_limits_of_the_caller_go_with_the_problem(server):
    with JudgePool(config=JudgeConfig(cpu_s=0.2, hosts=(server.address,)), token=TOKEN) as pool:
        verdict = pool.judge(ADD, "def add(a, b):\n    while True: pass", source=True)
    assert verdict.status == "time_limit" and verdict.tests[0].cpu_s < 1.0


def test_hosts_that_cannot_judge_are_refused_at_once(server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for hosts, token, message in (
            ([nowhere], TOKEN, "no judge answers at http"),
            ([server.address], "wrong", "refuses the token; set OPENMIMO_JUDGE_TOKEN"),
            (["box:8100"], TOKEN, "a judge host is an address such as http://box:8100, got 'box:8100'"),
        ):
            with pytest.raises(ValueError, match=message):
                JudgePool(hosts=hosts, token=token)


def test_a_killed_host_is_replaced_by_the_other_and_taken_back(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENMIMO_JUDGE_TOKEN", TOKEN)
    with contextlib.ExitStack() as stack:
        servers = [Server(tmp_path, "--workers", "1") for _ in range(2)]
        for server in servers:
            stack.callback(server.process.kill)
        with JudgePool(hosts=[server.address for server in servers]) as pool:
            wrong = "import time\ndef add(a, b):\n    time.sleep(0.1)\n    return a - b\n"
            right = "import time\ndef add(a, b):\n    time.sleep(0.1)\n    return a + b\n"
            futures = [pool.submit(ADD, right if n % 3 else wrong, source=True) for n in range(60)]
            futures[10].result(timeout=60)
            assert servers[0].stop(signal.SIGKILL) == -signal.SIGKILL
            verdicts = [future.result(timeout=60) for future in futures]
            assert [v.status for v in verdicts] == [("accepted" if n % 3 else "wrong_answer") for n in range(60)]
            assert pool.num_redone >= 1
            servers[0].start()
            stack.callback(servers[0].process.kill)
            time.sleep(1.5)
            assert servers[1].stop(signal.SIGKILL) == -signal.SIGKILL
            assert pool.submit(ADD, GOOD, source=True).result(timeout=60).status == "accepted", "it came back"


def test_a_stopped_server_leaves_no_process(tmp_path):
    server = Server(tmp_path, "--workers", "2")
    thread = threading.Thread(
        target=lambda: [server.ask("/judge", {"problem": ADD_ROW, "response": SLOW, "source": True})]
    )
    thread.start()
    time.sleep(0.4)
    family = [
        int(pid)
        for task in Path(f"/proc/{server.process.pid}/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    assert family
    server.stop()
    thread.join(timeout=20)
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < end
        time.sleep(0.05)
