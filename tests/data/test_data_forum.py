"""Threads of each known kind keep their posts, order, roles and scores."""

# ruff: noqa: E501

import pytest
from selectolax.lexbor import LexborHTMLParser

from openmimo.data.extract import extract, plain_text
from openmimo.data.forum import find_thread, render_thread
from openmimo.data.read import Page
from openmimo.types import Document

STACK = """<div id="question-header"><h1>Why is it so?</h1></div>
<div id="question" class="question" data-questionid="1"><div class="js-vote-count" data-value="12"></div>
<div class="s-prose js-post-body"><p>I see $x^2$ everywhere.</p></div>
<ul class="comments-list"><li class="comment"><div class="comment-score"><span>3</span></div>
<span class="comment-copy">Do you?</span></li></ul></div>
<div id="answers"><div class="answer accepted-answer" data-answerid="2"><div class="js-vote-count">-1</div>
<div class="s-prose js-post-body"><p>Because.</p><pre><code>x = 1</code></pre></div></div>
<div class="answer" data-answerid="3"><div class="js-vote-count">7</div><div class="s-prose js-post-body"><p>No.</p></div></div></div>"""
DISCOURSE = """<h1>Topic</h1><div class="topic-body crawler-post"><div class="crawler-post-meta"><span class="creator">ann</span></div>
<div class="post" itemprop="text"><p>First words.</p></div></div>
<div class="topic-body crawler-post"><div class="post" itemprop="text"><p>Second words.</p></div></div>"""
PHPBB = """<body id="phpbb"><h2 class="topic-title">Topic</h2>
<div class="post"><div class="postbody"><p class="author">by ann</p><div class="content">First words.</div></div></div>
<div class="post"><div class="postbody"><div class="content">Second words.<div class="signature">my car</div></div></div></div></body>"""
GITHUB = """<bdi class="js-issue-title">It crashes</bdi><div class="js-discussion">
<div class="timeline-comment"><div class="comment-body"><p>First words.</p></div></div>
<div class="timeline-comment"><div class="comment-body"><p>Second words.</p></div></div></div>"""
SCHEMA = """<div itemscope itemtype="https://schema.org/Question"><h1 itemprop="name">Topic</h1><div itemprop="text">First words.</div>
<div itemprop="acceptedAnswer" itemscope itemtype="https://schema.org/Answer"><span itemprop="upvoteCount">4</span>
<div itemprop="text">Second words.</div></div></div>"""
GENERIC = "<h1>Topic</h1>" + "".join(
    f"<div class='x post-body'>{t} words are said here.</div>" for t in ("First", "Second", "Third")
)


def test_stack_exchange_order_roles_scores() -> None:
    thread = find_thread(LexborHTMLParser(STACK))
    assert thread is not None and thread.title == "Why is it so?"
    assert [(p.role, p.score, p.accepted) for p in thread.posts] == [
        ("question", 12, False), ("comment", 3, False), ("answer", -1, True), ("answer", 7, False),
    ]  # fmt: skip


def test_a_thread_is_rendered_with_its_formulas_and_code() -> None:
    document = extract(Page("http://q.a/1", STACK.encode(), "text/html", "web"))
    assert isinstance(document, Document)
    assert document.text == (
        "Why is it so?\n\nQuestion (score 12):\n\nI see $x^2$ everywhere.\n\nComment (score 3): Do you?\n\n"
        "Answer (accepted, score -1):\n\nBecause.\n\n```\nx = 1\n```\n\nAnswer (score 7):\n\nNo."
    )


@pytest.mark.parametrize("page", [DISCOURSE, PHPBB, GITHUB, SCHEMA, GENERIC])
def test_other_forums_keep_every_post_in_order(page: str) -> None:
    thread = find_thread(LexborHTMLParser(page))
    assert thread is not None and len(thread.posts) >= 2
    text = render_thread(thread, plain_text)
    assert thread.title in ("Topic", "It crashes")
    assert 0 < text.index("First words") < text.index("Second words")
    assert "my car" not in text


def test_an_article_is_no_thread() -> None:
    assert find_thread(LexborHTMLParser("<article><h1>A</h1><p>Text.</p></article>")) is None
