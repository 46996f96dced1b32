"""Threads: a question, its answers and comments, in order, with roles and scores (MiMo 2.1: forum pages).

Main-content extraction keeps the longest post of a thread and loses the rest. Here each known kind of forum names its
posts; a page that declares its posts to search engines (schema.org), or that repeats one kind of post block, is read
the same way. Page chrome between posts (signatures, votes, share links) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from openmimo.data.dom import outermost, without_nested

Role = Literal["question", "answer", "comment", "post"]


@dataclass(frozen=True, slots=True)
class Post:
    """One contribution to a thread."""

    role: Role
    html: str
    """The body's markup; its formulas and code are placeholders already."""
    score: int | None = None
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Thread:
    """A forum page, read as a conversation."""

    title: str
    posts: tuple[Post, ...]
    """In the order of the page, comments after what they comment on."""


def find_thread(tree: Any) -> Thread | None:
    """The thread on this page (a selectolax tree), or None if it holds none."""
    for read_posts in (_stack_exchange, _discourse, _github, _phpbb, _other_boards, _schema_org, _repeated_blocks):
        posts = [post for post in read_posts(tree) if re.sub(r"<[^>]+>|\s", "", post.html)]
        if posts:
            return Thread(_thread_title(tree), tuple(posts))
    return None


def render_thread(thread: Thread, to_text: Callable[[str], str]) -> str:
    """Text of a thread: the title, then each post under its role and score."""
    parts = [thread.title] if thread.title else []
    for post in thread.posts:
        text = to_text(post.html).strip()
        if not text:
            continue
        facts = ["accepted"] if post.accepted else []
        facts += [f"score {post.score}"] if post.score is not None else []
        label = post.role.capitalize() + (f" ({', '.join(facts)})" if facts else "")
        parts.append(f"{label}: {text}" if post.role == "comment" else f"{label}:\n\n{text}")
    return "\n\n".join(parts)


def _thread_title(tree: Any) -> str:
    selectors = (
        "#question-header h1", "[data-testid='issue-title']", ".js-issue-title", "h2.topic-title", "#topic-title h1",
        "h1[itemprop='name']", "[itemprop='headline']", "h1", "h2", "title",
    )  # fmt: skip
    for selector in selectors:
        node = tree.css_first(selector)
        text = re.sub(r"\s+", " ", _content(node) if node is not None else "").strip()
        if text:
            return text
    return ""


def _content(node: Any) -> str:
    return str(node.attributes.get("content") or node.text() or "")


def _score(node: Any) -> int | None:
    """The number in a vote counter; `1.2k` is 1200."""
    if node is None:
        return None
    raw = (
        node.attributes.get("data-value")
        or node.attributes.get("data-score")
        or node.attributes.get("content")
        or node.text()
    )
    match = re.search(r"([-−]?\d[\d,]*\.?\d*)\s*(k)?", raw or "", re.IGNORECASE)
    if not match:
        return None
    number = float(match.group(1).replace(",", "").replace("−", "-"))
    return int(number * (1000 if match.group(2) else 1))


def _inner(node: Any, *chrome: str) -> str:
    """A body's markup without what surrounds the words."""
    for selector in chrome:
        for part in outermost(node, selector):
            part.decompose()
    return node.html or ""


def _stack_exchange(tree: Any) -> Iterator[Post]:
    question = tree.css_first("#question, .question[data-questionid]")
    if question is None or tree.css_first(".js-post-body, .post-text, .s-prose") is None:
        return
    for node, role in [(question, "question"), *((n, "answer") for n in outermost(tree, "div.answer"))]:
        body = node.css_first(".js-post-body, .post-text, .s-prose")
        if body is None:
            continue
        votes = node.css_first(".js-vote-count, .vote-count-post")
        accepted = "accepted-answer" in (node.attributes.get("class") or "")
        yield Post("question" if role == "question" else "answer", _inner(body), _score(votes), accepted)
        for comment in outermost(node, "li.comment, .comments-list .comment, tr.comment"):
            words = comment.css_first(".comment-copy")
            if words is not None:
                count = comment.css_first(".comment-score span, .comment-score .cool, .comment-score")
                yield Post("comment", _inner(words), _score(count))


def _discourse(tree: Any) -> Iterator[Post]:
    nodes = outermost(tree, "div.crawler-post") or outermost(tree, "article[data-post-id], .topic-post article")
    question = tree.css_first("[itemtype*='QAPage'], [itemtype*='schema.org/Question']") is not None
    for number, node in enumerate(nodes):
        body = node.css_first(".post[itemprop='text'], .post[itemprop='articleBody'], .cooked, .post")
        if body is None:
            continue
        own = node.attributes.get("class") or ""
        accepted = "accepted-answer" in own or node.css_first(".accepted-answer") is not None
        later: Role = "answer" if question or accepted else "post"
        likes = node.css_first("[itemprop='userInteractionCount'], .post-likes, .like-count")
        first: Role = "question" if question else "post"
        words = _inner(body, ".meta .title", ".lightbox .meta", "aside.quote .title")
        yield Post(later if number else first, words, _score(likes), accepted)


def _github(tree: Any) -> Iterator[Post]:
    if tree.css_first(".js-issue-title, .js-discussion, .timeline-comment, [data-testid='issue-body']") is None:
        return
    body = tree.css_first("[data-testid='issue-body'] .markdown-body, [data-testid='issue-body']")
    if body is not None:  # the page as it is served since 2024
        yield Post("question", _inner(body, "[data-testid='issue-body-header']", "h2.sr-only"))
        for node in outermost(tree, ".react-issue-comment .markdown-body, [data-testid='comment-body'] .markdown-body"):
            yield Post("comment", _inner(node))
        return
    for number, node in enumerate(outermost(tree, ".comment-body, .js-comment-body")):
        if node.css_first("form, textarea") is None:
            yield Post("comment" if number else "question", _inner(node))


def _phpbb(tree: Any) -> Iterator[Post]:
    if tree.css_first("#phpbb, body.section-viewtopic, div.postbody .content") is None:
        return
    for node in outermost(tree, "div.postbody"):
        body = node.css_first(".content")
        if body is not None:
            yield Post("post", _inner(body, ".signature", "blockquote cite", ".notice"))


_BOARDS = (  # (posts, their bodies): vBulletin 3-5, XenForo 1-2, MyBB, SMF, Invision, Hacker News, old and new Reddit
    ("li.postcontainer, li.postbitlegacy, li.postbit", ".postcontent, [id^='post_message_']"),
    ("table[id^='post'], div[id^='edit']", "[id^='post_message_']"),
    (
        "article.message--post, article.message, li.message",
        ".message-body .bbWrapper, .messageText, .message-content .bbWrapper",
    ),
    ("div.post.classic, div.post", ".post_body"),
    (".post_wrapper", ".post .inner, .inner"),
    ("article.cPost, .ipsComment", "[data-role='commentContent']"),
    ("tr.athing.comtr", ".commtext"),
    (".thing.link, .thing.comment", ".usertext-body .md"),
    ("shreddit-post, shreddit-comment", "[slot='text-body'], [slot='comment']"),
)


def _other_boards(tree: Any) -> Iterator[Post]:
    for posts, body in _BOARDS:
        bodies, seen = [], set()
        for node in outermost(tree, posts):
            found = node.css_first(body)
            if found is not None and found.mem_id not in seen:
                seen.add(found.mem_id)
                bodies.append((node, found))
        if len(bodies) >= 2:
            for node, found in bodies:
                yield Post("post", _inner(found, ".bbCodeBlock-sourceJump", ".signature"),
                           _score(node.css_first(".score.unvoted, .ipsReact_reactCount")))  # fmt: skip
            return


def _schema_org(tree: Any) -> Iterator[Post]:
    """Microdata that pages of questions and of discussions declare to search engines."""
    entity = tree.css_first("[itemtype$='schema.org/Question'], [itemtype$='schema.org/DiscussionForumPosting']")
    if entity is None:
        return
    role: Role = "question" if (entity.attributes.get("itemtype") or "").endswith("Question") else "post"
    replies = entity.css("[itemprop='acceptedAnswer'], [itemprop='suggestedAnswer'], [itemtype$='schema.org/Comment']")
    own = entity.css_first("[itemprop='text'], [itemprop='articleBody']")
    if own is not None and own.attributes.get("content") is None:
        yield Post(role, _inner(own), _score(entity.css_first("[itemprop='upvoteCount']")))
    for node in replies:
        body = node.css_first("[itemprop='text']")
        if body is None or body.attributes.get("content") is not None:
            continue
        kind = node.attributes.get("itemprop") or ""
        yield Post("answer" if kind.endswith("Answer") else "comment", _inner(body),
                   _score(node.css_first("[itemprop='upvoteCount']")), kind == "acceptedAnswer")  # fmt: skip


_GENERIC = re.compile(r"(?:^|[\s_-])(post|reply|comment|message|answer)[_-]?(?:body|content|text|message)(?:$|[\s_-])")


def _repeated_blocks(tree: Any) -> Iterator[Post]:
    """Unknown boards: at least three blocks of one class that names a post's body, holding much of the page's words."""
    groups: dict[str, list[Any]] = {}
    for node in tree.css("div[class], td[class], section[class], li[class], article[class]"):
        match = _GENERIC.search(node.attributes.get("class") or "")
        if match:
            group = groups.setdefault(f"{node.tag}.{match.group(0).strip()}", [])
            group.append(node)
    if not groups:
        return
    whole = len(tree.body.text() or "")
    best = max(map(without_nested, groups.values()), key=lambda nodes: sum(len(n.text() or "") for n in nodes))
    if len(best) >= 3 and sum(len(n.text() or "") for n in best) * 2 > whole:
        for node in best:
            yield Post("post", _inner(node, ".signature"))
