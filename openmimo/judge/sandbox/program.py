"""A Python program from its source to its exit code, inside the process that is its own (MiMo 3.4.1).

Runs with the program, so nothing here is trusted, and nothing here knows an expected output, save the assert of a test
that is an assert.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

from openmimo.judge.sandbox.limits import ASSERT_EXIT_CODE, MEMORY_EXIT_CODE

PROGRAM_FILES = ("solution.py", "test.py")
"""What tracebacks call the program and the assert after it."""


def compile_program(source: bytes) -> tuple[types.CodeType | None, str]:
    """(code, "") or (None, why not)."""
    try:
        return compile(source, PROGRAM_FILES[0], "exec", dont_inherit=True), ""
    except MemoryError:
        return None, "MemoryError: the program is too large to compile"
    except (SyntaxError, ValueError, RecursionError, OverflowError) as error:
        return None, f"{type(error).__name__}: {error}"[:500]


def python_run(code: types.CodeType, asked: dict[str, Any]) -> Callable[[], int]:
    """What runs the compiled program as its tests ask, and returns its exit code.

    Made once, before the forks, down to the __main__ without a trace of ours and Python's view of descriptors 0, 1 and
    2: the files behind them change with each test, and what a fork finds ready it need not copy.
    """
    stdin = open(0, encoding="utf-8", closefd=False)
    stdout = open(1, "w", encoding="utf-8", closefd=False)
    stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    module = types.ModuleType("__main__")
    namespace = module.__dict__
    sys.modules["__main__"] = module
    mode, entry_point = asked["mode"], asked["entry_point"]
    if mode != "program":
        stdout = stderr  # what the program prints goes to 2; 1 is for results
    sys.stdin, sys.stdout, sys.stderr = stdin, stdout, stderr
    vars(sys).update(__stdin__=stdin, __stdout__=stdout, __stderr__=stderr)
    gc.enable()
    if mode == "function":
        return lambda: finish(lambda: call_function(code, namespace, entry_point, stdin.read()))
    if mode == "assert":
        return lambda: finish(lambda: check_assert(code, namespace, stdin.read()), assert_exit_code=ASSERT_EXIT_CODE)
    return lambda: finish(lambda: exec(code, namespace))


def call_function(code: types.CodeType, namespace: dict[str, Any], entry_point: str, given: str) -> None:
    """Call a function once for every line given, a JSON list of arguments; write one line of JSON for each result."""
    write, dumps, loads = os.write, json.dumps, json.loads
    exec(code, namespace)
    function = find_function(namespace, entry_point)
    for call in given.split("\n"):
        value = function(*loads(call))
        try:
            result = dumps(value)
        except (TypeError, ValueError, RecursionError):
            result = ""  # not plain JSON: equal to nothing
        write_all(write, result + "\n")


def check_assert(code: types.CodeType, namespace: dict[str, Any], given: str) -> None:
    """Run the program, then the assert; write the word that came first only if no exception ended it on the way."""
    write = os.write
    word, _, assertion = given.partition("\n")
    test = compile(assertion, PROGRAM_FILES[1], "exec", dont_inherit=True)
    del given, assertion
    exec(code, namespace)
    exec(test, namespace)
    write_all(write, word)


def write_all(write: Callable[[int, bytes], int], text: str) -> None:
    data = text.encode()
    while data:
        data = data[write(1, data) :]


def find_function(namespace: dict[str, Any], entry_point: str) -> Callable[..., object]:
    """A function of that name, or the method of a class `Solution`."""
    if entry_point in namespace:
        found: Callable[..., object] = namespace[entry_point]
        return found
    if "Solution" in namespace and hasattr(namespace["Solution"], entry_point):
        method: Callable[..., object] = getattr(namespace["Solution"](), entry_point)
        return method
    raise NameError(f"the program defines no function {entry_point!r}")


def finish(run: Callable[[], None], *, assert_exit_code: int = 1) -> int:
    """Run to the end as the interpreter would, exit handlers included, but without tearing it down."""
    exit_code = 0
    try:
        try:
            run()
        except SystemExit as error:
            exit_code = exit_status(error.code)
        if len(threading._active) > 1 or threading._threading_atexits:  # type: ignore[attr-defined]
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except MemoryError:
        exit_code = MEMORY_EXIT_CODE
    except BaseException as error:
        exit_code = assert_exit_code if isinstance(error, AssertionError) else 1
        try:
            trace = error.__traceback__
            while trace is not None and trace.tb_frame.f_code.co_filename not in PROGRAM_FILES:
                trace = trace.tb_next  # ours
            traceback.print_exception(type(error), error, trace, limit=-20)
            atexit._run_exitfuncs()
            sys.stdout.flush()
        except BaseException:
            pass
    try:
        sys.stderr.flush()
    except BaseException:
        pass
    return exit_code


def exit_status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1
