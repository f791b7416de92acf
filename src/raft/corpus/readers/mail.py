"""E-mails as files (EML)."""

import email
import email.policy
import re
from contextlib import suppress
from email.message import EmailMessage, MIMEPart
from pathlib import Path

from raft.corpus.readers import Reading, Unreadable, clean, decode
from raft.corpus.readers.html import to_markdown

_HEADERS = ("Subject", "From", "To", "Cc", "Date")


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read an e-mail as one document: who wrote to whom, when, about what, and its text; attachments are left out."""
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    headers = [f"{name}: {' '.join(str(message[name]).split())}" for name in _HEADERS if message[name]]
    if not headers or not isinstance(message, EmailMessage):
        raise Unreadable("It is no e-mail: it has no headers.")
    left_out: dict[str, int] = {}
    texts = [_text(part, left_out) for part in (message.get_body((form,)) for form in ("plain", "html")) if part]
    text = next(filter(None, texts), "")
    if attached := sum(1 for _ in message.iter_attachments()) if message.is_multipart() else 0:
        left_out["attachments"] = attached
    title = " ".join(str(message["Subject"] or path.stem).split())
    return [Reading(title, clean("\n".join(headers) + f"\n\n{text}").strip(), kind, left_out=left_out)]


def _text(part: MIMEPart, left_out: dict[str, int]) -> str:
    data = part.get_payload(decode=True)
    data = data if isinstance(data, bytes) else b""
    text = None
    with suppress(LookupError, UnicodeDecodeError):
        text = data.decode(part.get_content_charset() or "utf-8")
    text = clean(text) if text is not None else decode(data, left_out) if data else ""
    if part.get_content_subtype() == "html":
        return to_markdown(text, left_out)[1]
    flowed = part.get_param("format") == "flowed"
    return (re.sub(r"(?<!^--) \n(?!>)", " ", text, flags=re.MULTILINE) if flowed else text).strip()
