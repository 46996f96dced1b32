"""Where the main content is, and what is none of it."""

# ruff: noqa: E501

import random

import pytest
from selectolax.lexbor import LexborHTMLParser

from openmimo.data.pages.element_names import chrome_kind
from openmimo.data.pages.main_content import RunningText, main_content, without_link_lists
from openmimo.data.pages.plain_text import join, plain_text, text_lines

PROSE = "".join(
    f"<p>Paragraph {n} of the article runs on for a while and says what it has to say.</p>" for n in range(4)
)
TEASER = "<p>Somebody somewhere did something, and you would never guess what came of it at last.</p>"


def content(body: str) -> str:
    return plain_text(main_content(LexborHTMLParser(f"<body>{body}</body>").body).html or "")


@pytest.mark.parametrize(
    "around",
    [
        "<div><nav>{no}</nav><div>{prose}</div><footer>{no}</footer></div>",
        '<div class="sidebar">{no}</div><div>{prose}</div><div id="comments">{no}{no}{no}{no}{no}{no}{no}{no}</div>',
        '<div>{no}{no}{no}{no}{no}</div><div class="entry-content">{prose}</div>',
        "<div>{no}{no}{no}</div><article>{prose}<aside>{no}</aside></article>",
        '<main><div class="post_body">{prose}<div class="share-buttons">{no}</div></div><ul class="related">{no}</ul></main>',
        '<div itemprop="articleBody">{prose}<div style="display: none">{no}</div></div><div class="cookie-consent">{no}</div>',
    ],
)
def test_the_article_is_found_and_nothing_else(around: str) -> None:
    text = content(
        around.format(prose=PROSE, no="<p>No: this is a piece of the page around the article, and long.</p>")
    )
    assert text.count("Paragraph") == 4 and "No:" not in text


def test_what_holds_most_of_the_page_is_content_whatever_its_name() -> None:
    assert content(f'<div class="page-with-sidebar sidebar">{PROSE}</div><div>{TEASER}</div>').count("Paragraph") == 4


def test_a_section_named_like_chrome_by_its_heading_stays() -> None:
    popup = '<section id="popup"><h2>Popup</h2><p>How to open a popup window, in so many words, with an example.</p></section>'
    assert "## Popup" in content(f"<main>{PROSE}{popup}</main>")


def test_sections_of_an_article_are_not_mistaken_for_it() -> None:
    long, short = "<section>" + PROSE * 3 + "</section>", f"<section>{TEASER}</section>"
    assert "Somebody" in content(f"<main>{long}{short}</main>")


def test_a_list_of_links_goes_and_a_single_link_stays() -> None:
    link = "<p><a href=x>Read all about it</a></p>"
    prose = "<p>Here is a sentence that is long enough to be the end of the text, if it must.</p>"
    kept = join(
        without_link_lists(
            text_lines(prose + link + prose + link * 3 + prose + "<h2>More</h2>" + link * 4 + "<p>Ad</p>")
        )
    )
    assert (
        kept.count("Read all about it") == 1 and kept.count("sentence") == 3 and "More" not in kept and "Ad" not in kept
    )
    only = text_lines(link * 3)
    assert without_link_lists(only) == only  # a page of links is still a page


def test_sums_without_chrome_equal_those_of_climbing_from_every_text() -> None:
    rng = random.Random(0)

    def tree(depth: int) -> str:
        if depth == 0 or rng.random() < 0.2:
            return f"<p>{'word ' * rng.randint(1, 30)}</p>"
        name = rng.choice(["", "", "share", "comments", "related"])
        return f'<div class="{name}">' + "".join(tree(depth - 1) for _ in range(rng.randint(1, 4))) + "</div>"

    for _ in range(20):
        body = LexborHTMLParser(
            f"<body>{tree(5)}<p>{'word ' * 2000}</p></body>"
        ).body  # so that no chrome is half the page
        found = RunningText(body)
        slow: dict[int, int] = {}
        for node in body.traverse(include_text=True):
            if not node.is_text_node or len(node.text_content.strip()) < 25:
                continue
            chain, chrome = [], False
            around = node.parent
            while around.tag != "html":
                chain.append(around.mem_id)
                chrome = chrome or chrome_kind(around) != ""
                around = around.parent
            for identity in () if chrome else chain:
                slow[identity] = slow.get(identity, 0) + len(node.text_content.strip())
        assert found._mass == slow


def test_a_small_article_inside_the_article_does_not_take_its_place() -> None:
    inside = f"<article>{PROSE}<article><p>A related piece, as the magazine has many of them.</p></article></article>"
    assert content(f"<div>{TEASER}</div>{inside}").count("Paragraph") == 4


def test_without_an_area_the_article_stands_around_the_first_heading() -> None:
    article = f"<div><div><h1>Heading</h1></div><div>{PROSE * 3}</div></div>"
    page = f"<div><h1> </h1>{TEASER}</div>{article}<div>{TEASER * 20}</div>"
    text = content(page)
    assert text.count("Paragraph") == 12 and "Somebody" not in text
    assert "Somebody" in content(page.replace("<h1>Heading</h1>", ""))
