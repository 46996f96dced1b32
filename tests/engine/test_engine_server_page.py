"""The chat page in a real browser, over its debugging pipe: streaming, reasoning folded, stop, settings, keyboard."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, served

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


class Browser:
    """A tab of headless Chromium, driven by DevTools messages over file descriptors 3 and 4."""

    def __init__(self, folder: str) -> None:
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        command = [CHROMIUM, *flags, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        # Chromium wants exactly 3 and 4; Debian's wrapper passes them on.
        script = f'exec "$@" 3<&{their_in} 4>&{their_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(their_in, their_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(their_in)
        os.close(their_out)
        self._number = 0
        self._buffer = b""
        self._session = ""
        self.errors: list[str] = []
        """Exceptions of the page's script, and what its policy blocked."""
        target = next(t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                data = os.read(self._in, 1 << 20)
                assert data, "the browser has ended"
                self._buffer += data
            line, self._buffer = self._buffer.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"]))
            if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["source"] == "security":
                self.errors.append(answer["params"]["entry"]["text"])

    def value(self, expression: str) -> Any:
        """What a script gives."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression: str, within_s: float = 20.0) -> None:
        """Wait until a script gives something true."""
        end_s = time.monotonic() + within_s
        while not self.value(expression):
            text = self.value("document.body?.innerText")
            assert time.monotonic() < end_s, f"not within {within_s} s: {expression}\n{text}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Keys into what has the focus."""
        self("Input.insertText", text=text)

    def press(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        """One key down and up."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self("Input.dispatchKeyEvent", type="keyUp", **common)

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self._session = ""
            self("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(max_model_len=512, num_draft_layers=2) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(folder)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Served) -> Browser:
    browser.errors.clear()
    browser("Page.navigate", url=server.url + "/")
    browser.until("document.readyState === 'complete' && document.querySelector('#model')?.textContent === 'tiny'")
    return browser


def ask(page: Browser, text: str, **settings: Any) -> None:
    for name, value in settings.items():
        page.value(f"document.getElementById({name!r}).value = {value!r}")
    page.type(text)
    page.press("Enter", 13, "\r")


def finished(page: Browser, turns: int = 1) -> None:
    page.until(
        f"document.querySelectorAll('.turn.assistant').length === {turns} && !document.querySelector('#send').hidden"
    )


def test_an_answer_streams_in_and_is_the_servers_text_with_its_speed_and_acceptance(
    page: Browser, server: Served
) -> None:
    ask(page, "hello there", seed="7", max_tokens="60", temperature="1", top_p="1")
    finished(page)
    body = {"messages": [{"role": "user", "content": "hello there"}], "seed": 7, "max_tokens": 60}
    text = server.post("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    shown = page.value("document.querySelector('.assistant > .text').textContent")
    assert shown == page.value(f"{json.dumps(text)}.trim()")
    figures = page.value("document.querySelector('.figures').textContent")
    assert "60 tokens" in figures and "tokens/s" in figures and "drafts accepted 1: " in figures, figures
    assert page.value("document.activeElement.id") == "question", "the keyboard is where the next question goes"
    assert not page.errors


def test_a_conversation_goes_on_and_a_new_chat_forgets_it(page: Browser, server: Served) -> None:
    ask(page, "one", seed="1", max_tokens="5")
    finished(page)
    ask(page, "two")
    finished(page, turns=2)
    assert page.value("messages.map(m => m.role).join()") == "user,assistant,user,assistant"
    page.value("document.getElementById('fresh').click()")
    assert page.value("document.querySelectorAll('.turn').length + messages.length") == 0


def test_reasoning_is_folded_and_can_be_opened(page: Browser) -> None:
    page.value(
        """(() => {
          const view = {turn: turn("assistant")};
          view.answer = add("div", "text", view.turn);
          for (const text of ["<think>2 and", "<think>2 and 2 <b>", "<think>2 and 2 <b></think>\\n\\nIt is 4."]) {
            show(view, text);
            (window.steps ??= []).push([view.summary.textContent, view.fold.open, view.answer.textContent]);
          }
        })()"""
    )
    assert page.value("steps") == [
        ["Reasoning…", False, ""],
        ["Reasoning…", False, ""],
        ["Reasoning", False, "It is 4."],
    ]
    assert page.value("document.querySelector('.reasoning > .text').textContent") == "2 and 2 <b>", "never as HTML"
    page.value("document.querySelector('.reasoning summary').focus()")
    page.press("Enter", 13, "\r")
    page.until("document.querySelector('.reasoning').open")


def test_reasoning_that_the_template_has_opened_is_folded_too(page: Browser) -> None:
    assert page.value('split("so 4</think>4")') == {"before": "", "reasoning": "so 4", "answer": "4", "closed": True}
    assert page.value('split("4").reasoning') is None


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_ends_the_answer_and_frees_the_server(page: Browser, server: Served, how: str) -> None:
    aborted = server.engine.stats.num_aborted
    with server.slowed(0.02):
        ask(page, "a long story", max_tokens="400", seed="3")
        page.until("document.querySelector('.assistant > .text').textContent.length > 3")
        if how == "button":
            page.value("document.getElementById('stop').click()")
        else:
            page.press("Escape", 27)
        finished(page)
        assert "stopped" in page.value("document.querySelector('.figures').textContent")
        server.until(lambda: server.engine.num_active == 0)
    assert server.engine.stats.num_aborted == aborted + 1


def test_a_refusal_is_shown_in_its_own_words(page: Browser) -> None:
    ask(page, "x" * 600)
    finished(page)
    assert "a prompt needs 1 to 511 tokens" in page.value("document.querySelector('.figures.error').textContent")
    assert page.value("messages.length") == 0


def test_shift_enter_starts_a_new_line(page: Browser) -> None:
    page.type("one")
    page.press("Enter", 13, "\r", modifiers=8)
    page.type("two")
    assert page.value("document.getElementById('question').value") == "one\ntwo"
    assert page.value("document.querySelectorAll('.turn').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_in_both_schemes(page: Browser, scheme: str) -> None:
    page("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    ask(page, "contrast", max_tokens="5")
    finished(page)
    pairs = page.value(
        """["body", ".user .text", ".figures", "#send, #stop"].map(s => {
          const element = document.querySelector(s);
          let ground = element;
          while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
          return [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
        })"""
    )
    for ink, ground in pairs:
        assert contrast(ink, ground) >= 4.5, (ink, ground)
    if folder := os.environ.get("OPENMIMO_SCREENSHOTS"):
        data = page("Page.captureScreenshot", format="png")["data"]
        (Path(folder) / f"{scheme}.png").write_bytes(base64.b64decode(data))
    page("Emulation.setEmulatedMedia", features=[])


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours, 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
