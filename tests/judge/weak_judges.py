"""Judges with known weaknesses, against which a hostile program shows that it works. Never for use.

Each follows the design, not the code, of judges in use:

    in_process          exec() in the judge's own process, results compared with ==, an alarm as limit
    harness_lines       a process a test, expected output in a file beside the program, a harness prints PASS
    exit_code           a process a test, asserts after the solution, accepted if it exits with 0
    shared_machine      a process a test with the judge's user, files, processes and network; outputs compared rightly
    zip_lines           the same, outputs compared line by line as zip() pairs them
    relative_tolerance  the same, numbers compared by relative tolerance
    own_report          a forked child that compares by itself and reports over an inherited pipe

Run as `python weak_judges.py NAME JOURNAL_FD`: jobs on stdin, one line of JSON a job on stdout. It is a script of the
standard library alone; `throwaway.py` runs it where it can do no harm.
"""

import contextlib
import io
import json
import os
import resource
import signal
import subprocess
import sys

CPU_S, WALL_S, MEMORY_BYTES = 1, 3.5, 128 << 20
HARNESS = """
import contextlib, io, json, sys
source, stdout = open(sys.argv[1]).read(), io.StringIO()
with contextlib.redirect_stdout(stdout):
    exec(compile(source, sys.argv[1], "exec"), {"__name__": "__main__"})
expected = json.load(open(sys.argv[2]))
print("PASS" if stdout.getvalue().split() == expected.split() else "FAIL " + stdout.getvalue())
"""


class Judge:
    """What every one of them holds in its memory."""

    def __init__(self, jobs, token):
        self.jobs = jobs
        self.token = token


def main():
    name, journal_fd = sys.argv[1], int(sys.argv[2])
    text = sys.stdin.read()
    judge = Judge(json.loads(text), os.environ["JUDGE_TOKEN"])
    report = os.fdopen(os.dup(1), "w")
    for number, (statuses, outputs) in enumerate(JUDGES[name](judge)):
        os.write(journal_fd, f"job {number}\n".encode())
        line = {"job": number, "statuses": statuses, "outputs": outputs, "peak_bytes": peak_bytes()}
        report.write(json.dumps(line) + "\n")
        report.flush()


def in_process(judge):
    jobs, token = judge.jobs, judge.token  # names that a walk over frames finds
    for job in jobs:
        tests = job["tests"]
        statuses, outputs = [], []
        for test in tests:
            status, got = run_here(job, test)
            statuses.append(status)
            outputs.append(str(got)[:200])
        yield statuses, outputs
    del token


def run_here(job, test):
    def alarm(*_):
        raise TimeoutError("time limit")

    signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, CPU_S)
    stdin, stdout = io.StringIO(test["input"]), io.StringIO()
    saved = sys.stdin, sys.stdout
    sys.stdin, sys.stdout = stdin, stdout
    got = ""
    try:
        namespace = {"__name__": "__main__"}
        with contextlib.suppress(SystemExit):
            exec(compile(job["source"] + "\n" + test["assertion"], "solution.py", "exec"), namespace)
        got = namespace[job["entry_point"]](*json.loads(test["input"])) if job["entry_point"] else stdout.getvalue()
        expected = json.loads(test["expected"]) if job["entry_point"] else test["expected"]
        right = bool(test["assertion"]) or equal(got, expected)
        return ("accepted" if right else "wrong_answer"), got
    except TimeoutError:
        return "time_limit", got
    except BaseException as error:
        return "runtime_error", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdin, sys.stdout = saved


def equal(got, expected):
    if isinstance(got, str) and isinstance(expected, str):
        return got.split() == expected.split()
    return got == expected


def harness_lines(judge):
    def command(folder, test):
        write(f"{folder}/harness.py", HARNESS)
        write(f"{folder}/expected.json", json.dumps(test["expected"]))
        return [sys.executable, f"{folder}/harness.py", f"{folder}/solution.py", f"{folder}/expected.json"]

    def accept(output, _):
        return "PASS" in output.split("\n")

    return in_subprocesses(judge, command, accept)


def exit_code(judge):
    def command(folder, test):
        write(f"{folder}/checked.py", read(f"{folder}/solution.py") + "\n" + test["assertion"] + "\n")
        return [sys.executable, f"{folder}/checked.py"]

    return in_subprocesses(judge, command, lambda *_: True)


def shared_machine(judge):
    def accept(output, expected):
        return output.split() == expected.split()

    return in_subprocesses(judge, run_solution, accept)


def run_solution(folder, test):
    return [f"{folder}/solution"] if test["language"] == "cpp" else [sys.executable, f"{folder}/solution.py"]


def zip_lines(judge):
    def accept(output, expected):
        lines, wanted = output.strip().split("\n"), expected.strip().split("\n")
        return all(line.split() == want.split() for line, want in zip(filter(None, lines), wanted, strict=False))

    return in_subprocesses(judge, run_solution, accept)


def relative_tolerance(judge):
    def accept(output, expected):
        got, wanted = output.split(), expected.split()
        close = (abs(float(a) - float(b)) <= 1e-6 * abs(float(b)) for a, b in zip(got, wanted, strict=False))
        return len(got) == len(wanted) and all(close)

    return in_subprocesses(judge, run_solution, accept)


def in_subprocesses(judge, command, accept):
    """The judge's user, files and network; a soft CPU limit by process; only the first process is waited for."""

    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, resource.RLIM_INFINITY))

    for number, job in enumerate(judge.jobs):
        folder = f"/tmp/judge/{os.getpid()}-{number}"
        os.makedirs(folder, exist_ok=True)
        if job["language"] == "cpp":
            write(f"{folder}/solution.cpp", job["source"])
            subprocess.run(["g++", "-o", f"{folder}/solution", f"{folder}/solution.cpp"], check=True)
        else:
            write(f"{folder}/solution.py", job["source"])
        statuses, outputs = [], []
        for test in job["tests"]:
            # Output to a file: a pipe would also wait for survivors.
            with open(f"{folder}/stdout", "w+b") as stdout:
                process = subprocess.Popen(
                    command(folder, test | {"language": job["language"]}),
                    stdin=subprocess.PIPE,
                    stdout=stdout,
                    stderr=subprocess.DEVNULL,
                    env={"PATH": os.environ["PATH"]},
                    preexec_fn=limit,
                    close_fds=False,
                )
                try:
                    process.communicate(test["input"].encode(), timeout=WALL_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    statuses.append("time_limit")
                    outputs.append("")
                    continue
                stdout.seek(0)
                output = stdout.read().decode("utf-8", "replace")
            if process.returncode == -signal.SIGXCPU:
                statuses.append("time_limit")
            elif process.returncode:
                statuses.append("runtime_error")
            else:
                statuses.append("accepted" if accept(output, test["expected"]) else "wrong_answer")
            outputs.append(output[:200])
        yield statuses, outputs


def own_report(judge):
    reader, writer = os.pipe()
    told = {}
    for number, job in enumerate(judge.jobs):
        for index, test in enumerate(job["tests"]):
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    status, got = run_here(job, test)
                    line = {"job": number, "test": index, "status": status, "output": str(got)[:200]}
                    os.write(writer, json.dumps(line).encode() + b"\n")
                os._exit(0)
            os.waitpid(pid, 0)
        os.write(writer, b"END\n")
        data = b""
        while not data.endswith(b"END\n"):
            data += os.read(reader, 1 << 16)
        for line in data.decode().split("\n"):
            if line.startswith("{"):
                report = json.loads(line)
                told.setdefault((report["job"], report["test"]), report)  # the first report counts
        reports = [told.get((number, index), {}) for index in range(len(job["tests"]))]
        yield [r.get("status", "lost") for r in reports], [r.get("output", "") for r in reports]


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read()


JUDGES = {
    judge.__name__: judge
    for judge in (in_process, harness_lines, exit_code, shared_machine, zip_lines, relative_tolerance, own_report)
}

if __name__ == "__main__":
    main()
