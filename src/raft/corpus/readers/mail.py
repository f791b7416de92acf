"""E-mails as files (EML)."""

import codecs
import email
import email.policy
import re
from collections.abc import Iterator
from contextlib import suppress
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import EmailMessage, Message, MIMEPart
from pathlib import Path

from raft.corpus.readers import Reading, Unreadable, clean, decode
from raft.corpus.readers.html import to_markdown

_HEADERS = ("Subject", "From", "To", "Cc", "Date")
_OTHERS = {"received", "return-path", "message-id", "mime-version", "content-type", "reply-to", "sender"}
"""Headers that tell an e-mail, too."""
_TEXTS = ("text/plain", "text/html")
_READ = (*_TEXTS, "text/markdown", "text/x-markdown", "text/csv", "text/enriched", "text/richtext", "text/calendar")
_LONG_HEADER = 20_000
"""The parser of the standard library takes a millisecond for each address."""
_OF_THE_PAGE = ("multipart/related", "image/")
_SIGNATURES = re.compile(r"application/(?:pgp|(?:x-)?pkcs7)-signature")
_SECRET = re.compile(r"multipart/encrypted|application/(?:x-)?pkcs7-mime")
_LINES = r"(?:(?!-----).*\n)*"
_ARMOUR = (
    (re.compile(r"^-----BEGIN PGP SIGNED MESSAGE-----\n(?:\w+: .*\n)*", re.MULTILINE), ""),
    (re.compile(rf"^-----BEGIN PGP SIGNATURE-----\n{_LINES}-----END PGP SIGNATURE-----$", re.MULTILINE), ""),
    (re.compile(rf"^-----BEGIN PGP MESSAGE-----\n{_LINES}-----END PGP MESSAGE-----$", re.MULTILINE), "encrypted parts"),
    (re.compile(r"^begin [0-7]{3} \S.*\n(?:[ -`]{1,62}\n)*?end$", re.MULTILINE), "attachments"),
    (re.compile(r"\[cid:[^\]\s]{1,200}\]"), "pictures without text"),
)
"""What programs write into a text, and what it counts as."""
_BEGINS = re.compile(rb"^--(\S[^\n\"]{0,68}?)[ \t\r]*\n(?=Content-\w)", re.MULTILINE | re.IGNORECASE)
_ADDRESS = re.compile(r"\]\([^()\s]*\)|https?://\S+")
_PROPERTY = re.compile(r"(SUMMARY|DTSTART|DTEND|LOCATION|DESCRIPTION)((?:;(?:\"[^\"]*\"|[^:\"])*)?):(.*)$")
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)\d\d(Z?))?")


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read an e-mail as one document: who wrote to whom, when, about what, and its texts.

    So are the messages that it forwards; attachments are left out.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = decode(data).encode()
    message = _parsed(data.removeprefix(codecs.BOM_UTF8).lstrip())
    said = _headers(message)
    if not said and _OTHERS.isdisjoint(name.lower() for name, _ in message.raw_items()):
        raise Unreadable("It is no e-mail: it has no headers.")
    left_out: dict[str, int] = {}
    text = clean(_message(message, said, left_out)).strip()
    return [Reading(said.get("Subject") or path.stem, text, kind, left_out=left_out)]


def _parsed(data: bytes) -> EmailMessage:
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def _message(message: MIMEPart, said: dict[str, str], left_out: dict[str, int]) -> str:
    headers = [f"{name}: {value}" for name, value in said.items()]
    return "\n".join(headers) + "\n\n" + "\n\n".join(dict.fromkeys(_texts(message, left_out)))


def _headers(message: Message) -> dict[str, str]:
    said = {name: " ".join(_header(message, name).split()) for name in _HEADERS}
    return {name: value for name, value in said.items() if value}


def _header(message: Message, name: str) -> str:
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")
    if len(raw) > _LONG_HEADER:
        with suppress(ValueError, LookupError, MessageError):
            return str(make_header(decode_header(raw)))
        return raw
    said = str(message[name] or "")
    if "\ufffd" in said:  # bytes as they are, perhaps in the charset of a text
        data = raw.encode("utf-8", "surrogateescape")
        for charset in (*(part.get_content_charset() for part in message.walk()), "cp1252"):
            with suppress(UnicodeError, LookupError, ValueError, MessageError):
                return str(make_header(decode_header(data.decode(charset or "utf-8"))))
    return said


def _texts(part: MIMEPart, left_out: dict[str, int], within: str = "") -> Iterator[str]:
    """Yield the texts of a part in their order: of alternatives the plain one, else the next that says anything."""
    kind = part.get_content_type()
    if _SECRET.fullmatch(kind) and part.get_param("smime-type") != "signed-data":
        left_out["encrypted parts"] = left_out.get("encrypted parts", 0) + 1
    elif kind == "message/rfc822":
        for one in part.iter_parts():
            if isinstance(one, MIMEPart):
                yield _message(one, _headers(one), left_out).strip()
    elif part.get_content_maintype() == "multipart" and not part.is_attachment():
        if not part.is_multipart():
            yield from _unparted(part, left_out)
            return
        parts = [one for one in part.iter_parts() if isinstance(one, MIMEPart)]
        if kind == "multipart/alternative":
            yield from _best(parts, left_out, kind)
            return
        for one in parts:
            yield from _texts(one, left_out, kind)
    elif kind in _READ and not part.is_attachment():
        yield from filter(None, [_text(part, left_out)])
    elif not _SIGNATURES.fullmatch(kind) and (
        part.is_attachment() or not (within.endswith("/alternative") or (within, kind[:6]) == _OF_THE_PAGE)
    ):
        left_out["attachments"] = left_out.get("attachments", 0) + 1


def _best(parts: list[MIMEPart], left_out: dict[str, int], kind: str) -> Iterator[str]:
    """Yield the texts of the plain alternative, of the page where that has most of its words alone; and invitations."""
    parts.sort(key=lambda one: (one.get_content_type() != _TEXTS[0], one.get_content_type() != _TEXTS[1]))
    found: list[str] = []
    for one in parts:
        its = one.get_content_type()
        lost: dict[str, int] = {}
        texts = list(_texts(one, lost, kind))
        if its == "text/calendar":
            known = " ".join(" ".join(found).split())
            lines = "\n".join(texts).split("\n")
            found.append("\n".join(line for line in lines if line.strip() and " ".join(line.split()) not in known))
        elif not found or (its != _TEXTS[0] and _is_stub(found, texts)):
            found = texts
        elif its in _TEXTS:
            continue
        for what, count in lost.items():
            left_out[what] = left_out.get(what, 0) + count
    yield from filter(None, found)


def _is_stub(plain: list[str], page: list[str]) -> bool:
    """Tell whether most words of a page are not in the plain text beside it: "Your program cannot show this"."""
    said, shown = (set(re.findall(r"\w+", _ADDRESS.sub(" ", "\n".join(texts)).lower())) for texts in (plain, page))
    return len(said & shown) < len(shown) / 2


def _unparted(part: MIMEPart, left_out: dict[str, int]) -> Iterator[str]:
    """Yield the texts of parts whose boundary is not the one that is named."""
    data = part.get_payload(decode=True)
    data = data if isinstance(data, bytes) else b""
    if mark := _BEGINS.search(data):
        head = f'Content-Type: {part.get_content_type()}; boundary="'.encode()
        again = _parsed(head + mark[1] + b'"\n\n' + data)
        yield from _texts(again, left_out) if again.is_multipart() else ()
    elif data.strip():
        yield decode(data, left_out).strip()


def _text(part: MIMEPart, left_out: dict[str, int]) -> str:
    kind = part.get_content_subtype()
    text = _decoded(part, left_out)
    if kind == "html":
        return to_markdown(text, left_out)[1]
    if kind == "calendar":
        return "\n\n".join(_events(text))
    if kind in ("enriched", "richtext"):
        text = re.sub(r"</?[a-z-]{1,60}>", "", text, flags=re.IGNORECASE)
    for pattern, what in _ARMOUR:
        text, count = pattern.subn("", text)
        if count and what:
            left_out[what] = left_out.get(what, 0) + count
    if str(part.get_param("format")).lower() == "flowed":
        between = "" if str(part.get_param("delsp")).lower() == "yes" else " "
        text = re.sub(r"(?<!^--) \n(?!>)", between, text, flags=re.MULTILINE)
    return text.strip()


def _decoded(part: MIMEPart, left_out: dict[str, int]) -> str:
    """Return a part's text: as UTF-8 if it can be, whatever is said, then as is said, then as decode tells."""
    data = part.get_payload(decode=True)
    data = data if isinstance(data, bytes) else b""
    charset = part.get_content_charset() or "utf-8"
    for one in (charset,) if data.isascii() else ("utf-8", charset):
        with suppress(LookupError, UnicodeError):
            return clean(data.decode(one))
    try:
        return decode(data, left_out)
    except Unreadable:
        left_out["parts that are no text"] = left_out.get("parts that are no text", 0) + 1
        return ""


def _events(text: str) -> Iterator[str]:
    """Yield what an invitation says of each event: what, when, where."""
    within: list[str] = []
    said: dict[str, str] = {}
    for line in re.sub(r"\n[ \t]", "", text).split("\n"):
        begins, _, part = line.strip().partition(":")
        if begins == "BEGIN":
            within.append(part)
        elif begins == "END" and within:
            if within.pop() == "VEVENT":
                yield _event(said)
                said = {}
        elif within[-1:] == ["VEVENT"] and (found := _PROPERTY.match(line)):
            said.setdefault(found[1], _when(found[3], found[2]) if found[1].startswith("DT") else found[3])


def _event(said: dict[str, str]) -> str:
    names = {"SUMMARY": "Event: ", "DTSTART": "Begins: ", "DTEND": "Ends: ", "LOCATION": "Place: ", "DESCRIPTION": ""}
    lines = "\n".join(shown + said[name] for name, shown in names.items() if said.get(name))
    return re.sub(r"\\([,;\\])", r"\1", re.sub(r"\\[nN]", "\n", lines)).strip()


def _when(value: str, more: str) -> str:
    found = _TIME.fullmatch(value.strip())
    if not found:
        return value
    year, month, day, hour, minute, utc = found.groups()
    zone = re.search(r"TZID=\"?([^;\"]+)", more)
    time = f" {hour}:{minute}" + (" UTC" if utc else f" ({zone[1]})" if zone else "") if hour else ""
    return f"{year}-{month}-{day}{time}"
