"""Answer first: what in a chunk can be asked for, so that the answer and its quote are exact by construction.

How the question begins is a rule in `prompts/openings.yaml`: a small model that is given the first words asks for the
right thing far more often than one that is not.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import yaml

from raft.errors import UsageError
from raft.kinds import traits
from raft.text import content_words, normalise, sentences, word_count
from raft.text.records import pairs, records
from raft.text.values import Fact, facts

_LINK = re.compile(r"!?\[([^\]]*)(?:\](\([^)]*\))?|\Z)")  # or as far as none can be, so that no sign is read twice
_MARKUP = re.compile(r"[*_`]{1,3}|<[^>]{1,200}>|\{[:%{][^}]{0,1000}\}+|^\s*(?:[-*+•>]|\d+[.)])\s+")
_HIDDEN = re.compile(r"\]\([^)]*\)|<[^>]{1,200}>|https?://\S+|\{[:%{][^}]*\}")
_STEP = re.compile(r"^[ \t]*(?:\d+[.)]|Step \d+[:.])\s+\S", re.MULTILINE)
_NEGATED = re.compile(r"\b(?:not|never|cannot|no longer|n't)\b|\bno\b", re.IGNORECASE)
_MODAL = re.compile(
    r"^(?P<subject>[^,;:.]{3,80}?) (?P<verb>must|may|can|should|will|is|are) (?P<rest>.{8,})$", re.DOTALL
)
_DANGLING = re.compile(r"^(?:it|they|he|she|this|that|these|those|such|here|there)\b", re.IGNORECASE)
_CURRENCIES, _MOST_CELLS = " €$£¥", 3
_ROW_NUMBER, _WORD, _NAMELESS = re.compile(r"\d{1,3}\.?"), re.compile(r"[^\W\d]{2}"), re.compile(r"column \d+")
_MIN_WORDS, _MAX_CHARACTERS = 6, 400


@dataclass(frozen=True)
class Opening:
    """One rule of `openings.yaml`, compiled."""

    kind: str
    answer: re.Pattern[str]
    before: re.Pattern[str] | None
    after: re.Pattern[str] | None
    opening: Template


@dataclass(frozen=True)
class StatedFact:
    """Something to ask for: an exact number with its unit, date, name or code, and what states it.

    `start` and `end` are the quote's place in the chunk's text; `statement` is a sentence without markup, or a table
    row with its column heads. `opening` is how the question begins (`$title` stands for the document's title), and
    `pattern` a digest of the statement without its facts: look-alike documents share patterns.
    """

    kind: str
    answer: str
    start: int
    end: int
    statement: str
    opening: str
    pattern: str


def read_prefixes(text: str) -> list[Opening]:
    """Return the rules of an `openings.yaml`; UsageError if it is no list of rules, or a pattern does not compile."""
    try:
        return [
            Opening(
                kind=rule["kind"],
                answer=re.compile(rule["answer"]),
                before=re.compile(rule["before"], re.IGNORECASE) if "before" in rule else None,
                after=re.compile(rule["after"]) if "after" in rule else None,
                opening=Template(rule["opening"]),
            )
            for rule in yaml.safe_load(text)
        ]
    except (yaml.YAMLError, TypeError, KeyError, re.error) as error:
        raise UsageError(
            f"The openings cannot be read: {type(error).__name__}: {error}.",
            where="openings.yaml",
            hint="each rule has kind, answer and opening, and may have before and after",
        ) from None


@dataclass(frozen=True)
class Statement:
    """A sentence or a table row that can stand for itself, without markup, and its place in the chunk's text.

    `cells` are of a table row or a record: column head and content of each. A `record` names what its values are, so
    that a model may be asked about it as about a sentence.
    """

    start: int
    end: int
    wording: str
    cells: tuple[tuple[str, str], ...] = ()
    record: bool = False


def statements(text: str) -> Iterator[Statement]:
    """Yield the sentences and table rows of a chunk's text that can stand for themselves."""
    head: list[str] = []
    row_before: list[str] = []
    last_end = 0
    apart = {(one.start, one.end) for one in records(text)}
    for start, end in sentences(text):
        raw = text[start:end]
        if text[last_end:start].count("\n") > 1:
            head, row_before = [], []
        last_end = end
        if raw.startswith("|"):
            cells = [cell.strip() for cell in raw.strip("|").split("|")]
            if all(set(cell) <= set("-: ") for cell in cells):
                head = row_before  # only a row above a rule names the columns; a table that was cut has lost it
            elif len(cells) == len(head) > 1:
                row = tuple((plain(h), plain(c)) for h, c in zip(head, cells, strict=True))
                yield Statement(start, end, "; ".join(f"{h}: {c}" if h else c for h, c in row if c), row)
            row_before = cells
            continue
        head = []
        wording = plain(raw)
        if (start, end) in apart and (told := _told(wording)):
            yield Statement(start, end, wording, told, record=True)
            continue
        if raw.startswith("#") or word_count(wording) < _MIN_WORDS or len(wording) > _MAX_CHARACTERS:
            continue
        yield Statement(start, end, wording)


def _told(record: str) -> tuple[tuple[str, str], ...]:
    """Return the cells of a record `name: value; name: value`; none where one value is a sentence of its own."""
    found = [(name.replace(" > ", " "), value) for name, value in pairs(record)]
    if len(found) > 1:  # `items 3: name: Aster; price: 5` of a list in JSON
        return (*(pairs(found[0][1]) or found[:1]), *found[1:])
    if not found:
        return ()
    ((name, value),) = found
    return (("", name), ("", value)) if word_count(value) < _MIN_WORDS else ()


def plain(text: str) -> str:
    """Return a piece of Markdown as a reader sees it, on one line."""
    end = text.rfind(")") + 1
    linked = _LINK.sub(lambda link: link[1] if link[2] else link[0], text[:end]) + text[end:]
    return " ".join(_MARKUP.sub("", linked).split())


def targets(
    text: str, prefixes: Sequence[Opening], kinds: Sequence[str], *, stated: Iterable[Statement] | None = None
) -> list[StatedFact]:
    """Return what can be asked of a chunk's text, the most exact first; at most one target a statement and kind.

    Of a sentence, a fact that none of the prefixes fits is no target. `stated` are the text's `statements`, if known.
    """
    found: list[tuple[float, StatedFact]] = []
    stated = [*(statements(text) if stated is None else stated)]
    subjects = Counter(begun for one in stated if one.record for begun in _subjects(one))
    for statement in stated:
        if statement.record:
            makers = _of_record(text, statement, kinds, subjects)
        elif statement.cells:
            makers = _of_row(text, statement, kinds)
        else:
            makers = _of_sentence(text, statement, prefixes, kinds)
        if made := list(makers):
            words = len(content_words(statement.wording))
            links = text[statement.start : statement.end].count("](")
            found += [(_worth(target, words, links), target) for target in made]
    if "procedure" in kinds:
        found += [(0.0, target) for target in _procedures(text)]
    return [target for _, target in sorted(found, key=lambda pair: (-pair[0], pair[1].start, pair[1].answer))]


def pattern_of(wording: str, known: Iterable[Fact] | None = None) -> str:
    """Return a digest of a statement without its `facts`, known or found: equal for those that differ in them alone."""
    masked, place = [], 0
    for fact in facts(wording) if known is None else known:
        masked.append(wording[place : fact.start])
        place = fact.end
    return digest(normalise(" ".join([*masked, wording[place:]])))


def digest(text: str) -> str:
    """Return a short digest of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _of_sentence(
    text: str, statement: Statement, prefixes: Sequence[Opening], kinds: Sequence[str]
) -> Iterator[StatedFact]:
    start, end, wording = statement.start, statement.end, statement.wording
    raw = text[start:end]
    hidden = bytearray(len(raw))
    for match in _HIDDEN.finditer(raw):
        hidden[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    found = facts(raw)
    pattern = ""
    for fact in found:
        kind = _kind(fact)
        if kind not in kinds or any(hidden[fact.start : fact.end]) or not _usable(fact, raw, wording):
            continue
        place = wording.find(fact.text)
        opening = _opening(fact, wording[:place], wording[place + len(fact.text) :], prefixes)
        if opening:
            pattern = pattern or pattern_of(wording, found if raw == wording else None)
            yield StatedFact(kind, fact.text, start, end, wording, opening, pattern)
    if "decision" in kinds and (modal := _MODAL.match(wording)) and not _DANGLING.match(wording):
        answer = "no" if _NEGATED.search(wording) else "yes"
        opening = modal["verb"].capitalize() + " " + _lower_first(modal["subject"])
        pattern = pattern or pattern_of(wording, found if raw == wording else None)
        yield StatedFact("decision", answer, start, end, wording, opening, pattern)


def _of_row(text: str, statement: Statement, kinds: Sequence[str]) -> Iterator[StatedFact]:
    """Ask for a cell that is one fact and nothing else, by the row's first cell and the column's head."""
    (_, first), *others = statement.cells
    for head, cell in others if first else ():
        if not head and len(others) > 1:  # nothing says what the cell tells
            continue
        whole = [fact for fact in facts(cell) if fact.text == cell and fact.kind != "name"]
        kind = _kind(whole[0]) if whole else None
        if kind is None or kind not in kinds or text[statement.start : statement.end].count(cell) != 1:
            continue
        if len(statement.cells) == 2:
            opening = f"According to $title, what is the {_lower_first(first)}"
        elif len(first.split()) > 2:
            opening = f"What is the {_lower_first(first)} for {head}"
        else:
            opening = f"What is the {_lower_first(head)} for {first}"
        yield StatedFact(
            kind, cell, statement.start, statement.end, statement.wording, opening, pattern_of(f"{first} | {head}")
        )


def _of_record(
    text: str, statement: Statement, kinds: Sequence[str], subjects: Mapping[tuple[str, ...], int]
) -> Iterator[StatedFact]:
    """Ask for a value that is one fact and nothing else, by as many cells before it as no other record begins with."""
    raw, cells = text[statement.start : statement.end], _cells(statement)
    begun = next((one for one in _subjects(statement) if subjects[one] == 1), None)
    if begun is None:
        return
    named = ", ".join(begun)
    for head, cell in cells[len(begun) :]:
        bare = cell.strip(_CURRENCIES)
        whole = next((fact for fact in facts(bare) if fact.text == bare and fact.kind != "name"), None)
        once = len(re.findall(rf"(?<!\w){re.escape(cell)}(?!\w)", raw)) == 1
        if whole is None or _kind(whole) not in kinds or not once or _NAMELESS.fullmatch(head):
            continue
        asked = f"What is the {_lower_first(head)} for {named}"
        opening = asked if head else f"What is the {_lower_first(named)} according to $title"
        told = "; ".join(f"{_lower_first(name)}: {value}" for name, value in [*cells[: len(begun)], (head, cell)])
        wording = told if head else statement.wording
        pattern = pattern_of(f"{named} | {head}")
        yield StatedFact(_kind(whole), cell, statement.start, statement.end, wording, opening, pattern)


def _subjects(record: Statement) -> list[tuple[str, ...]]:
    """Return what a record may be named by, the shortest first: its first values."""
    values = [value for _, value in _cells(record)]
    return [tuple(values[:count]) for count in range(1, min(_MOST_CELLS, len(values) - 1) + 1)]


def _cells(record: Statement) -> tuple[tuple[str, str], ...]:
    """Return the cells of a record without the mere number of its row."""
    cells = record.cells
    numbered = len(cells) > 2 and _ROW_NUMBER.fullmatch(cells[0][1]) and _WORD.search(cells[1][1])
    return cells[1:] if numbered else cells


def _kind(fact: Fact) -> str:
    return "fact" if fact.kind == "code" else fact.kind


def _usable(fact: Fact, raw: str, wording: str) -> bool:
    whole = wording.find(fact.text) >= 0 and len(fact.text) < len(wording) / 2
    return whole and "\n" not in fact.text and raw.count(fact.text) == 1 and not _DANGLING.match(wording)


def _opening(fact: Fact, before: str, after: str, prefixes: Sequence[Opening]) -> str | None:
    for rule in prefixes:
        if rule.kind != fact.kind or not (answer := rule.answer.search(fact.text)):
            continue
        matches: list[re.Match[str] | None] = [answer]
        matches += [rule.before.search(before)] if rule.before else []
        matches += [rule.after.search(after)] if rule.after else []
        if all(matches):
            groups: dict[str, Any] = {}
            for match in matches:
                groups |= match.groupdict() if match else {}
            words = rule.opening.substitute({name: value.lower() for name, value in groups.items()})
            return words[0].upper() + words[1:]
    return None


def _worth(target: StatedFact, words: int, links: int) -> float:
    bare = target.kind == "number" and target.answer.isdigit()
    return traits(target.kind).worth + min(words, 14) / 14 - 0.5 * links - (1.0 if bare else 0.0)


def _procedures(text: str) -> Iterator[StatedFact]:
    steps = [(m.start(), (text.find("\n", m.end()) + 1 or len(text) + 1) - 1) for m in _STEP.finditer(text)]
    block: list[tuple[int, int]] = []
    for step in [*steps, (len(text) + 10**6, 0)]:
        if (block and text[block[-1][1] : step[0]].strip("\n \t")) or step[1] == 0:
            if len(block) >= 3:
                start, end = block[0][0], block[-1][1]
                start += len(text[start:end]) - len(text[start:end].lstrip())
                answer = text[start:end].rstrip()
                wording = " ".join(plain(line) for line in answer.splitlines())
                yield StatedFact("procedure", answer, start, start + len(answer), wording, "What are the steps to", "")
            block = []
        block.append(step)


def _lower_first(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text if len(first) > 1 and not first[1:].islower() else text[:1].lower() + text[1:]
