"""What a page's own styles say of its elements: which are hidden, and which are raised or lowered."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

HIDING = re.compile(
    r"(?<![\w-])(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|mso-hide\s*:\s*all)", re.IGNORECASE
)
_LEFT_OUT = re.compile(r"(?<![\w-])(?:display\s*:\s*none|mso-hide\s*:\s*all)", re.IGNORECASE)
_SHOWING = re.compile(r"(?<![\w-])(?:display|visibility|mso-hide)\s*:", re.IGNORECASE)
_NO_RULE = re.compile(r"/\*.*?(?:\*/|\Z)|<!--|-->|(?<!\\)(?:\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?)", re.DOTALL)
"""Comments and texts in a style."""
_ALWAYS, _SOMETIMES, _ELSEWHERE = 2, 1, 0
_SIMPLE = r"(?:[a-z][a-z\d]*)?(?:[.#]-?[a-z_][\w-]*)*"
_SELECTOR = re.compile(rf"(?=[a-z.#]){_SIMPLE}(?:(?:\s*>\s*|\s+)(?=[a-z.#]){_SIMPLE})?", re.IGNORECASE)
_NAME = re.compile(r"[.#]((?:[\w-]|\\[^\w\s])+)")
"""A class or an id; what stands behind a backslash belongs to its name."""
_MOST_SELECTED = 1_000
_ALIGNED = re.compile(r"vertical-align\s*:\s*(super|sub)\b", re.IGNORECASE)
_MOST_SELECTORS = 50
"""Selectors of several parts whose elements are looked for: each walks the page."""
INLINE = ("b", "strong", "i", "em", "u", "small", "big", "font", "span")
Rule = tuple[list[str], str, int]
"""Selectors, what is set, and when it holds."""
Rank = tuple[bool, bool, bool, int, bool]
"""How strongly a style says of a class or an id whether it is shown, and last whether it hides it."""


def rules(page: Any) -> Iterator[Rule]:
    """Yield the rules of the page's own styles: selectors, what is set, and `_ALWAYS` or `_SOMETIMES`, when it holds.

    What holds on paper or on narrow screens alone is left out: the page is read as a wide screen shows it.
    """
    for style in page.find_all("style"):
        around = _reach(f"@media {style.get('media') or 'all'}")
        open_ = [("", min(around, _SOMETIMES) if style.find_parent("noscript") else around)]
        words = ""
        for part in re.split(r"([{}])", _NO_RULE.sub(" ", style.get_text())):
            if part == "{":
                begun = words.rpartition(";")[2].strip()  # what is before belongs to the rule around it
                open_.append((begun, min(open_[-1][1], _reach(begun))))
            elif part == "}" and len(open_) > 1:
                selectors, _ = open_.pop()
                if open_[-1][1] != _ELSEWHERE and not selectors.startswith("@"):
                    yield [one.strip() for one in selectors.split(",")], words, open_[-1][1]
            words = "" if part in ("{", "}") else part


def _reach(begun: str) -> int:
    """Return when the rules hold that stand in a block which is begun so."""
    if re.fullmatch(r"@media\s+(?:only\s+)?(?:all|screen)(?:\s*,.*)?", begun, re.IGNORECASE | re.DOTALL):
        return _ALWAYS
    said = begun.lower() if begun.startswith("@media") else ""
    paper = re.search(r"\b(?:print|speech)\b", said) and not re.search(r"\b(?:screen|not)\b", said)
    return _ELSEWHERE if paper or re.search(r"max-|width\s*<", said) else _SOMETIMES


def concealed(page: Any, rules: Sequence[Rule]) -> dict[str, Rank]:
    """Return what the page's own style says of classes and ids (`.old`, `#old`), but for those that a script may show.

    What a selector of several parts hides (`ul.old > li`) is hidden here, as if its own style said so.
    """
    told: set[str] = set()
    for script in page.find_all("script"):
        told.update(re.findall(r"[\w-]+", script.get_text()))
    # what keeps its place is for a script to show, which may be anywhere
    hiding = HIDING if page.find("script", src=True) is None else _LEFT_OUT
    said: dict[str, Rank] = {}
    within: dict[str, list[str]] = {}
    shown: set[str] = set()
    for number, (selectors, body, when) in enumerate(rules):
        if not _SHOWING.search(body):
            continue
        hides = HIDING.search(body) is not None
        if hides and (when != _ALWAYS or not hiding.search(body)):
            continue
        for one in selectors:
            if _NAME.fullmatch(one):
                name = one.replace("\\", "")
                rank = (when != _ALWAYS, "!important" in body, one[0] == "#", number, hides)
                said[name] = max(said.get(name, rank), rank)
                shown.update(() if hides else [name[1:]])
            elif not hides:
                told.update(name.replace("\\", "") for name in _NAME.findall(one))
            elif _SELECTOR.fullmatch(one) and (names := re.findall(r"[.#]([\w-]+)", one)):
                within[one] = names
    there = {name for one in page.find_all(True) for name in (*one.get("class", ()), one.get("id"))} - told - shown
    for one in [one for one, names in within.items() if there.issuperset(names)][:_MOST_SELECTORS]:
        for element in page.select(one, limit=_MOST_SELECTED):
            if shown.isdisjoint(element.get("class", ())):
                element["hidden"] = ""
    return {one: rank for one, rank in said.items() if one[1:] not in told}


def mark_aligned(page: Any, rules: Sequence[Rule]) -> None:
    """Make marks of what is raised or lowered by its own style or by the page's."""
    sides: dict[str, str] = {}
    for selectors, body, when in rules:
        if when == _ALWAYS and (aligned := _ALIGNED.search(body)):
            last = (re.search(r"\.([\w-]+)$", one) for one in selectors)
            sides.update({found[1]: aligned[1] for found in last if found})
    for mark in page.find_all(["a", *INLINE]):
        said = [sides[name] for name in mark.get("class", ()) if name in sides]
        said += _ALIGNED.findall(str(mark.get("style", "")))
        if said and len(mark.get_text(strip=True)) <= 4 and not mark.find(["sup", "sub"]):
            mark.name = "sup" if said[-1].lower() == "super" else "sub"
