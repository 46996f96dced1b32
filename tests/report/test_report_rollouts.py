"""Model output on the page: nothing in it can run, load or leave its place."""

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmimo.report.rollouts import HEAD, TAIL, markdown, shortened, split, to_show

TAGS = {
    "p", "br", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "h1", "h2", "h3", "h4", "h5", "h6",
}  # fmt: skip
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![a](http://evil.example/x.png)",
    "[click](javascript:alert(1))",
    "<http://evil.example>",
    "[a]: http://evil.example\n\n[a]",
    "```<script>\n</code></pre><script>alert(1)</script>\n```",
    '```python" onmouseover="alert(1)\nx\n```',
    "</div></article></main><style>*{display:none}</style>",
    "&lt;script&gt; &#60;b&#62;",
]


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def seen(text: str) -> Seen:
    parser = Seen()
    parser.feed(str(markdown(text)))
    parser.close()
    return parser


def assert_harmless(found: Seen) -> None:
    for tag, attributes in found.tags:
        assert tag in TAGS
        assert set(attributes) <= ({"class"} if tag == "code" else {"start"} if tag == "ol" else set())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_responses_become_text(text):
    assert_harmless(seen(text))


@given(st.text(alphabet=st.sampled_from("<>&\"'/=!-[]()`*_#\n \\:ahrefscriptonx\u2028"), max_size=80))
def test_no_response_makes_a_tag_or_attribute_of_its_own(text):
    assert_harmless(seen(text))


def test_mathematics_and_entities_stay_as_written():
    for text in (r"\boxed{\{1, 2\}}", r"\(x\)", "&lt;b&gt;"):
        assert seen(text).text.strip() == text


def test_code_keeps_its_indentation():
    assert seen("```python\ndef f(x):\n    return x\n```").text.rstrip() == "def f(x):\n    return x"


@pytest.mark.parametrize("text", ["*" * 16000, "[" * 16000, "`" * 15999 + "a", "> " * 8000, "- " * 8000, "_a" * 8000])
def test_the_longest_response_renders_in_a_moment(text):
    started = time.process_time()
    markdown(shortened(text))
    assert time.process_time() - started < 3.0


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\na = 4\n</think>\n4", "a = 4", "\n4"),
        ("<think>a = 4", "a = 4", ""),
        ("a = 4</think>4", "a = 4", "4"),
        ("4", "", "4"),
        ("so <think>a</think>4", "a", "so 4"),
        ("<think>a</think>4</think>5", "a", "4</think>5"),
    ],
)
def test_thinking_and_answer_are_told_apart(text, thinking, answer):
    assert split(text) == (thinking, answer)


def test_a_long_response_keeps_beginning_and_end():
    text = "a" * HEAD + "b" * 5 + "c" * TAIL
    assert shortened(text) == "a" * HEAD + "\n\n[… 5 characters …]\n\n" + "c" * TAIL
    assert shortened(text[5:]) == text[5:]


def test_a_problem_gathers_the_responses_of_every_checkpoint():
    def row(id, *statuses):
        problem = {"id": id, "prompt": "2 + 2?", "kind": "math", "answer": "4"}
        responses = [{"text": "4", "status": s, "finish_reason": "length"} for s in statuses]
        return {"problem": problem, "responses": responses}

    found = to_show(
        {"base": [row("a", "wrong_answer"), row("b", "accepted")], "rl": [row("b", "accepted", "time_limit")]}
    )
    assert [(shown.id, list(shown.responses)) for shown in found] == [("a", ["base"]), ("b", ["base", "rl"])]
    assert found[1].accepted("rl") == "1 of 2 accepted"
    assert found[0].gold == "answer 4" and found[0].responses["base"][0].cut
