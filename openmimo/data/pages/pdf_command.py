"""A PDF parser of the user's own, such as one that needs a GPU, run as a command (MiMo 2.1).

The command gets the path of the PDF in the place of `{input}` and prints the text. What it prints is cleaned like any
page's; a command that fails, prints nothing, or prints no UTF-8 costs that one page.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

from openmimo.data.pages.extract import Dropped, clean, document_of
from openmimo.data.read import Page
from openmimo.types import Document


def check_command(command: str) -> None:
    """
    Raises:
        ValueError: if it has no `{input}`, cannot be split into words, or names no program.
    """
    import shutil

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"cannot read the PDF command {command!r}: {error}") from error
    if not any("{input}" in word for word in words):
        raise ValueError(f"the PDF command {command!r} lacks {{input}}, the place of the file: 'parser {{input}}'")
    if shutil.which(words[0]) is None:
        raise ValueError(f"the PDF command's program {words[0]!r} is not on this machine")


def parse_with(command: str, page: Page, *, max_bytes: int) -> Document | Dropped:
    """The document that the command makes of a PDF; the caller limits its time by killing this process group.

    Args:
        max_bytes: of its output; a command that prints more is stopped.
    """
    with tempfile.TemporaryDirectory(prefix="openmimo-pdf-") as folder:
        path = Path(folder) / "page.pdf"
        path.write_bytes(page.content)
        words = [word.replace("{input}", str(path)) for word in shlex.split(command)]
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            output = process.stdout.read(max_bytes + 1)
            if len(output) > max_bytes:
                process.kill()
                return Dropped("too large", f"the PDF command printed more than {max_bytes} bytes")
            status = process.wait()
    if status != 0:
        return Dropped("PDF command failed", f"exit status {status}")
    try:
        return document_of(page, clean(output.decode()))
    except UnicodeDecodeError as error:
        return Dropped("PDF command failed", f"it printed no UTF-8: {error}")
