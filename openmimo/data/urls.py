"""One spelling per URL, so that exact deduplication sees two addresses of one page as equal (MiMo 2.1).

What is dropped never selects content: tracking parameters, session ids, fragments, default ports, a `www.` label.
What stays may: every other query parameter (sorted), the path's case. `http` and `https` are one page.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

TRACKING_PARAMETERS = frozenset(
    "fbclid gclid gclsrc dclid gbraid wbraid msclkid yclid ysclid twclid igshid igsh mc_cid mc_eid mkt_tok _ga _gl "
    "_hsenc _hsmi hsctatracking vero_id vero_conv oly_anon_id oly_enc_id rb_clickid s_cid "
    "wickedid ref_src ref_url spm scm cmpid ncid zanpid trk trkcampaign sc_campaign __twitter_impression".split()
)
TRACKING_PREFIXES = ("utm_", "pk_", "mtm_", "piwik_", "hsa_", "at_campaign", "at_medium", "ga_")
SESSION_PARAMETERS = frozenset(
    "phpsessid jsessionid sid sessionid session_id aspsessionid cfid cftoken zenid oscsid s osclsid xtcsid".split()
)
INDEX_PAGES = frozenset({"index.html", "index.htm", "index.php", "default.aspx", "default.asp", "index.jsp"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ftp": 21}
_PATH_SESSION = re.compile(r";(?:jsessionid|phpsessid|sid)=[^/?#;]*", re.IGNORECASE)
# A parameter named `s` or `sid` may select content; it is a session only when its value looks like a random key.
_SESSION_VALUE = re.compile(r"(?=.*\d)[0-9a-zA-Z,-]{16,}")
_UNRESERVED_PATH = "/:@!$&'()*+,;=-._~"


def canonical_url(url: str) -> str:
    """The key under which copies of one page meet.

    Idempotent. A string that is no absolute URL with a host (a file name, a `urn:`) comes back stripped.
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:  # bad port or brackets: it names no page we can compare
        return url
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not host:
        return url
    try:
        host = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError:
        return url
    if host.startswith("www.") and host.count(".") > 1:
        host = host[4:]
    # http and https share one key, so port 80 and port 443 are both the default.
    where = host if port in (None, 80, 443, _DEFAULT_PORTS[scheme]) else f"{host}:{port}"
    where = f"[{host}]{where[len(host) :]}" if ":" in host else where
    query = _query(parts.query)
    scheme = "http" if scheme == "https" else scheme
    return f"{scheme}://{where}{_path(parts.path)}{'?' + query if query else ''}"


def _path(path: str) -> str:
    path = _PATH_SESSION.sub("", path)
    resolved: list[str] = []
    for part in path.split("/")[1:]:
        if part == "..":
            resolved = resolved[:-1]
        elif part not in (".", ""):
            resolved.append(_escape(part))
    if resolved and resolved[-1].lower() in INDEX_PAGES:
        resolved.pop()
    return "/" + "/".join(resolved)


def _escape(part: str) -> str:
    """Percent-escapes in one spelling: what needs none is written plain, the rest in capitals; `%2F` stays itself."""
    keep = "surrogateescape"
    pieces = re.split(r"(%2[fF]|%25|%3[fF]|%23)", part)
    return "".join(
        piece.upper() if i % 2 else quote(unquote(piece, errors=keep), safe=_UNRESERVED_PATH, errors=keep)
        for i, piece in enumerate(pieces)
    )


def _query(query: str) -> str:
    kept = []
    for name, value in parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
        low = name.lower()
        if low in TRACKING_PARAMETERS or low.startswith(TRACKING_PREFIXES):
            continue
        if low in SESSION_PARAMETERS and (len(low) > 4 or _SESSION_VALUE.fullmatch(value)):
            continue
        kept.append((name, value))
    return urlencode(sorted(kept), errors="surrogateescape")
