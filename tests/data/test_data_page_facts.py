"""What a page says of itself."""

# ruff: noqa: E501

from selectolax.lexbor import LexborHTMLParser

from openmimo.data.pages.page_facts import PageFacts, page_facts
from openmimo.data.pages.source_names import source_names


def facts(page: str) -> PageFacts:
    return page_facts(LexborHTMLParser(page), source_names(page.encode()))


def test_title_language_licence_and_robots() -> None:
    head = (
        "<title> A \n page </title><meta property='og:title' content='Shared'><meta name=ROBOTS content='NoIndex, noai'>"
        "<meta name=googlebot content=noarchive>"
    )
    found = facts(
        f"<html lang=de-AT><head>{head}</head><body><a rel='nofollow license' href='https://cc/by'>CC</a></body>"
    )
    assert found == PageFacts(
        "Shared", "de", {"robots": "noindex, noai, googlebot: noarchive", "licence": "https://cc/by"}
    )


def test_what_is_not_said_is_empty() -> None:
    assert facts("<p>x</p>") == PageFacts("", "", {})
    assert facts("<h1>Only <b>this</b></h1>").title == "Only this"
    assert facts("<meta name=dc.rights content='CC0'>").tags == {"licence": "CC0"}
