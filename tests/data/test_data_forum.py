"""Threads of each known kind keep their posts, order, roles and scores."""

# ruff: noqa: E501

from dataclasses import replace

import pytest
from selectolax.lexbor import LexborHTMLParser

from openmimo.data.pages.engines import ENGINES
from openmimo.data.pages.extract import extract
from openmimo.data.pages.forum import Thread, find_thread, render_thread
from openmimo.data.pages.plain_text import plain_text
from openmimo.data.pages.source_names import source_names
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
DISCOURSE = """<meta name="generator" content="Discourse 3.2"><h1 itemprop="headline">Topic</h1>
<div id="post_1" class="topic-body crawler-post"><div class="crawler-post-meta"><span class="creator">ann</span></div>
<div class="post" itemprop="text"><p>First words.</p></div><meta itemprop="userInteractionCount" content="5"></div>
<div id="post_2" class="topic-body crawler-post"><div class="post" itemprop="text"><p>Second words.</p></div></div>"""
DISCOURSE_APP = """<h1 id="topic-title">Topic</h1>
<div class="topic-post"><article id="post_1" data-post-id="7"><div class="regular contents"><div class="cooked"><p>First words.</p></div></div></article></div>
<div class="topic-post"><article id="post_2" data-post-id="8" class="accepted-answer"><div class="regular contents"><div class="cooked"><p>Second words.</p><aside class="quote"><div class="title"><div class="quote-controls">up</div></div></aside></div></div></article></div>"""
PHPBB = """<body id="phpbb" class="section-viewtopic"><h2 class="topic-title">Topic</h2>
<div class="post" id="p1"><div class="postbody"><p class="author">by ann</p><div class="content">First words.</div></div></div>
<div class="post" id="p2"><div class="postbody"><div class="content">Second words.<div class="signature">my car</div></div></div></div></body>"""
DISCUZ = """<h1 class="ts"><span id="thread_subject">Topic</span></h1>
<div id="post_1"><table id="pid1"><tr><td class="t_f" id="postmessage_1"><i class="pstatus">edited by me</i>First words.</td></tr></table></div>
<div id="post_2"><table id="pid2"><tr><td class="t_f" id="postmessage_2">Second words.</td></tr></table><div class="pstl"><div class="psti">A remark.</div></div></div>"""
VBULLETIN = """<span class="threadtitle"><a>Topic</a></span><ol id="posts">
<li class="postbit postbitim postcontainer" id="post_1"><div id="post_message_1"><blockquote class="postcontent restore">First words.</blockquote></div></li>
<li class="postbit postbitim postcontainer" id="post_2"><div id="post_message_2"><blockquote class="postcontent restore">Second words.</blockquote></div></li></ol>"""
REDDIT_OLD = """<div class="thing link"><div class="midcol"><div class="score unvoted" title="41">41</div></div><p class="title"><a class="title">Topic</a></p>
<div class="usertext-body"><div class="md"><p>First words.</p></div></div></div>
<div class="commentarea"><div class="thing comment"><p class="tagline"><span class="score unvoted" title="9">9 points</span></p>
<div class="usertext-body"><div class="md"><p>Second words.</p></div></div>
<div class="child"><div class="thing comment"><p class="tagline"><span class="score unvoted" title="-2">-2 points</span></p><div class="usertext-body"><div class="md"><p>Third words.</p></div></div></div></div></div></div>"""
REDDIT = """<shreddit-post score="41"><h1 slot="title">Topic</h1><div slot="text-body"><p>First words.</p><button>more</button></div></shreddit-post>
<shreddit-comment score="9"><div slot="comment"><p>Second words.</p></div><shreddit-comment score="-2"><div slot="comment"><p>Third words.</p></div></shreddit-comment></shreddit-comment>"""
HACKER_NEWS = """<link href="news.css"><table class="fatitem"><tr class="athing"><td class="title"><span class="titleline"><a>Topic</a></span></td></tr>
<tr><td><span class="score" id="score_1">120 points</span></td></tr><tr><td><div class="toptext">First words.</div></td></tr></table>
<table class="comment-tree"><tr class="athing comtr"><td><div class="comment"><div class="commtext c00">Second words.</div><div class="reply"><a>reply</a></div></div></td></tr>
<tr class="athing comtr"><td><div class="comment"><div class="commtext c00">Third words.<div class="reply"><u>reply</u></div></div></div></td></tr></table>"""
GITHUB = """<bdi class="js-issue-title">Topic</bdi><div class="js-discussion">
<div class="timeline-comment"><div class="comment-body"><p>First words.</p></div></div>
<div class="timeline-comment"><div class="comment-body"><p>Second words.</p></div></div></div>"""
GITHUB_2024 = """<h1><bdi data-testid="issue-title">Topic</bdi></h1><div data-testid="issue-body"><h2 class="sr-only">Description</h2><div class="markdown-body"><p>First words.</p></div></div>
<div class="react-issue-comment"><div class="markdown-body"><p>Second words.</p></div></div>"""
XENFORO = """<h1 class="p-title-value">Topic</h1><article class="message message--post"><article class="message-body"><div class="bbWrapper">First words.</div></article></article>
<article class="message message--post"><article class="message-body"><div class="bbWrapper"><blockquote>x<a class="bbCodeBlock-sourceJump">ann said</a></blockquote>Second words.</div></article></article>"""
SCHEMA = """<div itemscope itemtype="https://schema.org/Question"><h1 itemprop="name">Topic</h1><div itemprop="text">First words.</div>
<div itemprop="acceptedAnswer" itemscope itemtype="https://schema.org/Answer"><span itemprop="upvoteCount">4</span>
<div itemprop="text">Second words.</div></div></div>"""
GENERIC = "<title>Topic - Board</title><h1>Topic</h1>" + "".join(
    f"<div class='reply-item'><b class=author>ann</b><div class='x post-body'>{t} words.</div></div>" for t in ("First", "Second", "Third")
)  # fmt: skip

THREADS = {
    "discourse": (DISCOURSE, "question 5, answer"),
    "discourse app": (DISCOURSE_APP, "question, answer accepted"),
    "phpbb": (PHPBB, "question, answer"),
    "discuz": (DISCUZ, "question, answer, comment"),
    "vbulletin": (VBULLETIN, "question, answer"),
    "reddit old": (REDDIT_OLD, "question 41, comment 9, comment -2"),
    "reddit": (REDDIT, "question 41, comment 9, comment -2"),
    "hacker news": (HACKER_NEWS, "question 120, comment, comment"),
    "github": (GITHUB, "question, comment"),
    "github 2024": (GITHUB_2024, "question, comment"),
    "xenforo": (XENFORO, "question, answer"),
    "schema.org": (SCHEMA, "question, answer 4 accepted"),
    "generic": (GENERIC, "question, answer, answer"),
}


def thread_of(page: str) -> Thread:
    thread = find_thread(LexborHTMLParser(page), source_names(page.encode()))
    assert thread is not None
    return thread


def facts(thread: Thread) -> str:
    return ", ".join(
        " ".join([post.role, *([str(post.score)] if post.score is not None else []), *["accepted"] * post.accepted])
        for post in thread.posts
    )


def test_stack_exchange_order_roles_scores() -> None:
    thread = thread_of(STACK)
    assert thread.title == "Why is it so?"
    assert facts(thread) == "question 12, comment 3, answer -1 accepted, answer 7"


def test_a_thread_is_rendered_with_its_formulas_and_code() -> None:
    document = extract(Page("http://q.a/1", STACK.encode(), "text/html", "web"))
    assert isinstance(document, Document)
    assert document.text == (
        "Why is it so?\n\nQuestion (score 12):\n\nI see $x^2$ everywhere.\n\nComment (score 3): Do you?\n\n"
        "Answer (accepted, score -1):\n\nBecause.\n\n```\nx = 1\n```\n\nAnswer (score 7):\n\nNo."
    )


@pytest.mark.parametrize("name", THREADS)
def test_each_forum_keeps_posts_in_order_with_roles_and_scores(name: str) -> None:
    page, wanted = THREADS[name]
    thread = thread_of(page)
    assert thread.title == "Topic" and facts(thread) == wanted
    text = render_thread(thread, plain_text)
    places = [text.find(f"{word} words") for word in ("First", "Second", "Third")]
    assert 0 < places[0] < places[1] and (len(thread.posts) < 3 or "Third" not in page or places[1] < places[2])
    assert not any(chrome in text for chrome in ("my car", "edited", "reply", "more", "ann", "up\n", "Description"))


def test_an_article_is_no_thread() -> None:
    for page in (
        "<article><h1>A</h1><p>Text.</p></article>",
        "<div class='post-content'><p>A blog's only post.</p></div><div class='comment-form'></div>" * 1,
    ):
        assert find_thread(LexborHTMLParser(page), source_names(page.encode())) is None


def test_a_later_page_of_a_thread_has_no_question() -> None:
    later = PHPBB.replace("<body", '<head><link rel="prev" href="viewtopic.php?t=1&start=0"></head><body')
    assert facts(thread_of(later)) == "answer, answer"
    marked = PHPBB.replace("<h2", '<div class="pagination"><ul><li class="active"><span>2</span></li></ul></div><h2')
    assert facts(thread_of(marked)) == "answer, answer"
    assert facts(thread_of(marked.replace("<span>2<", "<span>1<"))) == "question, answer"


def test_posts_that_a_page_holds_twice_count_once() -> None:
    words = "These are more than thirty letters of words."
    once = PHPBB.replace("First words.", words)
    assert facts(thread_of(once.replace("Second words.", words))) == "question"
    assert facts(thread_of(PHPBB.replace("Second", "First"))) == "question, answer"  # two people may say the same


def test_scores_of_thousands_and_minus_signs_are_read() -> None:
    for shown, value in (("1.2k", 1200), ("−3", -3), ("1,024", 1024), ("7 points", 7)):
        page = STACK.replace('data-value="12"></div>', f">{shown}</div>")
        assert thread_of(page).posts[0].score == value


def test_every_selector_of_every_engine_is_valid() -> None:
    tree = LexborHTMLParser("<p>x</p>")
    for engine in ENGINES:
        assert engine.marks and engine.posts and replace(engine, name="x") != engine
        for selector in (
            engine.posts,
            engine.post,
            engine.comments,
            engine.comment,
            engine.opener,
            engine.accepted,
            engine.chrome,
            engine.title,
            engine.repeats,
            engine.comment_score,
            engine.score.lstrip("@"),
        ):
            if selector:
                tree.css(selector)
