"""Which encoding a page is in: declared in every place, declared falsely, or not at all."""

import pytest

from openmimo.data.pages.charset import codec_of, declared_encodings, decode, utf8

TEXTS = {
    "gb18030": "这是一个用来测试编码检测的网页，内容是关于数学公式和程序代码的讨论。",
    "big5": "這是一個用來測試編碼檢測的網頁，內容是關於數學公式和程式碼的討論。",
    "shift_jis": "これは文字コードの検出を試すためのページです。数式とコードについての議論があります。",
    "euc-jp": "これは文字コードの検出を試すためのページです。数式とコードについての議論があります。",
    "iso-2022-jp": "これは文字コードの検出を試すためのページです。",
    "euc-kr": "이 페이지는 문자 인코딩 감지를 시험하기 위한 것입니다. 수식과 코드에 대한 토론이 있습니다.",
    "windows-1251": "Это страница для проверки определения кодировки, здесь обсуждают формулы и программы.",
    "koi8-r": "Это страница для проверки определения кодировки, здесь обсуждают формулы и программы.",
    "iso-8859-7": "Αυτή η σελίδα είναι για δοκιμή της κωδικοποίησης των ελληνικών.",
    "windows-1255": "זהו דף לבדיקת זיהוי קידוד התווים בדפדפן",
    "windows-1256": "هذه صفحة لاختبار اكتشاف ترميز الأحرف في الصفحات",
    "tis-620": "นี่คือหน้าเว็บสำหรับทดสอบการตรวจหารหัสอักขระ",
    "windows-1252": "Die Größe der Übungen ist für Schüler geeignet, naïve façade – “quotes”.",
    "utf-8": "naïve 日本 Größe",
    "utf-16-le": "Plain English in wide characters, ünïcode.",
    "utf-16-be": "Plain English in wide characters, ünïcode.",
}


def page(text: str, head: str = "") -> str:
    return f"<html><head>{head}<title>x</title></head><body><p>{text}</p></body></html>"


@pytest.mark.parametrize("encoding", TEXTS)
def test_a_page_that_declares_nothing_is_detected(encoding: str) -> None:
    whole = page(TEXTS[encoding])
    assert decode(whole.encode(encoding)) == whole


@pytest.mark.parametrize("encoding", TEXTS)
def test_what_the_server_says_is_believed(encoding: str) -> None:
    whole = page(TEXTS[encoding])
    assert decode(whole.encode(encoding), f"text/html; charset={encoding}") == whole
    assert decode(whole.encode(encoding), f'text/html;charset="{encoding.upper()}"') == whole


@pytest.mark.parametrize("encoding", [name for name in TEXTS if not name.startswith("utf-16")])
@pytest.mark.parametrize("server", ["", "; charset=utf-8", "; charset=iso-8859-1", "; charset=no-such-thing"])
def test_a_meta_element_outweighs_a_server_s_default(encoding: str, server: str) -> None:
    for head in (
        f'<meta charset="{encoding}">',
        f"<META http-equiv=Content-Type content='text/html; charset={encoding}'>",
    ):
        whole = page(TEXTS[encoding], head)
        assert decode(whole.encode(encoding), f"text/html{server}") == whole


def test_marks_at_the_start_decide() -> None:
    whole = page("Größe 日本")
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert decode(whole.encode(encoding), "text/html; charset=iso-8859-1") == whole
    assert decode(b"\xfe\xff" + whole.encode("utf-16-be")) == whole


def test_valid_utf8_is_utf8_whatever_is_declared() -> None:
    whole = page("Größe", '<meta charset="iso-8859-1">')
    assert decode(whole.encode(), "text/html; charset=windows-1251") == whole


def test_a_few_broken_bytes_do_not_change_the_encoding() -> None:
    text = "这是一个用来测试编码检测的网页。" * 20
    content = page(text, '<meta charset="gbk">').encode("gb18030").replace(b"</p>", b"\xff</p>")
    assert text in decode(content) and decode(content).count("\ufffd") == 1
    broken = "Größe und Länge".encode() * 50 + b"\xff"
    assert "Größe" in decode(broken, "text/html; charset=utf-8")


def test_labels_mean_what_browsers_take_them_for() -> None:
    assert [codec_of(label) for label in ("latin-1", "GB2312", "shift_jis", "x-sjis", "ks_c_5601-1987", "utf-16")] == [
        "cp1252", "gb18030", "cp932", "cp932", "cp949", "utf-8",
    ]  # fmt: skip
    assert [codec_of(label) for label in ("undefined", "rot13", "hex", "", "\x00", "utf-7", "unicode_escape")] == [
        ""
    ] * 7
    assert declared_encodings(b'<?xml version="1.0" encoding="koi8-r"?>', "text/html; charset=latin1") == [
        "koi8-r", "cp1252",
    ]  # fmt: skip


def test_any_bytes_are_some_text() -> None:
    assert decode(b"") == ""
    assert isinstance(decode(bytes(range(256)) * 10, "text/html; charset=utf-8"), str)


@pytest.mark.parametrize("encoding", TEXTS)
def test_utf8_is_what_decode_makes_of_a_page(encoding: str) -> None:
    content = page(TEXTS[encoding]).encode(encoding)
    assert utf8(content) == decode(content).encode()
    assert (utf8(content) is content) == (encoding == "utf-8")
    assert utf8(b"\xef\xbb\xbf" + content) == decode(b"\xef\xbb\xbf" + content).encode("utf-8", "replace")
