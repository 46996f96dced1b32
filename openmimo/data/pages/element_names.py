"""What an element's name says of its content: whether it is a page's article, or none of it (MiMo 2.1).

Names are classes and ids, as content management systems and their themes give them. Which of them is right about a
page is for `main_content` to decide, which knows how much text is in it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_CHROME_TAGS = frozenset("nav aside footer form menu".split())
_NO_CHROME_TAGS = frozenset("body html main article p h1".split())
_NO_AREA_TAGS = frozenset("p span a li ul ol dl dd dt em strong code b i h1 h2 h3 h4 tr td body".split())
_BOXES = frozenset("div ul ol table header".split())
_CACHED_NAMES = 1 << 15
"""Class names are the same on page after page: how many to remember."""
_CHROME = re.compile(
    r"(?:^|[\s_-])(?:"
    r"sidebar|aside|navi?|navbar|navigation|menu|respond|breadcrumbs?|crumbs?|footer|foot|share|sharing|sharedaddy|"
    r"shares|social|sns|related|recommend(?:ed|ation|s)?|recirc|outbrain|taboola|promo(?:tion|ted)?|sponsor(?:ed)?|ads?|"
    r"advert(?:isement|ising|s)?|banner|newsletter|subscri(?:be|ption)|sign-?up|log-?in|popup|pop-up|modal|overlay|"
    r"tooltip|(?<!code-)toolbar|pagination|pager|paging|prev-?next|tags|taglist|byline|author-?(?:box|bio|info|card)|"
    r"copyright|disclaimer|sr-only|visually-hidden|screen-reader(?:-text)?|noprint|no-print|print-only|trending|popular|"
    r"most-read|rank(?:ing)?|read-?more|readnext|read-next|next-article|qr-?code|download-app|app-download|"
    r"skip(?:-?link)?|jubao|headerlink|editsection|reflist|navbox|catlinks|post-?info|article-?info|art-?info|pubtime"
    r")(?:$|[\s_-])"
    r"|(?:^|\s)(?:(?:post|article|entry|news|art|story)[_-]{1,2})?"
    r"(?:side|follow|tag|keywords|author|authors|bio|rating|vote|likes?|hot|more|widget|statement|report|toc|meta|source|"
    r"editor|timestamp|date|time|info)(?:$|\s)",
    re.IGNORECASE,
)
_STATE = re.compile(
    r"(?:^|\s)(?:enable|disable|filter|has|with|without|is|no|not|js|hide|show|lg|md|sm|xs|hidden)[-_A-Z:][^\s]*"
)
"""Classes that say how an element behaves, not what it is."""
_ALWAYS_CHROME = re.compile(
    r"(?:^|[\s_-])(?:comments?(?:-?(?:list|s?area|section|box|form))?|disqus|replies|cookies?|consent|onetrust|gdpr)"
    r"(?:$|[\s_-])",
    re.IGNORECASE,
)
"""Chrome however much it holds."""
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NAMED = re.compile(
    r"(?:^|\s)(?:(?:entry|post|article|story|articles?|news|blog-?post)(?:-|__?)?(?:content|body|text)|markdown-body|js_content|"
    r"mw-parser-output|rich_media_content|TRS_Editor|caas-body|content_views)(?:$|\s)",
    re.IGNORECASE,
)
"""Names that content management systems give to an article's text, and to nothing else."""
_LIKELY = re.compile(
    r"(?:^|[\s_-])(?:article|post|entry|story|news|detail|read|blog|note|markdown|rich|html|caas|text|media)(?:-|__?)?"
    r"(?:content|body|text|views?|area|inner)(?:$|[\s_-])",
    re.IGNORECASE,
)


def area_kind(node: Any) -> int | None:
    """Of a content area, where its kind stands in `_AREA_SHARE`."""
    tag = node.tag
    if tag in _NO_AREA_TAGS:
        return None
    attributes = node.attributes
    if "articleBody" in (attributes.get("itemprop"), attributes.get("name")):
        return 0
    kinds = [_name_kind(attributes.get("class")), _name_kind(attributes.get("id"))]
    if "named" in kinds:
        return 0
    if "likely" in kinds:
        return 1
    if tag == "article":
        return 2
    return 3 if tag == "main" or attributes.get("role") == "main" else None


def chrome_kind(node: Any) -> str:
    """`chrome` if an element, by its name or by what it says of itself, is no part of a page's content, or `always`."""
    tag = node.tag
    if tag in _CHROME_TAGS:
        return "chrome"
    if tag in _NO_CHROME_TAGS:
        return ""
    attributes = node.attributes
    if not attributes:
        return ""
    classes, own = attributes.get("class"), attributes.get("id")
    kinds = [_name_chrome(classes), _name_chrome(own) if tag in _BOXES and _is_name(own, classes) else ""]
    if any(kinds):
        return max(kinds, key=("", "chrome", "always").index)
    style = attributes.get("style")
    hidden = (style and "none" in style and re.search(r"display\s*:\s*none", style)) or "hidden" in attributes
    return "chrome" if hidden or attributes.get("role") == "navigation" else ""


def _is_name(identity: str | None, classes: str | None) -> bool:
    """Whether an id names a box; that of a section is made of its heading's words."""
    return identity is not None and identity.count("-") < 2 and "section" not in (classes or "").split()


@lru_cache(_CACHED_NAMES)
def _name_kind(name: str | None) -> str:
    """`named` or `likely` for the class or id of a content area."""
    if not name:
        return ""
    return "named" if _NAMED.search(name) else "likely" if _LIKELY.search(_CAMEL.sub("-", name)) else ""


@lru_cache(_CACHED_NAMES)
def _name_chrome(name: str | None) -> str:
    """`chrome` or `always` for the class or id of what is no content."""
    if not name:
        return ""
    name = _CAMEL.sub("-", _STATE.sub(" ", name))
    return "always" if _ALWAYS_CHROME.search(name) else "chrome" if _CHROME.search(name) else ""
