"""E-mails as files (EML)."""

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
_TEXTS = ("text/plain", "text/html")
_LONG_HEADER = 20_000
"""The parser of the standard library takes a millisecond for each address."""
_OF_THE_PAGE = ("multipart/related", "image/")


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read an e-mail as one document: who wrote to whom, when, about what, and its texts; attachments are left out."""
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    said = {name: " ".join(_header(message, name).split()) for name in _HEADERS}
    headers = [f"{name}: {value}" for name, value in said.items() if value]
    if not headers or not isinstance(message, EmailMessage):
        raise Unreadable("It is no e-mail: it has no headers.")
    left_out: dict[str, int] = {}
    text = "\n\n".join(dict.fromkeys(_texts(message, left_out)))
    return [
        Reading(
            said["Subject"] or path.stem, clean("\n".join(headers) + f"\n\n{text}").strip(), kind, left_out=left_out
        )
    ]


def _header(message: Message, name: str) -> str:
    raw = next((str(value) for key, value in message.raw_items() if key.lower() == name.lower()), "")
    if len(raw) > _LONG_HEADER:
        with suppress(ValueError, LookupError, MessageError):
            return str(make_header(decode_header(raw)))
        return raw
    return str(message[name] or "")


def _texts(part: MIMEPart, left_out: dict[str, int], within: str = "") -> Iterator[str]:
    """Yield the texts of a part in their order: of alternatives the plain one, else the next that says anything."""
    kind = part.get_content_type()
    if part.get_content_maintype() == "multipart" and not part.is_attachment():
        parts = [one for one in part.iter_parts() if isinstance(one, MIMEPart)]
        if kind != "multipart/alternative":
            for one in parts:
                yield from _texts(one, left_out, kind)
            return
        parts.sort(key=lambda one: (one.get_content_type() != _TEXTS[0], one.get_content_type() != _TEXTS[1]))
        found = False
        for one in parts:
            texts = list(_texts(one, {} if found and one.get_content_type() in _TEXTS else left_out, kind))
            yield from () if found else texts
            found = found or bool(texts)
    elif kind in _TEXTS and not part.is_attachment():
        yield from filter(None, [_text(part, left_out)])
    elif part.is_attachment() or not (within.endswith("/alternative") or (within, kind[:6]) == _OF_THE_PAGE):
        left_out["attachments"] = left_out.get("attachments", 0) + 1


def _text(part: MIMEPart, left_out: dict[str, int]) -> str:
    data = part.get_payload(decode=True)
    data = data if isinstance(data, bytes) else b""
    text = None
    with suppress(LookupError, UnicodeError):
        text = data.decode(part.get_content_charset() or "utf-8")
    text = clean(text) if text is not None else decode(data, left_out) if data else ""
    if part.get_content_subtype() == "html":
        return to_markdown(text, left_out)[1]
    flowed = part.get_param("format") == "flowed"
    return (re.sub(r"(?<!^--) \n(?!>)", " ", text, flags=re.MULTILINE) if flowed else text).strip()
