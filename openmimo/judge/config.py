"""How programs and answers are judged: one config for the local pool, the server and the command line."""

from __future__ import annotations

from dataclasses import dataclass

from openmimo.judge.sandbox.limits import Limits


@dataclass(frozen=True)
class JudgeConfig:
    """How programs and answers are judged. What a problem says of itself (`Problem.limits`) goes before it."""

    num_workers: int = 1
    """Worker processes; each judges one response at a time."""
    cpu_s: float = 2.0
    """CPU seconds a test. # ours"""
    wall_s: float = 6.0
    """Seconds a test. # ours"""
    memory_bytes: int = 256 << 20
    """Peak resident memory of a test's process. # ours"""
    stack_bytes: int = 256 << 20
    """Allocation allowed beyond it, for the reserved stacks of threads."""
    output_bytes: int = 16 << 20
    """Standard output of a test, and standard error alike."""
    max_processes: int = 16
    """Processes and threads of a test at once."""
    math_wall_s: float = 5.0
    """Seconds for one comparison by math-verify. # ours"""
    math_memory_bytes: int = 512 << 20
    """Data of the process that compares."""
    verifier: str = ""
    """A verifier of your own for maths, as `module:function`; empty is math-verify."""
    stop_on_fail: bool = False
    """End at the first test that is not accepted; the rest get no result."""
    fuse: int = 3
    """Time limits in a row after which the remaining tests are `time_limit` without a run (`inferred`); 0: never."""
    share_process: bool = False
    """One process a solution instead of one a test, for function-call problems: cheaper, less apart (`judge_code`)."""
    accept_unsafe: bool = False
    """Run programs also where the machine cannot isolate them; every verdict is stamped."""
    queue_size: int = 4096
    """Responses that may wait for a worker; beyond it `submit` waits."""
    hosts: tuple[str, ...] = ()
    """Judges on other hosts, such as `http://box:8100`, in place of workers here; the token comes from the
    environment, OPENMIMO_JUDGE_TOKEN."""

    @property
    def limits(self) -> Limits:
        return Limits(
            self.cpu_s, self.wall_s, self.memory_bytes, self.stack_bytes, self.output_bytes, self.max_processes
        )
