"""Pages that are one file: templates beside this module, and how text and data get into them unharmed.

What comes from a corpus or a model is text, wherever it stands: templates escape all that is not `Markup`, and `embed`
writes data that no parser can take for markup.
"""

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

from raft.report import figures
from raft.text import shortened

_HERE = str(__package__)


def code_spans(sentence: str) -> Markup:
    """Return a sentence with its code as elements."""
    parts = with_backticks(sentence).split("`")
    if len(parts) % 2 == 0:
        return escape(sentence)
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(part) if number % 2 else part for number, part in enumerate(parts))


def with_backticks(sentence: str) -> str:
    """Return a sentence with backticks around the commands at its end (": raft ..., then raft ...").

    One that has backticks already is returned as it is.
    """
    said, colon, commands = sentence.partition(": raft ")
    if not colon or "`" in sentence:
        return sentence
    return f"{said}: " + ", then ".join(f"`{one}`" for one in f"raft {commands}".split(", then "))


def cell(value: object) -> str:
    """Return a value as one line of plain Markdown, in which nothing is markup or a table's border."""
    return _escaped(" ".join(str(value).split()))


def sentence(value: object) -> str:
    """Return a sentence as one line of Markdown in which nothing is markup but its code."""
    parts = with_backticks(" ".join(str(value).split())).split("`")
    if len(parts) % 2 == 0:
        return cell(value)
    return "".join(f"`{part}`" if number % 2 and part else _escaped(part) for number, part in enumerate(parts))


def _escaped(part: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", part)


def embed(data: Any) -> Markup:
    """Return data as JSON for a `<script type="application/json">`; a number that is not finite becomes null."""
    return htmlsafe_json_dumps(_finite(data), separators=(",", ":"))


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader(_HERE, ""),
        autoescape=lambda name: name is None or not name.endswith(".md"),  # noqa: S701  Markdown is escaped by its filters
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (cell, code_spans, sentence, figures.amount, figures.duration, figures.full, figures.money)
    shown = (figures.share, figures.spread, figures.tick, figures.value)
    told = (figures.headline, figures.chosen_blindly, figures.judged)
    listed = (
        figures.parts_shown,
        figures.paired,
        figures.added_shown,
        figures.together_shown,
        figures.wording_shown,
        shortened,
    )
    made.filters.update({one.__name__: one for one in (*filters, *shown, *told, *listed)})
    made.globals["NO_FIGURE"] = (figures.NOT_MEASURED,)
    made.tests.update(measured=figures.measured, few=figures.few)
    return made


_TEMPLATES = _environment()


def render(name: str, **values: object) -> Markup:
    """Return a template beside this module with its values: markup, in which all else is escaped.

    Raises:
        jinja2.UndefinedError: the template has a placeholder without a value.
    """
    return Markup(_TEMPLATES.get_template(name).render(values))  # noqa: S704  the environment has escaped the values


def fill(name: str, **values: object) -> str:
    """Return the page `name`, its style and its script in it: it loads nothing, and no other script may run in it.

    Args:
        name: a template `name.html`, which extends `page.html`, and a script `name.js` beside this module.
        values: one for each placeholder of the template; what is not `Markup` is escaped.

    Raises:
        jinja2.UndefinedError: the template has a placeholder without a value.
    """
    script, style = ((files(_HERE) / file).read_text(encoding="utf-8") for file in (f"{name}.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"style": Markup(style), "script": Markup(script), "script_digest": digest}  # noqa: S704  the package's own files
    # half a surrogate pair has no UTF-8 form, and the page is to be written as UTF-8
    return render(f"{name}.html", **own, **values).encode("utf-8", "replace").decode("utf-8")
