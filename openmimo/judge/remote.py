"""Judges on other hosts, as the pool sees them: connections to `openmimo judge serve` (MiMo 3.4.1).

A connection has one response in hand. The work carries a key, so a resend (after a wait, a full queue, a connection
that was closed) is judged once. A host that is lost gets no work until it answers again; its work goes elsewhere.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from openmimo.judge.config import JudgeConfig
from openmimo.judge.lane import Lane, Lost, Work
from openmimo.judge.problem_file import problem_to_json
from openmimo.log import say
from openmimo.types import Problem, TestResult, Verdict

_CONNECT_S = 5.0
_WAIT_S = 15.0
"""A host answers within this, be it "not yet": how a host that fell silent is told from a long judgement."""
_SILENT_S = 45.0
_PAUSE_S = 1.0


def open_hosts(addresses: Sequence[str], token: str, config: JudgeConfig) -> list[Lane]:
    """Connections to hosts: twice as many as each has workers, so that none waits for the network.

    Raises:
        ValueError: for an address that is none, a host that refuses the token, or if none answers.
    """
    hosts = [Host(address, token) for address in addresses]
    for host in hosts:
        host.ask()
    if not any(host.up for host in hosts):
        raise ValueError(f"no judge answers at {', '.join(addresses)}; start `openmimo judge serve` there")
    return [Connection(host, config) for host in hosts for _ in range(2 * host.num_workers)]


class Host:
    """One address, shared by its connections."""

    def __init__(self, address: str, token: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"a judge host is an address such as http://box:8100, got {address!r}")
        self.address = address
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.num_workers = 4  # until it has said so itself
        self.up = False
        self._parts = parts
        self._lock = threading.Lock()
        self._asked_s = 0.0

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        assert self._parts.hostname is not None
        return kind(self._parts.hostname, self._parts.port, timeout=timeout_s)

    def ready(self) -> bool:
        """Whether it is up; if not, it is asked, by one thread and once a second."""
        if not self.up:
            with self._lock:
                if not self.up:
                    time.sleep(max(0.0, self._asked_s + _PAUSE_S - time.monotonic()))
                    self.ask()
        return self.up

    def ask(self) -> None:
        """Find out whether it is up.

        Raises:
            ValueError: if it refuses the token.
        """
        self._asked_s = time.monotonic()
        with contextlib.closing(self.connect(_CONNECT_S)) as connection:
            try:
                connection.request("GET", "/health", headers=self.headers)
                response = connection.getresponse()
                data = response.read()
                if response.status == 401:
                    raise ValueError(f"{self.address} refuses the token; set OPENMIMO_JUDGE_TOKEN to the server's")
                self.num_workers = max(1, int(json.loads(data)["workers"]))
            except (OSError, http.client.HTTPException, KeyError, TypeError) as error:
                self.lost(f"does not answer ({error or type(error).__name__})")
                return
            except json.JSONDecodeError:
                self.lost("is no judge")
                return
        self.up = True

    def lost(self, why: str) -> None:
        if self.up or not self._asked_s:
            say(f"judge: {self.address} {why}; its work goes to others until it answers")
        self.up = False


class Connection:
    """One request at a time to one host."""

    def __init__(self, host: Host, config: JudgeConfig) -> None:
        self.host = host
        self.config = config
        self._http: http.client.HTTPConnection | None = None
        self._killed = False

    @property
    def place(self) -> str:
        return self.host.address

    @property
    def up(self) -> bool:
        return self.host.up

    def takes(self, problem: Problem) -> bool:
        return True

    def ready(self) -> bool:
        return self.host.ready()

    def judge(self, work: Work) -> Verdict:
        limits = {name: getattr(self.config, name) for name in ("cpu_s", "wall_s", "memory_bytes", "output_bytes")}
        problem = replace(work.problem, prompt="", limits={**limits, **work.problem.limits})
        body = {
            "problem": problem_to_json(problem), "response": work.text, "source": work.source, "id": work.key,
            "wait_s": _WAIT_S,
        }  # fmt: skip
        end_s = time.monotonic() + work.limit_s
        while True:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"{self.place} gave no verdict in {work.limit_s:g} s")
            if left_s != float("inf"):
                body["deadline_s"] = left_s
            status, answer = self._post(json.dumps(body).encode(), min(_SILENT_S, left_s + _CONNECT_S))
            if status == 200:
                return verdict_from(answer)
            if status in (429, 503):  # its queue is full
                time.sleep(min(_PAUSE_S, left_s))
            elif status in (401, 403):
                raise RuntimeError(f"{self.place} refuses the token; set OPENMIMO_JUDGE_TOKEN to the server's")
            elif status in (400, 413, 422):
                raise ValueError(f"{self.place}: {answer.get('detail', status)}")
            elif status != 202:  # 202: not yet
                raise self._lose(f"answered {status}: {str(answer.get('detail', ''))[:200]}")

    def kill(self) -> None:
        self._killed = True
        connection = self._http
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _post(self, body: bytes, timeout_s: float) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": "application/json", **self.host.headers}
        while True:
            fresh = self._http is None
            try:
                if self._killed:
                    raise OSError("the judge was closed")
                if self._http is None:
                    self._http = self.host.connect(_CONNECT_S)
                    self._http.connect()
                assert self._http.sock is not None
                self._http.sock.settimeout(timeout_s)
                self._http.request("POST", "/judge", body, headers)
                response = self._http.getresponse()
                data = response.read()
                if response.will_close:
                    self.close()
                answer = json.loads(data)
                return response.status, answer if isinstance(answer, dict) else {}
            except (OSError, http.client.HTTPException, AssertionError, ValueError) as error:
                self.close()
                # A kept connection may have been closed while it was idle: once more on a new one.
                if fresh or self._killed or isinstance(error, TimeoutError):
                    raise self._lose(f"was lost ({error or type(error).__name__})") from error

    def _lose(self, why: str) -> Lost:
        self.host.lost(why)
        return Lost(f"{self.place} {why}")


def verdict_from(row: dict[str, Any]) -> Verdict:
    """A verdict from its JSON."""
    return Verdict(**{**row, "tests": tuple(TestResult(**test) for test in row["tests"])})
