"""Claim: forum pages keep their text, and their threads keep order and roles.

    git clone https://github.com/opendatalab/magic-html && git clone https://github.com/adbar/trafilatura
    python benchmarks/extract_forum.py --pages magic-html/benchmark/data/forum --more trafilatura/tests [RESULT.json]

Figures: char 5-gram F1 against the gold text of magic-html's 103 forum pages, and the share of posts in the right order
with the right role on those of them, and of trafilatura's saved pages, whose engine numbers its posts (thirteen
engines). Pages are never committed; without the folder nothing is measured. White space counts for nothing in a 5-gram.
magic-html's pages are sorted by name: those of even rank were looked at while this was written (`seen`), those of odd
rank and trafilatura's were not (`unseen`), but for the threads LOOKED_AT. F1 is given twice: of the mean precision and
the mean recall over pages, as magic-html's own script adds up, and as the mean of the pages' F1.

Order and roles are read a second time from the source alone, by the ids that engines give their posts: everything from
one id to the next belongs to one post. A post of ours counts if it is matched, in order, to a post of the same role
that contains nine tenths of its letter 5-grams; the share is of the larger number of posts, so a lost, doubled, swapped
or invented post costs as much. Posts without words (deleted, pictures) are left out of ours. `--peer
.venv-forum/bin/python` (make data-peers) measures trafilatura and magic-html in the same run (forum_peer.py).
"""

from __future__ import annotations

import argparse
import html
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import record  # noqa: E402
from selectolax.lexbor import LexborHTMLParser  # noqa: E402

from openmimo.data.pages.charset import decode  # noqa: E402
from openmimo.data.pages.extract import extract  # noqa: E402
from openmimo.data.pages.forum import find_thread  # noqa: E402
from openmimo.data.pages.source_names import source_names  # noqa: E402
from openmimo.data.read import Page  # noqa: E402

ANCHORS = {
    "Stack Exchange": (r"js-post-body", {r'id="question"': "question", r'id="answer-\d+"': "answer",
                                         r'id="comment-\d+"': "comment"}),
    "phpBB": (r'id="phpbb"', {r'<div id="p\d+" class="post': "post"}),
    "Discourse": (r'content="Discourse', {
        r'<div id=.post_\d+.[^>]*crawler-post|<article id="post_\d+"(?![^>]*small-action)': "post"}),
    "Discuz": (r"postmessage_\d", {r'id="postmessage_\d+"': "post"}),
    "Invision": (r'id="elComment_\d+"', {r'<article[^>]*id="elComment_\d+"': "post"}),
    "XenForo": (r'id="js-post-\d+"', {r'id="js-post-\d+"': "post"}),
    "vBulletin": (r"vBulletin", {r'<li[^>]*data-node-id="\d+"[^>]*class="[^"]*b-post|id="post_message_\d+"': "post"}),
    "NodeBB": (r'data-pid="\d+"', {r'<li(?![^>]*\bdeleted\b)[^>]*component="post"': "post"}),
    "MyBB": (r'id="pid_\d+"', {r'id="pid_\d+"': "post"}),
    "Flarum": (r'class="PostStream', {r'class="PostStream-item[^>]*data-type="comment"': "post"}),
    "Reddit": (r"<shreddit-post ", {r"<shreddit-post ": "question", r"<shreddit-comment ": "comment"}),
    "bbPress": (r"bbp-reply-content", {r'class="[^"]*bbp-reply-content"': "post"}),
    "wpForo": (r"wpforo-post-content", {r'class="wpforo-post-content"': "post"}),
}  # fmt: skip
"""By engine: what its pages hold, where its posts begin, and their roles; `post` is a question first, then answers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True, help="magic-html's benchmark/data/forum")
    parser.add_argument("--more", type=Path, help="folder of saved pages, the threads among which count as unseen")
    parser.add_argument("--peer", help="python of an environment that has trafilatura and magic-html's needs")
    arguments, _ = parser.parse_known_args()
    gold = json.loads((arguments.pages / "base.json").read_text(encoding="utf-8"))
    sources = {key: (arguments.pages / "htmls" / f"{key}.html").read_bytes() for key in sorted(gold)}
    texts = {key: text_of(source, gold[key]["url"]) for key, source in sources.items()}
    figures: dict[str, Any] = {"char 5-gram F1": f1_table(gold, texts)}
    if arguments.peer:
        for name, found in peer_texts(arguments.peer, arguments.pages).items():
            figures[f"char 5-gram F1 of {name}"] = f1_table(gold, found)
    seen = {key for rank, key in enumerate(sources) if half_of(rank) == "seen" or key.startswith(LOOKED_AT)}
    pages = [(key[:8], "seen" if key in seen else "unseen", source) for key, source in sources.items()]
    if arguments.more:
        pages += [(path.stem[:40], "unseen", path.read_bytes()) for path in sorted(arguments.more.rglob("*.html"))]
    threads = [row for name, half, source in pages if (row := thread_row(name, half, decode(source)))]
    figures["order and roles"] = {
        "unit": "share of posts, mean over pages",
        **{name: mean([row["share"] for row in threads if name in (row["half"], "all")]) for name in HALVES},
        "pages": {name: sum(name in (row["half"], "all") for row in threads) for name in HALVES},
        "engines": len({row["engine"] for row in threads}),
        "by engine": {
            engine: mean([row["share"] for row in threads if row["engine"] == engine])
            for engine in sorted({row["engine"] for row in threads})
        },
    }
    claim = "forum pages: char 5-gram F1 at least 0.80; order and roles of threads at least 0.95"
    command = (
        "python benchmarks/extract_forum.py --pages ../magic-html/benchmark/data/forum --more ../trafilatura/tests"
    )
    record.write(claim, command, {"figures": figures, "threads": threads})


LOOKED_AT = ("79ca5580", "3a43c342")  # of odd rank, and yet seen: one page each of Invision and Flarum
HALVES = ("seen", "unseen", "all")


def half_of(rank: int) -> str:
    return "unseen" if rank % 2 else "seen"


def text_of(source: bytes, url: str) -> str:
    return getattr(extract(Page(url, source, "text/html; charset=utf-8", "web")), "text", "")


def peer_texts(python: str, pages: Path) -> dict[str, dict[str, str]]:
    command = [python, str(ROOT / "benchmarks" / "forum_peer.py"), str(pages)]
    return json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split("\n")[-1]
    )


# ---- text ----------------------------------------------------------------------------------------------------------


def f1_table(gold: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    rows = [(half_of(rank), *overlap(gold[key]["content"], texts[key])) for rank, key in enumerate(sorted(gold))]
    found: dict[str, Any] = {}
    for name in HALVES:
        chosen = [row for row in rows if name in (row[0], "all")]
        precision, recall = mean([row[1] for row in chosen]), mean([row[2] for row in chosen])
        found[name] = {
            "F1 of means": round(2 * precision * recall / (precision + recall), 4),
            "mean F1": mean([row[3] for row in chosen]),
            "precision": precision,
            "recall": recall,
            "pages": len(chosen),
        }
    return found


def overlap(gold: str, text: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of character 5-grams, white space left out."""
    wanted, got = grams(gold), grams(text)
    common = sum((wanted & got).values())
    precision, recall = common / max(1, sum(got.values())), common / max(1, sum(wanted.values()))
    return precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0


def grams(text: str) -> Counter[str]:
    text = re.sub(r"\s+", "", text)
    return Counter(text[i : i + 5] for i in range(max(1, len(text) - 4))) if text else Counter()


# ---- order and roles -----------------------------------------------------------------------------------------------


def thread_row(name: str, half: str, source: str) -> dict[str, Any] | None:
    """One page's share of posts in order and role, or None if its engine numbers no posts or it has no thread."""
    engine = next((name for name, (mark, _) in ANCHORS.items() if re.search(mark, source)), None)
    wanted = posts_by_id(source, ANCHORS[engine][1]) if engine else []
    if engine is None or not wanted:
        return None
    thread = find_thread(LexborHTMLParser(source), source_names(source.encode()))
    got = [(post.role, words_of(post.html)) for post in thread.posts] if thread else []
    got = [post for post in got if post[1]]
    right = in_order(wanted, got)
    return {
        "page": name, "half": half, "engine": engine, "posts": len(wanted), "ours": len(got),
        "share": round(right / max(len(wanted), len(got)), 4),
    }  # fmt: skip


def posts_by_id(source: str, anchors: dict[str, str]) -> list[tuple[str, str]]:
    """(role, letters) of every post, from one id to the next."""
    source = re.sub(r"(?s)<(script|style|noscript)\b.*?</\1\s*>", " ", source)
    starts = sorted(
        (found.start(), role) for pattern, role in anchors.items() for found in re.finditer(pattern, source)
    )
    posts: list[tuple[str, str]] = []
    for number, (start, role) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else len(source)
        start = source.find(">", start) + 1
        role = role if role != "post" else "answer" if posts else "question"
        posts.append((role, letters(source[start:end])))
    return posts


def letters(markup: str) -> str:
    """Letters and digits of a piece of HTML."""
    return re.sub(r"[\W_]+", "", html.unescape(re.sub(r"(?s)<[^>]*>", " ", markup)))


def words_of(markup: str) -> str:
    """The same of a piece that a parser wrote, whose attributes may hold `>`."""
    return re.sub(r"[\W_]+", "", LexborHTMLParser(markup).text(separator=" "))


def in_order(wanted: list[tuple[str, str]], got: list[tuple[str, str]]) -> int:
    """The most pairs that keep both orders, of equal role, the wanted post containing ours."""
    wanted_grams = [(role, grams(whole)) for role, whole in wanted]
    got_grams = [(role, grams(whole)) for role, whole in got]
    best: defaultdict[tuple[int, int], int] = defaultdict(int)
    for i, (role, whole) in enumerate(wanted_grams, 1):
        for j, (own_role, own) in enumerate(got_grams, 1):
            fits = role == own_role and sum((own & whole).values()) >= 0.9 * sum(own.values())
            best[i, j] = max(best[i - 1, j], best[i, j - 1], best[i - 1, j - 1] + fits)
    return best[len(wanted), len(got)]


def mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


if __name__ == "__main__":
    main()
