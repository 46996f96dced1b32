"""Compile a solution in the sandbox, once: cached by the hash of source, command and compiler (MiMo 3.4.1).

The cache lies in the user's cache folder and is held below `MOST_BYTES`. A header that a language names is precompiled
with the first solution.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from openmimo.judge.languages.language import Language
from openmimo.judge.sandbox.limits import Limits
from openmimo.judge.sandbox.supervisor import CompileError, Sandbox

MOST_BYTES = 1 << 30
_LIMITS = Limits(
    cpu_s=20.0, wall_s=60.0, memory_bytes=768 << 20, stack_bytes=64 << 20, output_bytes=256 << 20, max_processes=40
)
_SAMPLE_CHARS = 500


def cache_folder() -> Path:
    """Where compiled programs and headers lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openmimo" / "judge"


def build(source: bytes, language: Language, sandbox: Sandbox) -> bytes:
    """The solution's binary.

    Raises:
        CompileError: with the compiler's first message.
        RuntimeError: if the compiler is not installed.
    """
    version = compiler_version(language.compiler[0])
    key = hashlib.sha256(repr((language.compiler, version)).encode() + source).hexdigest()
    kept = cache_folder() / "programs" / key
    try:
        os.utime(kept)
        return kept.read_bytes()
    except OSError:
        pass
    headers = _headers(language, version, sandbox)
    binary = _compile(source, language.compiler, language, sandbox, headers)
    _keep(kept, binary)
    return binary


@functools.lru_cache(maxsize=8)
def compiler_version(compiler: str) -> str:
    """First line of `--version`.

    Raises:
        RuntimeError: if there is no such compiler.
    """
    path = shutil.which(compiler)
    if path is None:
        raise RuntimeError(f"no {compiler} here: solutions in that language need it installed")
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.split("\n")[0]


def _headers(language: Language, version: str, sandbox: Sandbox) -> Path:
    """Folder of the precompiled header; an empty one if it cannot be made."""
    if not language.header:
        return cache_folder()
    key = hashlib.sha256(repr((language.header_compiler, version)).encode()).hexdigest()[:16]
    folder = cache_folder() / "headers" / key
    made = folder / (language.header + ".gch")
    if not made.exists():
        source = f"#include <{language.header}>\n".encode()
        try:
            _keep(made, _compile(source, language.header_compiler, language, sandbox, folder, name="header.h"))
        except CompileError:
            pass  # only slower without
    return folder


def _compile(
    source: bytes, command: tuple[str, ...], language: Language, sandbox: Sandbox, headers: Path, *, name: str = ""
) -> bytes:
    source_name = name or "solution" + language.suffixes[0]
    words = [word.format(source=source_name, binary="program", headers=headers) for word in command]
    words[0] = os.path.realpath(shutil.which(words[0]) or words[0])
    message = {"command": words, "source_name": source_name, "binary_name": "program"}
    binary, run = sandbox.build(source, message, _LIMITS, folders=[str(cache_folder() / "headers")])
    if run.wait_status != 0 or not binary:
        text = run.error.decode("utf-8", "replace").strip()
        if run.timed_out:
            text = f"the compiler was stopped after {run.cpu_s:.0f} CPU seconds"
        raise CompileError(text[:_SAMPLE_CHARS] or f"the compiler failed, wait status {run.wait_status}")
    return binary


def _keep(path: Path, data: bytes) -> None:
    """Write whole or not at all; the oldest files go when there is too much."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    programs = cache_folder() / "programs"
    if path.parent != programs:
        return
    files = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(programs))
    total = sum(size for _, size, _ in files)
    for _, size, oldest in files:
        if total <= MOST_BYTES:
            break
        Path(oldest).unlink(missing_ok=True)
        total -= size
