"""Text of a page's bytes: which encoding a page is in, by what it says and by what it is (WHATWG encoding labels).

Declarations are weighed, not obeyed: servers send a default charset, templates keep an old `meta`. Bytes that are valid
UTF-8 beyond ASCII are UTF-8 whatever is declared; a declared encoding in which more than one byte in a hundred is
impossible is not the page's. Not done: visual Hebrew, UTF-7, ISO-2022-KR.
"""

from __future__ import annotations

import codecs
import contextlib
import re

MAX_BAD_SHARE = 0.01  # ours: broken bytes that a declared encoding may have and still be believed
SNIFFED_BYTES = 100_000  # ours: what detection looks at

_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\x00\x00", "utf-32-le"), (b"\x00\x00\xfe\xff", "utf-32-be"),
         (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\x84\x31\x95\x33", "gb18030"))  # fmt: skip
_MARKS = tuple(mark for mark, _ in _BOMS)
_SUPERSETS = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "hz": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949",
    "big5": "big5hkscs",
}  # fmt: skip
"""What browsers read a label as: the larger encoding that its pages are really in (codec names of Python)."""
_LABELS = {
    "x-sjis": "cp932", "windows-31j": "cp932", "x-gbk": "gb18030", "gb_2312-80": "gb18030", "x-x-big5": "big5hkscs",
    "ks_c_5601-1987": "cp949", "windows-949": "cp949", "x-cp1251": "cp1251", "x-cp1252": "cp1252", "x-euc-jp": "euc_jp",
    "dos-874": "cp874", "windows-874": "cp874", "unicode": "utf-8", "utf8mb4": "utf-8",
    "x-mac-cyrillic": "mac_cyrillic",
}  # fmt: skip
_NO_PAGE = frozenset(("undefined", "idna", "punycode", "utf-7", "unicode-escape", "raw-unicode-escape", "mbcs", "oem"))
"""Python's codecs that no page is in."""
_META = re.compile(rb"<meta\s[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{2,40})")
_HEADER = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)


def decode(content: bytes, media_type: str = "") -> str:
    """The text of `content`; bytes that mean nothing become U+FFFD.

    Args:
        media_type: as the server said, `text/html; charset=gbk`; may be empty.
    """
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    if encoding := _wide(content) or _escaped(content):
        return content.decode(encoding, "replace")
    with contextlib.suppress(UnicodeDecodeError):
        return content.decode("utf-8")
    for encoding in declared_encodings(content, media_type):
        text = content.decode(encoding, "replace")
        if text.count("\ufffd") <= MAX_BAD_SHARE * max(1, _num_high(content)):
            return text
    return content.decode(detected_encoding(content), "replace")


def utf8(content: bytes, media_type: str = "") -> bytes:
    """What `decode` makes of `content`, as UTF-8; the very bytes where they are that already."""
    if not (content.startswith(_MARKS) or _wide(content) or _escaped(content)):
        with contextlib.suppress(UnicodeDecodeError):
            content.decode("utf-8")
            return content
    return decode(content, media_type).encode("utf-8", "replace")


def declared_encodings(content: bytes, media_type: str = "") -> list[str]:
    """Python codecs that the server, the XML declaration and the page's `meta` name, the likelier first.

    A server's Latin-1 is a default more often than a fact, so it comes last.
    """
    header = _HEADER.search(media_type)
    names = [header.group(1)] if header else []
    head = content[:8192]
    names += [found.group(1).decode("ascii") for found in (_META.search(head), _XML.match(head)) if found]
    codecs_ = [codec for name in names if (codec := codec_of(name))]
    return sorted(dict.fromkeys(codecs_), key=lambda codec: codec == "cp1252")


def codec_of(label: str) -> str:
    """Python's codec for an encoding label, as browsers understand it; empty for an unknown one."""
    label = label.strip().lower()
    try:
        codec = codecs.lookup(_LABELS.get(label, label))
    except (LookupError, ValueError):
        return ""
    if not codec._is_text_encoding or codec.name in _NO_PAGE:
        return ""
    if codec.name.startswith(("utf-16", "utf-32")):  # a page whose declaration can be read is in neither
        return "utf-8"
    return _SUPERSETS.get(codec.name, codec.name)


def detected_encoding(content: bytes) -> str:
    """The codec that the bytes look like; cp1252 where nothing speaks for another."""
    from resiliparse.parse.encoding import detect_encoding

    pairs = re.findall(rb"[\xa1-\xfe][\xa1-\xfe]", content[: 20 * SNIFFED_BYTES])
    hangul = sum(0xB0 <= pair[0] <= 0xC8 for pair in pairs)
    if hangul > 0.95 * len(pairs) and 2 * len(pairs) > 0.9 * _num_high(content[: 20 * SNIFFED_BYTES]):
        return "cp949"  # Chinese uses the leading bytes beyond 0xC8 as well, European text has few pairs
    pieces = re.findall(rb"[^<>\x00-\x1f]*[\x80-\xff][^<>\x00-\x1f]*", content[: 20 * SNIFFED_BYTES])
    guess = codec_of(str(detect_encoding(b"\n".join(pieces)[:SNIFFED_BYTES]) or ""))
    return guess or "cp1252"


def _wide(content: bytes) -> str:
    """UTF-16 without a mark: every other byte of its markup is zero."""
    head = content[:400]
    if len(head) < 8 or head.count(0) * 3 < len(head):
        return ""
    even, odd = head[::2].count(0), head[1::2].count(0)
    return "utf-16-le" if odd > 3 * max(1, even) else "utf-16-be" if even > 3 * max(1, odd) else ""


def _escaped(content: bytes) -> str:
    """ISO-2022-JP, which is ASCII but for its escapes."""
    return (
        "iso2022_jp" if b"\x1b" in content and re.search(rb"\x1b\$[@B](?:[\x21-\x7e]{2})+\x1b\([BJ]", content) else ""
    )


def _num_high(content: bytes) -> int:
    return len(content) - len(content.translate(None, bytes(range(128, 256))))
