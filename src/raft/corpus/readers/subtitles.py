"""Subtitles (SRT and WebVTT)."""

import html
import re
from pathlib import Path

from raft.corpus.readers import Reading, decode

_TIMES = re.compile(r"^[ \t]*(?:\d+:)?\d+:\d{1,2}[.,]\d+[ \t]*-->.*$", re.MULTILINE)
_TAG = re.compile(
    r"<v(?:\.[\w.]*)?[ \t]+([^>\n]+)>|</?(?:[bciusv]|lang|ruby|rt|font|em|strong|span|p|div|su[bp]|big|small)\b"
    r"[^<>\n]*>|<[\d:.]+>|\{\\[^{}\n]*\}",
    re.IGNORECASE,
)
_BREAK = re.compile(r"<br[ \t]*/?>", re.IGNORECASE)
_NUMBER = re.compile(r"(?:^|\n)[ \t]*\d+[ \t]*\n$")
_VOICE = re.compile(r"(?<=[^\s>])[ \t]*(?=<v[ \t.])|(?<=>)[ \t]*(?=<v[ \t.])", re.IGNORECASE)
_NAMED = re.compile(r"[A-ZÀ-ÞА-Я][A-ZÀ-ÞА-Я .'-]{1,30}:\s")
_ENDED = re.compile(r"[.!?…。！？][\"'”’)\]]*$")
_LONG = 400


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read what is said in one document: the lines of all cues as sentences, without numbers and times."""
    left_out: dict[str, int] = {}
    text = decode(path.read_bytes(), left_out)
    paragraphs: list[str] = []
    before = speaker = ""
    parts = _TIMES.split(text)[1:]
    for number, part in enumerate(parts, start=1):
        # in WebVTT a cue ends with an empty line; what follows is the name of the next, or a note
        cue = (
            _first(part) if path.suffix.lower() == ".vtt" else part if number == len(parts) else _NUMBER.sub("\n", part)
        )
        for raw in _VOICE.sub("\n", _BREAK.sub("\n", cue)).split("\n"):
            named = _TAG.search(raw)
            said = html.unescape(_TAG.sub("", raw)).strip()
            if not said or said == before:  # captions that roll repeat their lines
                continue
            before = said
            speaks = named[1].strip() if named and named[1] else ""
            if speaks and speaks != speaker:
                speaker, said = speaks, f"{speaks}: {said}"
            turn = _NAMED.match(said) or said.startswith(("- ", "– ", "— ", ">>")) or said.startswith(f"{speaks}: ")
            last = paragraphs[-1] if paragraphs else ""
            if not last or turn or (len(last) > _LONG and _ENDED.search(last)):
                paragraphs.append(said)
            else:
                paragraphs[-1] = f"{last} {said}"
    return [Reading(path.stem, "\n\n".join(paragraphs), kind, left_out=left_out)]


def _first(part: str) -> str:
    return re.split(r"\n[ \t]*\n", part.strip("\n"), maxsplit=1)[0]
