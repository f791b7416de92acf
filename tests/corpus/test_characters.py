"""Promises about characters: a text is read as it was written, and holds nothing that nobody sees."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.corpus.readers import clean, decode

SENTENCES = {
    "cp1252": "Über die Prüfung der Kühlgeräte entscheidet die Straßenmeisterei für drei Jahre.",
    "cp1250": "Opłata za przechowywanie części wynosi czterdzieści złotych i jest płatna z góry.",
    "iso8859_2": "Příští schůzka se koná v úterý, protože ředitel měl v pondělí službu.",
    "cp1251": "Ключи от склада хранятся у сторожа, который записывает каждую выдачу.",
    "koi8_r": "Ключи от склада хранятся у сторожа, который записывает каждую выдачу.",
    "cp1253": "Τα κλειδιά της αποθήκης φυλάσσονται από τον φύλακα κάθε νύχτα.",
    "cp1256": "تحفظ مفاتيح المستودع لدى الحارس الذي يسجل كل عملية تسليم.",
    "cp932": "鍵は管理人が保管し、貸し出しのたびに台帳に記入すること。",
    "euc_jp": "鍵は管理人が保管し、貸し出しのたびに台帳に記入すること。",
    "gb18030": "仓库的钥匙由管理员保管，每次借出都要登记在册。",
    "big5": "倉庫的鑰匙由管理員保管，每次借出都要登記在冊。",
    "cp949": "창고 열쇠는 관리인이 보관하며 빌려줄 때마다 장부에 적는다.",
}


@pytest.mark.parametrize("encoding", SENTENCES)
def test_an_old_encoding_is_found_and_the_guess_is_said(encoding):
    """A text that names no charset is read in the one that fits it, and the reading says that this was a guess."""
    said, text = {}, f"{SENTENCES[encoding]}\n" * 3
    assert decode(text.encode(encoding), said) == text
    assert said == {"encodings guessed": 1}


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        ('<META CHARSET="x-mac-cyrillic">', "mac_cyrillic"),
        ("<meta http-equiv='Content-Type' content='text/html; charset=KOI8-R'>", "koi8_r"),
        ('<?xml version="1.0" encoding="windows-1251"?>', "cp1251"),
    ],
)
def test_the_charset_that_a_page_names_is_used(one, head, encoding):
    """However a page names its charset, and how short it may be: it is read so, and nothing was guessed."""
    reading = one("a.html", f"{head}<p>Да: 5</p>".encode(encoding))
    assert (reading.text, reading.left_out) == ("Да: 5", {})


@pytest.mark.parametrize(
    ("name", "encoding"), [("iso-8859-1", "cp1252"), ("Shift_JIS", "cp932"), ("gb2312", "gb18030"), ("utf-16", "utf-8")]
)
def test_a_charset_is_what_browsers_take_it_for(one, name, encoding):
    """Pages that name an older charset than they use are read as browsers read them."""
    words = {"cp1252": "“Fee”: 5 €", "cp932": "①号室", "gb18030": "镕", "utf-8": "Tür"}[encoding]
    assert one("a.html", f'<meta charset="{name}"><p>{words}'.encode(encoding)).text == words


@pytest.mark.parametrize("name", ["utf-8", "nonsense", "hex", "iso-8859-1"])
def test_valid_utf8_is_utf8_whatever_a_page_says(name):
    """A wrong name for UTF-8 does no harm."""
    assert decode(f'<meta charset="{name}">Tür'.encode()).endswith("Tür")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 400), st.sampled_from([0x80, 0xA0, 0xC3, 0xFC, 0xFF]))
def test_a_stray_byte_costs_one_character(place, byte):
    """One byte that does not belong there changes no other character, and is counted."""
    text, said = "Größe und Länge prüft die Straßenwache. " * 12, {}
    data = text.encode()
    found = decode(data[:place] + bytes([byte]) + data[place:], said)
    assert sum(found.count(mark) for mark in "öäüß") >= sum(text.count(mark) for mark in "öäüß") - 1
    assert len(found) <= len(text) + 3
    assert said.get("bytes that are no character", 1) <= 3 and "encodings guessed" not in said


def test_as_many_stray_bytes_as_words_beyond_ascii_cost_themselves_alone():
    """A text that is UTF-8 wherever it can be stays so, though as much of it is damaged."""
    assert decode(b"Tarif:\xff 5\xfe " + "é ü".encode()).endswith("é ü")


def test_a_sign_of_currency_that_nobody_writes_is_the_euro_of_latin_9():
    """Prices of ISO 8859-15 keep their euros, though nothing but that sign tells it from other code pages."""
    assert decode("Le café coûte 3 €, le thé 2 €.".encode("iso8859_15")) == "Le café coûte 3 €, le thé 2 €."


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["Plain words, 12 of them.\n", "Ключи у сторожа: 12.\n", "鍵は一番の管理人が、\n"])
def test_wide_characters_need_no_mark(encoding, text):
    """UTF-16 is found without a byte order mark, in any script."""
    assert decode((text * 4).encode(encoding)) == text * 4


@pytest.mark.parametrize(("encoding", "language"), [("iso2022_jp", "cp932"), ("iso2022_kr", "cp949")])
def test_what_shifts_by_escapes_is_read(encoding, language):
    """Old e-mails and files of Japan and Korea that use seven bits need no name of their charset."""
    assert decode(SENTENCES[language].encode(encoding)) == SENTENCES[language]


def test_what_nobody_sees_is_not_in_the_text(one):
    """Soft hyphens, marks without width or direction, hard spaces and ligatures keep no word from being found."""
    source = (
        "The sol\u00advents of room\u00a012: the \u200eAB\u201112\u200f o\ufb03ce\u200b keeps\u2060 them. Cafe\u0301."
    )
    for name in ("a.md", "a.txt", "a.csv", "a.html"):
        text = one(name, f"{source}\nNext." if name != "a.html" else f"<p>{source}</p><p>Next.").text
        assert "The solvents of room 12: the AB-12 office keeps them. Café." in text.replace("; ", "")
    assert "solvents" in one("b.md", "The sol&shy;vents").text


@pytest.mark.parametrize("text", ["می‌خواهم", "क्‍ष", "👩‍🔧", "❤️‍🔥"])
def test_joiners_stay_where_scripts_need_them(text):
    """Persian, Hindi and emoji keep their joiners; Latin letters lose them."""
    assert clean(f"{text} Auf\u200clage x\u200d") == f"{text} Auflage x"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_cleaning_twice_is_cleaning_once(text):
    """What is clean stays as it is, and is in the form in which equal texts are equal."""
    once = clean(text)
    assert clean(once) == once and unicodedata.is_normalized("NFC", once)
