"""Pages that are one file: templates beside this module, and how text and data get into them unharmed.

What comes from a corpus or a model is text, wherever it stands: `tag` and `table` escape all that is not `Html`,
`embed` writes data that no parser can take for markup, and `fill` adds a policy under which no other script may run.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

_VOID = frozenset({"input", "br", "hr"})
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


class Html(str):
    """Text that is markup already; made by the functions of this module, never from what a model or a corpus says."""

    __slots__ = ()


def text(value: object) -> Html:
    """Return a value as escaped text, safe between tags and in quoted attributes; `Html` is returned as it is."""
    if isinstance(value, Html):
        return value
    # half a surrogate pair has no UTF-8 form, and the page is to be written as UTF-8
    return Html(escape(str(value).encode("utf-8", "replace").decode("utf-8"), quote=True))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Return parts one behind the other, those that are not `Html` escaped."""
    return Html(text(between).join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        name: its name.
        children: its content; what is not `Html` is escaped.
        attributes: None leaves one out and True writes it without a value; `class_` is class, and other underscores are
            hyphens.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(children)}</{name}>")


def table(caption: str, head: Sequence[object], rows: Iterable[Sequence[object]], **attributes: object) -> Html:
    """Return a table that scrolls by itself where the page is narrower; the first cell of a row is its header."""
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells)) for first, *cells in rows
    ]  # fmt: skip
    columns = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    inner = tag("table", tag("caption", tag("span", caption)), tag("thead", columns), tag("tbody", *body), **attributes)
    return tag("div", inner, class_="scroll", role="region", aria_label=caption, tabindex="0")


def code_spans(sentence: str) -> Html:
    """Return a sentence with its code as elements."""
    parts = with_backticks(sentence).split("`")
    if len(parts) % 2 == 0:
        return text(sentence)
    return join(tag("code", part) if number % 2 else part for number, part in enumerate(parts))


def with_backticks(sentence: str) -> str:
    """Return a sentence with backticks around the commands at its end (": raft ..., then raft ...").

    One that has backticks already is returned as it is.
    """
    said, colon, commands = sentence.partition(": raft ")
    if not colon or "`" in sentence:
        return sentence
    return f"{said}: " + ", then ".join(f"`{one}`" for one in f"raft {commands}".split(", then "))


def embed(data: Any) -> Html:
    """Return data as JSON for a `<script type="application/json">`; a number that is not finite becomes null."""
    written = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Html(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", written))


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def fill(name: str, **values: object) -> str:
    """Return the page `name`: its template with its values, the common style and its script in it.

    Its content security policy (W3C, "Content Security Policy Level 3") allows the page's own script by its digest and
    no other, no handler in an attribute, and no request to anywhere.

    Args:
        name: a template `name.html` and a script `name.js` beside this module.
        values: one for each placeholder of the template; what is not `Html` is escaped.

    Raises:
        KeyError: the template has a placeholder without a value.
    """
    folder = files("raft") / "pages"
    page, script, style = (
        (folder / file).read_text(encoding="utf-8") for file in (f"{name}.html", f"{name}.js", "page.css")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    policy += "; base-uri 'none'; form-action 'none'"
    known = {"policy": text(policy), "style": Html(style), "script": Html(script)}
    return Template(page).substitute(known, **{key: text(value) for key, value in values.items()})
