"""Threads: a question, its answers and comments, in order, with roles and scores (MiMo 2.1: forum pages).

Main-content extraction keeps the longest post of a thread and loses the rest. Known kinds of forum name their posts
(`engines.py`); a page that declares its posts to search engines (schema.org), or that repeats blocks whose class says
post, reply, comment or answer, is read the same way. The thread's first post is its question, what follows it in a
board answers, remarks on a post and replies in a discussion of comments are comments. Page chrome between posts
(signatures, votes, share links) is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from openmimo.data.pages.dom import outermost, without_nested
from openmimo.data.pages.engines import ENGINES, Engine, Role


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


def find_thread(tree: Any, names: str) -> Thread | None:
    """The thread on this page, or None if it holds none.

    Args:
        tree: the page, parsed by selectolax.
        names: what its source names (`source_names`), to see at once what needs no search.
    """
    for engine in ENGINES:
        if any(mark in names for mark in engine.marks):
            posts = _with_words(_engine_posts(tree, engine))
            if posts:
                return Thread(_thread_title(tree, engine.title), posts)
    if "schema.org/Question" in names or "schema.org/DiscussionForumPosting" in names:
        posts = _with_words(_schema_org(tree))
        if len(posts) > 1:
            return Thread(_thread_title(tree), posts)
    names = names.lower()
    if _BODY.search(names) or _PLAIN_BODY.search(names):
        posts = _with_words(_named_blocks(tree))
        if posts:
            return Thread(_thread_title(tree), posts)
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


def _with_words(posts: Iterator[Post]) -> tuple[Post, ...]:
    """Without posts that say nothing, and those that a page holds twice (for readers without scripts, say)."""
    seen: dict[str, Post] = {}
    for post in posts:
        words = re.sub(r"<[^>]+>|\s", "", post.html)
        if words:
            seen.setdefault(words if len(words) > 30 else f"{len(seen)} {words}", post)
    return tuple(seen.values())


def _thread_title(tree: Any, selector: str = "") -> str:
    """What the engine calls the title, else the heading that the browser's title repeats, else any heading."""
    if selector and (text := _words(tree.css_first(selector))):
        return text
    shown = _words(tree.css_first("title")).lower()
    headings = [text for node in tree.css("h1, h2, [itemprop='name'], [itemprop='headline']") if (text := _words(node))]
    return next((text for text in headings if len(text) > 3 and text.lower() in shown), headings[0] if headings else "")


def _words(node: Any) -> str:
    text = "" if node is None else node.attributes.get("content") or node.text() or ""
    return re.sub(r"\s+", " ", text).strip()


def _score(node: Any) -> int | None:
    """The number in a vote counter; `1.2k` is 1200."""
    if node is None:
        return None
    found = (node.attributes.get(name) for name in ("data-value", "data-score", "content", "title"))
    raw = next((value for value in found if value and re.search(r"\d", value)), None) or node.text()
    match = re.search(r"([-−]?\d[\d,]*\.?\d*)\s*(k)?", raw or "", re.IGNORECASE)
    if not match:
        return None
    number = float(match.group(1).replace(",", "").replace("−", "-"))
    return int(number * (1000 if match.group(2) else 1))


_CHROME = (
    "script, style, button, form, select, textarea, noscript, template, .signature, .sig, .sr-only, "
    "img:not([class*='emoji'], [class*='smil'])"
)


def _inner(node: Any, chrome: str = "") -> str:
    """A body's markup without what surrounds the words."""
    for part in outermost(node, f"{_CHROME}, {chrome}" if chrome else _CHROME):
        part.decompose()
    return node.html or ""


def _engine_posts(tree: Any, engine: Engine) -> Iterator[Post]:
    bodies = outermost(tree, f"{engine.posts}, {engine.comments}" if engine.comments else engine.posts)
    if not bodies:
        return
    comments = _ids(tree, engine.comments)
    openers = _ids(tree, engine.opener)
    holders = _ids(tree, f"{engine.post}, {engine.comment}".strip(", ")) if engine.post or engine.comment else set()
    repeats = _ids(tree, engine.repeats)
    first = not engine.opener and not _is_later_page(tree)
    for body in bodies:
        if _nearest(body, repeats) is not None:
            continue
        holder = _nearest(body, holders)
        if body.mem_id in comments:
            role: Role = "comment"
            score = _score_in(holder, engine.comment_score)
        else:
            role = "question" if first or body.mem_id in openers else engine.later
            score = _score_in(holder, engine.score)
            first = False
        accepted = role == "answer" and _holds(holder, engine.accepted)
        yield Post(role, _inner(body, engine.chrome), score, accepted)


def _ids(tree: Any, selector: str) -> set[int]:
    return {node.mem_id for node in tree.css(selector)} if selector else set()


def _nearest(node: Any, among: set[int]) -> Any:
    """The node or its nearest ancestor that is one of these, or None."""
    while among and node is not None and node.mem_id not in among:
        node = node.parent
    return node if among else None


_PAGE_SHOWN = ".pagination .active, .pagination strong, .pagination .current, .pg strong, .pageNav-page--current"


def _is_later_page(tree: Any) -> bool:
    """Whether this is the second or a later page of a thread, so that its first post opens nothing."""
    before = tree.css_first("head link[rel='prev']")
    if before is not None and re.search(
        r"page[-=/]?\d|(?:start|offset|p)=\d|/p\d", before.attributes.get("href") or ""
    ):
        return True
    here = tree.css_first(
        ".pagination .active, .pagination strong, .pg strong, .pageNav-page--current, .pagination .current"
    )
    number = re.search(r"\d+", here.text() or "") if here is not None else None
    return number is not None and number.group() not in ("0", "1")


def _score_in(node: Any, selector: str) -> int | None:
    """The score inside a post; `@name` is an attribute of the post itself."""
    if node is None or not selector:
        return None
    if selector.startswith("@"):
        value = node.attributes.get(selector[1:]) or ""
        return int(value) if re.fullmatch(r"-?\d+", value) else None
    return _score(node.css_first(selector))


def _holds(node: Any, selector: str) -> bool:
    return node is not None and bool(selector) and node.css_matches(selector)


def _schema_org(tree: Any) -> Iterator[Post]:
    """Microdata that pages of questions and of discussions declare to search engines."""
    entity = tree.css_first("[itemtype$='schema.org/Question'], [itemtype$='schema.org/DiscussionForumPosting']")
    if entity is None:
        return
    votes: dict[int, Any] = {}
    for node in entity.css("[itemprop='upvoteCount']"):
        votes.setdefault(_item_around(node).mem_id, node)
    for body in outermost(entity, "[itemprop='text'], [itemprop='articleBody']"):
        if body.attributes.get("content") is not None:
            continue
        item = _item_around(body)
        kind = item.attributes.get("itemprop") or ""
        role: Role = "question"
        if item.mem_id != entity.mem_id:
            role = "comment" if kind == "comment" and entity.css_matches("[itemprop$='Answer']") else "answer"
        yield Post(role, _inner(body), _score(votes.get(item.mem_id)), role == "answer" and kind == "acceptedAnswer")


def _item_around(node: Any) -> Any:
    """The element that declares the thing which a property belongs to."""
    item = node.parent
    while item.parent is not None and not item.attributes.get("itemtype"):
        item = item.parent
    return item


# ---- forums that no row knows --------------------------------------------------------------------------------------

_BODY = re.compile(
    r"(?:post|reply|comment|message|answer|question|topic|thread|response)s?[_-]{0,2}"
    r"(?:body|content|text|message|copy|inner|html|detail|description)s?(?:$|[\s_\d-])"
)
_PLAIN_BODY = re.compile(r"(?:markdown|rich-?text|user-?content|prose)(?:[_-]?(?:body|content|text))?(?:$|[\s_\d-])")
_TALK = re.compile(r"reply|replies|comment|answer", re.IGNORECASE)
_NOT_BODY = re.compile(
    r"(?:^|[\s_-])(?:nav|menu|sidebar|footer|related|recommend\w*|widget|preview|author|user|profile|avatar|meta|form|editor|"
    r"breadcrumbs?|share|toolbar|actions?|header|title)(?:$|[\s_-])"
)
_CACHED_NAMES = 1 << 15
"""Class names are the same on page after page: how many to remember."""
_OUTSIDE = ("nav", "aside", "footer", "form", "header", "head")
MIN_SHARE = 0.4  # ours: of a page's words that named blocks must hold


def _named_blocks(tree: Any) -> Iterator[Post]:
    """Unknown boards: blocks whose class names a post's body, two of them alike, that hold much of the page's words.

    An article with remarks below it holds most of its words outside of such blocks, and is left to main-content
    extraction.
    """
    found = []
    for node in tree.css("div[class], td[class], section[class], li[class], article[class], p[class], span[class]"):
        kind = _body_kind(node.attributes.get("class") or "")
        if kind == "post" or (kind == "plain" and _in_talk(node)):
            found.append(node)
    bodies = [node for node in _innermost_of_equal(found) if not _is_outside(node)] if len(found) > 1 else []
    counts = Counter(_kind(node) for node in bodies)
    if max(counts.values(), default=0) < 2:
        return
    whole = len(tree.body.text()) - sum(len(node.text()) for node in tree.css("body script, body style"))
    if sum(len(node.text()) for node in bodies) < MIN_SHARE * whole:
        return
    for number, node in enumerate(bodies):
        yield Post("answer" if number else "question", _inner(node))


@lru_cache(_CACHED_NAMES)
def _body_kind(name: str) -> str:
    """What a block's class says: `post` for a post's body, `plain` for one where what is around it is about replies."""
    name = name.lower()
    kind = "post" if _BODY.search(name) else "plain" if _PLAIN_BODY.search(name) else ""
    return kind if kind and not _NOT_BODY.search(name) else ""


def _in_talk(node: Any) -> bool:
    """Whether one of the three elements around a block is about replies."""
    for _ in range(3):
        node = node.parent
        if node is None or node.tag == "body":
            return False
        if _TALK.search(f"{node.attributes.get('class')} {node.attributes.get('id')}"):
            return True
    return False


def _kind(node: Any) -> str:
    return f"{node.tag} {node.attributes.get('class') or ''}"


def _is_outside(node: Any) -> bool:
    """Whether a block stands in a part of the page that is about the site."""
    parent = node.parent
    while parent is not None and parent.tag != "body":
        names = f"{parent.attributes.get('class')} {parent.attributes.get('id')}"
        if parent.tag in _OUTSIDE or re.search(r"sidebar|related|recommend|footer|widget", names):
            return True
        parent = parent.parent
    return False


def _innermost_of_equal(nodes: list[Any]) -> list[Any]:
    """Of blocks inside one another: the outer if it has words of its own beside the inner, else the inner ones."""
    ids = {node.mem_id for node in nodes}
    inner_words: dict[int, int] = {}
    for node in nodes:
        outer = _nearest(node.parent, ids)
        if outer is not None:
            inner_words[outer.mem_id] = inner_words.get(outer.mem_id, 0) + len(node.text() or "")
    wrappers = {n.mem_id for n in nodes if inner_words.get(n.mem_id, 0) * 2 > len(n.text() or "")}
    return without_nested([node for node in nodes if node.mem_id not in wrappers])
