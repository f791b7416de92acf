"""Markdown, reStructuredText and plain text."""

import html
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate, compress
from operator import not_
from pathlib import Path
from typing import Any

from raft.corpus.readers import Reading, Unreadable, clean, decode
from raft.corpus.readers.formulas import lowered, raised

_FRONT_MATTER = re.compile(
    r"(?:---[a-z]*[ \t]*\n(?P<yaml>.*?\n)??(?:---|\.\.\.)|\+\+\+[ \t]*\n(?P<toml>.*?\n)??\+\+\+)[ \t]*(?:\n|\Z)",
    re.DOTALL,
)
_KEY, _GOES_ON = (
    re.compile(r"(?:[\w$@][^\s:]{0,99}(?: [^\s:]{1,99}){0,2}|\"[^\"\n]{0,200}\"|'[^'\n]{0,200}') ?:(?:\s|$)"),
    re.compile(r"[ \t#}\]-]|$"),
)
_TOML = re.compile(r"\s*(?:#|\[|[\w\"'.-]+\s*=)")
_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*(?P<quote>[\"']?)(?P<title>[^\n]{0,2000}?)(?P=quote)[ \t]*$", re.MULTILINE)
_CODE = r"(?P<ticks>`{1,3})(?!`)[^\n]{1,2000}?(?<!`)(?P=ticks)(?!`)"
_DATA = r"data:[\w.+-]+/[^\s\"'<>()]{100,}"
_DATA_NAMED = re.compile(rf"^ {{0,3}}\[([^\]\n]{{1,200}})\]:[ \t]*<?{_DATA}.*$\n?", re.MULTILINE)
_DATA_PICTURE = re.compile(
    rf"!?\[(?P<words>(?:[^\[\]\n]|\[[^\[\]\n]{{0,200}}\]){{0,1000}})\](?:\(\s*<?{_DATA}[^)\n]{{0,1000}}\)|\[(?P<name>[^\]\n]{{0,200}})\])"
    rf"|<img\b(?=[^<>]{{0,1000}}?\bsrc=[\"']{_DATA})(?=[^<>]*?\balt=[\"'](?P<alt>[^\"'<>]{{0,1000}}))?[^<>]*>",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"^ {0,3}\[(?://|comment)\]:[ \t]*(?:#|<>)[ \t]*(?:\(.*\)|\".*\"|'.*')[ \t]*$\n?", re.MULTILINE | re.IGNORECASE
)
"""A comment, as people write it who want none of HTML."""
_MODULE = re.compile(
    r"^(?:import\s+(?:[\"'{*]|[\w$]+(?:\s*,\s*\{[^}]{0,1000}\})?\s+from\s)"
    r"|export\s+(?:default|const|let|var|function|async|class|[{*]))(?:.*\n?)(?:[ \t]*\S.*\n?)*",
    re.MULTILINE,
)
_COMPONENT = re.compile(
    rf"{_CODE}|\{{/\*(?:[^*]|\*(?!/)){{0,5000}}\*/\}}|</?(?:[A-Z][\w.]*(?:\s(?:[^<>{{}}\"']|\"[^\"]{{0,1000}}\"|'[^']{{0,1000}}'|\{{[^{{}}]{{0,1000}}\}}){{0,100}})?/?)?>"
)
_TITLED = re.compile(r"\b(?:title|label|summary)=([\"'])(.*?)\1")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+)$|^(\S[^\n]*)\n(?:={3,}|-{3,})[ \t]*$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(\S[^\n]{2,})\n([=\-~^\"'*+#.])\2{2,}[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_TAGS = (
    "a abbr acronym address article aside b big blockquote br button center cite code dd del details dfn div dl dt em "
    "figcaption figure font footer form h1 h2 h3 h4 h5 h6 header hr i iframe img input ins kbd label li main mark nav "
    "ol p picture pre q s samp section small source span strike strong sub summary sup table tbody td tfoot th thead "
    "time tr tt u ul var video wbr"
)
_TAG = rf"<(?P<close>/?)(?P<tag>{'|'.join(_TAGS.split())})\b(?:\s[^<>]{{0,1000}})?/?>"
_ENTITY = r"&(?:#\d{1,7}|#x[\da-fA-F]{1,6}|[a-zA-Z]\w{1,30});"
_TEMPLATE = (
    r"(?P<template>\{%-?\s*(?P<name>\w+)(?P<rest>[^%{}]{0,1000})-?%\}"
    r"|\{\{(?P<variable>-?\s*(?:site|page|base|layout)\.)?[^{}\n]{0,1000}\}\})"
)
_SCRIPT = (
    r"(?P<script><su(?P<low>[bp])\b[^<>]{0,200}>(?P<note><a\b[^<>]{0,500}>)?"
    r"(?P<mark>[^<>]{0,200})(?:</a\s*>)?</su(?P=low)\s*>)"
)
_MARKUP, _MARKUP_RAISED = (
    re.compile(rf"{_CODE}|{_TEMPLATE}|{script}|{_TAG}|(?P<entity>{_ENTITY})", re.IGNORECASE)
    for script in ("(?P<script>(?!))", _SCRIPT)
)
_COMMENTS = (("<!--", "-->"), ("<style", "</style>"), ("<script", "</script>"))
_TEMPLATE_COMMENT = ("{% comment %}", "{% endcomment %}")
_UNPAIRED = {"br", "dd", "dt", "hr", "li", "p", "tbody", "td", "tfoot", "th", "thead", "tr", "wbr"}
"""Tags that say something without an end tag."""
_NESTING = re.compile(r" {0,3}(?:(?:[-*+:]|\d{1,9}[.)]|!!!|\?\?\?|===)\s|\[\^|<(?!/))")
"""Begins of what lines below are indented under: items of lists, notes, HTML; elsewhere indented lines are code."""
_MAYBE = re.compile(r"[<&]|\{[%{]")
_RAW = re.compile(r"\{%-?\s*(?:end)?raw\s*-?%\}")
_ARGUMENT = re.compile(r"\s*([\"'])(?!\S+\.(?:png|jpe?g|gif|svg|webp)\1)([^\"']*)\1")
_TABLE_END = re.compile(r"</table\s*>", re.IGNORECASE)
_ROW = re.compile(r"<tr\b[^<>]{0,1000}>", re.IGNORECASE)
_CELL = re.compile(r"<t[dh]\b[^<>]{0,1000}>", re.IGNORECASE)
_MAX_CELLS = 500_000
_STRUCTURAL = {"include", "include_relative", "render", "layout", "assign", "capture", "if", "unless", "for", "case"}
_Replace = Callable[[re.Match[str]], str]


def read(path: Path, *, kind: str, drop_templates: bool, **_others: object) -> list[Reading]:
    """Read a text file as one document; Markdown loses front matter, comments and inline HTML."""
    left_out: dict[str, int] = {}
    text = decode(path.read_bytes(), left_out)
    if kind not in ("md", "mdx"):
        heading = _UNDERLINED.search(text, 0, 2000)
        return [Reading(heading[1].strip() if heading else path.stem, text.strip(), kind, left_out=left_out)]
    title, text = split_front_matter(text)
    if kind == "mdx":
        text = _without_components(text)
    if "data:" in text:
        text = without_data(text, left_out)
    if _REMARK.search(text):
        text = "\n".join(part if code else _REMARK.sub("", part) for code, part in _parts(text, _COMMENTS))
    plain = plain_markdown(text, drop_templates=drop_templates)
    text = (clean(plain) if "&" in text else plain).strip()  # entities, too, may be invisible
    return [Reading(title or own_title(text) or path.stem, text, kind, left_out=left_out)]


def _without_components(text: str) -> str:
    """Return MDX as Markdown: without imports, exports, comments and tags of components, but for their titles."""

    def words(found: re.Match[str]) -> str:
        title = _TITLED.search(found[0])
        return found[0] if found["ticks"] else f"\n{title[2]}\n" if title else ""

    parts = _parts(text, _COMMENTS)
    return "\n".join(part if code else _COMPONENT.sub(words, _MODULE.sub("", part)) for code, part in parts)


def without_data(text: str, left_out: dict[str, int]) -> str:
    """Return Markdown with pictures that it holds itself as the words that describe them."""
    named = {name.lower() for name in _DATA_NAMED.findall(text)}

    def words(found: re.Match[str]) -> str:
        if found["name"] is not None and (found["name"] or found["words"] or "").lower() not in named:
            return found[0]
        said = (found["words"] or found["alt"] or "").strip()
        left_out["pictures without text"] = left_out.get("pictures without text", 0) + (not said)
        return said

    text = _DATA_NAMED.sub("", _DATA_PICTURE.sub(words, text))
    if not left_out.get("pictures without text", 1):
        del left_out["pictures without text"]
    return text


def split_front_matter(text: str) -> tuple[str | None, str]:
    """Return the title in a text's YAML or TOML front matter, if there is one, and the text without the front matter.

    What stands between two ruled lines and holds no settings is text.
    """
    match = _FRONT_MATTER.match(text)
    if not match or not _are_settings((match["yaml"] or "").split("\n")) or not _TOML.match(match["toml"] or "#"):
        return None, text
    title = _TITLE.search(match["yaml"] or match["toml"] or "")
    known = title and title["title"].strip() not in {"", ">", ">-", "|", "|-"}
    return (title["title"].strip() if title and known else None), text[match.end() :]


def _are_settings(lines: Sequence[str]) -> bool:
    keys = [bool(_KEY.match(line)) for line in lines]
    return lines == [""] or (
        bool(lines[0]) and any(keys) and all(map(_GOES_ON.match, compress(lines, map(not_, keys))))
    )


def own_title(text: str) -> str | None:
    """Return what a Markdown text calls itself: the heading that it begins with, or its only heading of level 1."""
    tops: list[str] = []
    for number, (code, part) in enumerate(_parts(text, _COMMENTS)):
        for match in () if code else _HEADING.finditer(part):
            if number == 0 and not part[: match.start()].strip():
                return _plain_heading(_heading(match))
            if match[0].lstrip().startswith("# ") or match[0].rstrip().endswith("==="):
                tops.append(_heading(match))
    return _plain_heading(tops[0]) if len(tops) == 1 else None


def _plain_heading(heading: str) -> str:
    return re.sub(r"(\*\*|__|[*_`])(\S.*?)\1", r"\2", heading.strip())


def _heading(match: re.Match[str]) -> str:
    """Return the words of a heading, without the signs that may close it."""
    return match[2] or match[1].rstrip(" \t").rstrip("#").rstrip(" \t") or match[1][:1]


def plain_markdown(text: str, *, drop_templates: bool = False) -> str:
    """Return Markdown without comments and HTML; code stays as it is written.

    A tag without attributes whose partner stands nowhere (`raft show <section>`) is text. A table in HTML becomes one
    in Markdown. Template syntax is text too, unless it is to be dropped: then a Liquid tag becomes its first quoted
    argument (`{% slack_channel "people-ops" %}` says "people-ops"); one without, one that names a picture, one that
    steers the template and variables of the site go.
    """
    if not _MAYBE.search(text):
        return text
    parts = list(_parts(text, (*_COMMENTS, _TEMPLATE_COMMENT) if drop_templates else _COMMENTS))
    replace = partial(_replace, paired=_paired(part for code, part in parts if not code), drop=drop_templates)
    plain = [
        (_RAW.sub("", part) if drop_templates else part) if code else _plain(part, replace) for code, part in parts
    ]
    return re.sub(r"\n[ \t]*\n(?:[ \t]*\n)+", "\n\n", "\n".join(plain))


def _paired(parts: Iterable[str]) -> frozenset[str]:
    """Return the tags that are opened and closed somewhere."""
    found = {(tag["close"], tag["tag"].lower()) for part in parts for tag in _MARKUP.finditer(part) if tag["tag"]}
    return frozenset(name for close, name in found if not close and ("/", name) in found)


def _parts(text: str, comments: Sequence[tuple[str, str]]) -> Iterator[tuple[bool, str]]:
    """Yield (is it code, text) in order, each without the line end that follows it, comments left out."""
    lines: list[str] = []
    fence = until = ""
    last = {closing: text.rfind(closing) for _, closing in comments}
    offset = 0
    nested = indented = False
    blank = True
    for raw in text.split("\n"):
        line, closable = raw, [pair for pair in comments if last[pair[1]] > offset]
        offset += len(raw) + 1
        if not fence and not until and raw.strip():
            deep = raw.startswith(("    ", "\t"))
            if deep != indented and (indented or (blank and not nested)):
                if lines:
                    yield indented, "\n".join(lines)
                lines, indented = [], deep
            if not deep and (blank or _NESTING.match(raw)) and not (nested and raw[0] == " "):
                nested = bool(_NESTING.match(raw))
        blank = not raw.strip()
        if indented:
            lines.append(raw)
            continue
        if not fence and (until or "<" in raw or "{%" in raw):
            line, until = _without_comments(raw, until, closable)
            if until and not line.strip():
                continue
        mark = _FENCE.match(line)
        if mark and not fence:
            if lines:
                yield False, "\n".join(lines)
            lines, fence = [line], mark[1]
            continue
        lines.append(line)
        if mark and mark[1].startswith(fence) and not line.strip(" `~"):
            yield True, "\n".join(lines)
            lines, fence = [], ""
    if lines:
        yield bool(fence) or indented, "\n".join(lines)


def _without_comments(line: str, until: str, closable: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return a line without its comments and what ends the one still open; `until` ends the one it begins in."""
    kept: list[str] = []
    position = 0
    starts = dict.fromkeys(closable, -1)  # where each kind opens next, so that no part of the line is searched twice
    while True:
        if until:
            end = line.find(until, position)
            if end < 0:
                return "".join(kept), until
            position, until = end + len(until), ""
        for (opening, closing), start in starts.items():
            if start < position:
                starts[opening, closing] = line.find(opening, position) % (len(line) + 1)
        found = [(start, closing) for (_, closing), start in starts.items() if start < len(line)]
        found = [(start, closing) for start, closing in found if line[start - 1 : start] != "`"]
        start, closing = min(found, default=(len(line), ""))
        kept.append(line[position:start])
        if not closing:
            return "".join(kept), ""
        position, until = start, closing


def _plain(text: str, replace: _Replace) -> str:
    if not _MAYBE.search(text):
        return text
    pieces = re.split(r"(?=<table\b)", text, flags=re.IGNORECASE)
    done = [pieces[0]]
    for piece in pieces[1:]:
        end = _TABLE_END.search(piece)
        done.append(_table(piece[: end.start()], replace) + piece[end.end() :] if end else piece)
    markup = _MARKUP_RAISED if re.search("</su[bp]", text, re.IGNORECASE) else _MARKUP
    plain = re.sub(rf"{_GLUE}[\s{_GONE}]*", " ", markup.sub(replace, "".join(done)))
    lines = (_replace_line(line) for line in plain.split("\n"))
    return "\n".join(line for line in lines if line is not None)


_GONE = "\x00"
"""Stands where something was taken out, so that a line which held nothing else goes too."""

_GLUE = "\x01"
"""Draws the text that follows onto the same line."""


_PARTED = "\x02"
"""Stands where a paragraph or the like begins or ends; what is before and behind it are two lines."""

_BLOCKS = {"article", "blockquote", "center", "dd", "details", "div", "dl", "dt", "figure", "figcaption", "form", "ol"}
_BLOCKS |= {"address", "aside", "footer", "header", "hr", "main", "nav", "p", "pre", "section", "summary", "ul"}


_OPENS = re.compile(r"(?:[-*+:]|>+|\d{1,9}[.)])(?:\s+(?:[-*+>]|\[[ xX]\]))*|\[\^[^\]]{1,100}\]:")
"""What begins an item, a task, a quotation or a note."""

_ONE_LINE = re.compile(r"[ >]*#{1,6}(?:\s|$)|.*?(?<!\\)\|")
"""Headings and rows of tables, which have no second line."""

_STRESSED = re.compile(rf"(?<![\w*~])([*_~]{{1,3}}){_PARTED}(.{{1,1000}}?){_PARTED}\1(?![\w*~])")


def _replace_line(line: str) -> str | None:
    if _PARTED in line:
        line = _STRESSED.sub(lambda found: found[1] + found[2].strip(f" {_PARTED}") + found[1], line.replace(_GONE, ""))
        first, parts = line[: len(line) - len(line.lstrip(" "))], [part.strip() for part in line.split(_PARTED)]
        parts = list(filter(None, parts))
        between = " " if _ONE_LINE.match(" ".join(parts)) else "\n"
        if parts and _OPENS.fullmatch(parts[0]):
            first += f"{parts.pop(0)} "
        line = first + between.join(parts)
        return line.rstrip() if line.strip() else None
    if _GONE not in line:
        return line
    line = line.replace(_GONE, "")
    return line.rstrip() if line.strip() else None


def _replace(match: re.Match[str], *, paired: frozenset[str], drop: bool) -> str:
    if match["ticks"]:
        return match[0]
    if match["entity"]:
        return html.unescape(match[0]).replace("\N{NO-BREAK SPACE}", " ")
    if match["script"]:
        mark, text = html.unescape(match["mark"]), match.string
        before, after = text[max(0, match.start() - 20) : match.start()], text[match.end() : match.end() + 1]
        low = match["low"].lower() == "b"
        return lowered(mark, before, after) if low else raised(mark, before, note=bool(match["note"]))
    if match["template"]:
        return _replace_template(match) if drop else match[0]
    known = match["tag"].lower() in paired | _UNPAIRED or "=" in match[0] or match[0].endswith("/>")
    return _replace_tag(match) if known else match[0]


def _replace_tag(match: re.Match[str]) -> str:
    tag = match["tag"].lower()
    if tag == "br":
        starts, rows = _rows(match.string)
        return " " if rows[bisect(starts, match.start()) - 1] else "\n"
    if tag == "li" and not match["close"]:
        return f"{_PARTED}- "
    if re.fullmatch("h[1-6]", tag):
        return "\n" if match["close"] else "#" * int(tag[1]) + _GLUE
    if tag in _BLOCKS:
        return _PARTED
    alt = re.search(r"\salt=([\"'])(.*?)\1", match[0]) if tag == "img" else None
    return alt[2] if alt else _GONE


@lru_cache(maxsize=1)
def _rows(text: str) -> tuple[list[int], list[bool]]:
    """Return where each line of a text starts, and whether it is a table's row."""
    lines = text.split("\n")
    starts = accumulate((len(line) + 1 for line in lines), initial=0)
    return list(starts), [line.lstrip().startswith("|") for line in lines]


def _replace_template(match: re.Match[str]) -> str:
    if not match["name"]:
        return _GONE if match["variable"] else match[0]
    argument = None if match["name"] in _STRUCTURAL else _ARGUMENT.match(match["rest"])
    return argument[2] if argument else _GONE


def _table(source: str, replace: _Replace) -> str:
    """Turn the rows of an HTML table, from `<table` to before its end tag, into Markdown."""
    rows = [
        [
            (" ".join(_plain(text, replace).replace("|", r"\|").split()), _span(tag, "row"), _span(tag, "col"))
            for tag, text in zip(_CELL.findall(row), _CELL.split(row)[1:], strict=True)
        ]
        for row in _ROW.split(source)[1:]
    ]
    lines = ["| " + " | ".join(cell or "" for cell in cells) + " |" for cells in spread(rows)]
    if lines:
        lines.insert(1, "|" + " --- |" * max(1, lines[0].count(" | ") + 1))
    return "\n\n" + "\n".join(lines) + "\n\n"


def _span(tag: str, kind: str) -> str:
    said = re.search(rf"\b{kind}span\s*=\s*[\"']?\s*(\d{{1,5}})", tag, re.IGNORECASE)
    return said[1] if said else ""


def spread(rows: Sequence[Sequence[tuple[Any, str, str]]]) -> list[list[Any]]:
    """Return a table in which each cell stands in all rows and columns that it spans; None where there is no cell.

    A cell is given with its rowspan and colspan as HTML has them: "" is 1, and a rowspan of 0 goes to the end.

    Raises:
        Unreadable: it has more cells than any table.
    """
    places: dict[tuple[int, int], Any] = {}
    for number, row in enumerate(rows):
        column = 0
        for cell, down, across in row:
            while (number, column) in places:
                column += 1
            height = min(int(down[:6]) or len(rows) if down.isdecimal() else 1, len(rows) - number)
            width = min(int(across[:6]) or 1 if across.isdecimal() else 1, 1000)
            if len(places) + height * width > _MAX_CELLS:
                raise Unreadable("A table in it has too many cells.")
            for place in range(number, number + height):
                places.update({(place, one): cell for one in range(column, column + width)})
            column += width
    width = max((column + 1 for _, column in places), default=0)
    if width * len(rows) > _MAX_CELLS:
        raise Unreadable("A table in it has too many cells.")
    return [[places.get((number, column)) for column in range(width)] for number in range(len(rows))]
