"""Chunks and a generator in, questions with exact answers and verbatim quotes out.

There are five strategies: `rules` makes questions of sentences without a model, and `rules_first` asks one, as
`answer_first` does, for facts of which rules make none; `answer_first` chooses exact facts and asks the model for the
question alone; `spans` has it
copy an answer from a chosen sentence first; `items` asks a capable model for questions, answers and quotes as JSON.
What the model does not deliver is recorded as a failure, with its reply.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from raft import prompts
from raft.generation import by_rule, yes_no
from raft.generation import plan as planning
from raft.generation.facts import StatedFact, digest, plain, read_prefixes, statements, targets
from raft.generation.plan import Prompts, Survey, budgets, documents, is_notice
from raft.generation.rounds import name_of
from raft.generation.tasks import (
    Row,
    Task,
    answer_first_ask,
    check_wording,
    grounded,
    in_language,
    must,
    quote_of,
    room,
    row_of,
    section,
)
from raft.generation.titles import Titles
from raft.kinds import traits
from raft.prompts import Prompt
from raft.protocols import Completion, Failure, Generator, Request
from raft.store import tables
from raft.text import as_text, as_written, normalise, spaced, word_count
from raft.text.languages import EN, Language
from raft.text.values import UNSPACED, facts

_T = TypeVar("_T")

REPLY_TOKENS = 44
SHORTEST, LONGEST = 8, 45
"""Words of a sentence that is asked about."""
_BY_FACT = ("answer_first", "span")
CHOSEN_OF = ("rules_first", "answer_first", "spans")
"""Strategies that ask for one question at a time, of which there can be candidates."""
WARM = 0.8
"""Temperature of all candidates for a question but the first."""
MOST_ANSWER_WORDS = 10
_COPIED = ("number", "date", "name", "fact")
MOST_FACTS = 3
"""Facts of one sentence that are given as answers."""

GROUNDED = 0.4
"""Least share of a question's words that the sentence or its heading holds. A model that can choose an answer also
finds words of its own: of the replies below 0.7, which the smallest models must reach, most read well (XQuAD, seen)."""

_REFERS = re.compile(
    r"\b(?:sentences?|passage|paragraph|text|section|statement|above|following)\b"
    r"|\b(?:mentioned|discussed|described)\W*$",
    re.IGNORECASE,
)
_REPLY = re.compile(r"\A\s*(?:Answer:\s*)?(?P<answer>[^\n]+)\n+Question:\s*(?P<question>[^\n]+)")
_EDGES = " \t\"'“”‘’.,;:。、，；：「」『』«»„،؛।"
_UNSPACED = re.compile(f"[{UNSPACED}]")
_ENDLESS = 10**9


def plan_spans(
    frames: Iterable[pl.DataFrame], known: Survey, given: Mapping[str, int], used: Prompts, kinds: Sequence[str]
) -> Iterator[Task]:
    """Yield what to ask: one question for each chosen sentence, spread evenly over a document's chunks.

    Of decisions there is an even share, or less where they would all be answered with yes; a reply of a kind that is
    not on is refused. `given` is doc_id to questions, of `budgets`.
    """
    balance = yes_no.Balance(1 / len(kinds) if "decision" in kinds else 0.0)
    copied = any(kind != "decision" for kind in kinds)
    for doc, rows in documents(frames):
        weights = {str(place): row["tokens"] for place, row in enumerate(rows)}
        mine, language = given.get(doc, 0), known.language(doc)
        asks = partial(span_ask, used.span, kinds=kinds, language=language, wording=used.language)
        parts = budgets(weights, len(rows), per_chunk=mine / len(rows), limit=None) if mine else {}
        for place, row in enumerate(rows):
            count = parts.get(str(place), 0)
            stated = [one for one in statements(row["text"]) if not is_notice(one.wording, known)]
            # a record's values are asked for by their names, where these are to be put into a question in English
            named = [one for one in stated if one.record and language is EN]
            sentences = [
                (one.start, one.end)
                for one in stated
                if (not one.cells or (one.record and language is not EN))
                and SHORTEST <= word_count(one.wording) <= LONGEST
            ]
            plain_words = [row["text"][start:end] for start, end in sentences] if language is EN else []
            decided = balance.choose(plain_words, count)
            for number, words in sorted(decided.items()):
                yield yes_no.decision_ask(used.decision, row, *sentences[number], words)
            if not copied:
                continue
            count -= len(decided)
            first, others = _first_of_each(targets(row["text"], (), [*{*kinds} & {*_COPIED}], stated=named))
            choices: list[tuple[int, int, StatedFact | None]] = [(*place, None) for place in sentences]
            choices += first
            for start, end, target in _spread(sorted(choices, key=lambda one: one[0]), count):
                yield asks(row, start, end) if target is None else _ask_for(target, row, used)
            given_answers = [
                (start, end, answer) for start, end in sentences for answer in _facts(row["text"][start:end], kinds)
            ]
            rest: list[tuple[int, int, str | StatedFact]] = [*given_answers, *others]
            for start, end, asked in _spread(rest, count - len(choices)):
                yield asks(row, start, end, answer=asked) if isinstance(asked, str) else _ask_for(asked, row, used)


def _first_of_each(
    found: Iterable[StatedFact],
) -> tuple[list[tuple[int, int, StatedFact]], list[tuple[int, int, StatedFact]]]:
    """Return the first target of each statement, and all others, with their places."""
    first: dict[int, StatedFact] = {}
    places = [(one.start, one.end, one) for one in found]
    others = [place for place in places if first.setdefault(place[0], place[2]) is not place[2]]
    return [(one.start, one.end, one) for one in first.values()], others


def _ask_for(target: StatedFact, row: Mapping[str, Any], used: Prompts) -> Task:
    return answer_first_ask(used.answer_first, row, target, section(row), name_document=False)


def _spread(choices: Sequence[_T], count: int) -> list[_T]:
    """Return up to `count` of the choices, evenly spread from first to last."""
    count = max(0, min(count, len(choices)))
    return [choices[step * len(choices) // count] for step in range(count)]


def _facts(text: str, kinds: Sequence[str]) -> list[str]:
    """Return facts of a sentence that can be asked for, first to last.

    Without a name that begins it (its first word may be capitalised for its place alone) or ends with an initial.
    """
    known = (fact for fact in facts(plain(text)) if fact.kind != "name" or (fact.start > 0 and fact.text[-2:-1] != " "))
    found = dict.fromkeys(fact.text for fact in known)
    return [answer for answer in found if kind_of(answer) in kinds][:MOST_FACTS]


def span_ask(
    prompt: Prompt,
    chunk: Mapping[str, Any],
    start: int,
    end: int,
    kinds: Sequence[str],
    *,
    answer: str | None = None,
    language: Language = EN,
    wording: Prompt | None = None,
) -> Task:
    """Ask about the chunk's characters `start` to `end`: for an answer copied from there and its question.

    With `answer`, which must stand there, only the question is left to the model. `wording` (language.md) names it the
    language.
    """
    statement = plain(chunk["text"][start:end])
    context = section(chunk)
    messages = prompt.render(context=context, statement=statement)
    messages = in_language(messages, wording, language) if wording else messages
    begun = "" if answer is None else f"{answer}\nQuestion:"
    if begun:
        last = messages[-1]
        messages = (*messages[:-1], {"role": last["role"], "content": f"{last['content']} {as_text(begun)}"})

    def read(reply: str) -> list[Row]:
        copied, question = parse_span(as_written(f"{begun} {reply}"), statement)
        kind = kind_of(copied)
        must(kind in kinds, f"{kind!r} is none of the kinds asked for")
        check_wording(question, copied, statement, context, language)
        must(not _REFERS.search(question) and not language.leans(question), "it speaks of the sentence")
        known, stated = grounded(question, statement, context)
        must(stated and known >= GROUNDED, "it is about something else")
        return [row_of(question, copied, kind, quote_of(chunk, start, end))]

    request = Request(messages, room(REPLY_TOKENS, statement, language), check=read)
    return Task(request, read, chunk["chunk_id"], (chunk["doc_id"],), prompt)


def parse_span(reply: str, statement: str) -> tuple[str, str]:
    """Return answer (as the statement writes it) and question of a reply; ValueError if it is no short part of it."""
    found = _REPLY.match(reply)
    if not found:
        raise ValueError("it has no answer with a question below")
    words = normalise(found["answer"]).split()
    must(words, "the answer is empty")
    most = MOST_ANSWER_WORDS * (1 if spaced(statement) == statement else 2)  # characters
    few = len(words) <= most and len(words) * 2 <= len(normalise(statement).split())
    must(few, "the answer is most of the sentence")
    place = _find(found["answer"].strip(_EDGES).split(), r"\s+", statement) or _find(
        words, r"\W*" if most > MOST_ANSWER_WORDS else r"\W+", statement
    )
    if place is None:
        raise ValueError("the answer is not in the sentence")
    return _with_its_signs(statement, *place.span()), " ".join(found["question"].split())


def _find(words: Sequence[str], between: str, statement: str) -> re.Match[str] | None:
    """Find words one after the other, whole: neither "5" in "1.5 km" nor "000" in "1,000"."""
    if not words:
        return None
    loose = between.join(map(re.escape, words))
    before = "" if _UNSPACED.match(words[0][0]) else r"(?<!\w)(?<!\d[.,:])"
    after = "" if _UNSPACED.match(words[-1][-1]) else r"(?!\w|[.,:]\d)"
    return re.search(f"{before}{loose}{after}", statement, re.IGNORECASE)


def kind_of(answer: str) -> str:
    """Return the kind of question that an answer belongs to: number, date, name, or fact for all others."""
    whole = [fact for fact in facts(answer) if len(fact.text) * 2 >= len(answer)]
    if whole:
        return whole[0].kind if whole[0].kind in ("number", "date", "name") else "fact"
    words = answer.split()
    return "name" if words and all(word[:1].isupper() for word in words) else "fact"


def _with_its_signs(statement: str, start: int, end: int) -> str:
    """Take a sign of currency before, or of percent or degree behind, into the answer."""
    while start > 0 and statement[start - 1] in "$€£¥#-−" and (start < 2 or not statement[start - 2].isalnum()):
        start -= 1
    while end < len(statement) and statement[end] in "%°":
        end += 1
    return statement[start:end].strip(_EDGES) or statement[start:end]


@dataclass(frozen=True)
class Plan:
    """What is going to be asked: so many questions, in these tasks, which are made lazily."""

    questions: int
    tasks: Iterator[Task]


def read_prompts(folder: Path | None, *, like: str = "") -> Prompts:
    """Return the prompts that questions are asked with; `folder` holds those that replace the package's.

    `like` is what is said of questions that people have asked (like.md); only those who write items are told.
    """
    return Prompts(
        answer_first=prompts.load("answer_first", folder),
        items=prompts.load("items", folder),
        comparison=prompts.load("comparison", folder),
        unanswerable=prompts.load("unanswerable", folder),
        span=prompts.load("span", folder),
        decision=prompts.load("decision", folder),
        language=prompts.load("language", folder),
        others=prompts.load_addition("others", folder),
        prefixes=tuple(read_prefixes(prompts.load_text("openings.yaml", folder))),
        like=like,
    )


def plan(
    chunks: Iterator[pl.DataFrame],
    known: Survey,
    used: Prompts,
    *,
    strategy: str,
    kinds: Sequence[str],
    per_chunk: float,
    limit: int | None,
    candidates: int = 1,
) -> Plan:
    """Return what `ask` would ask; the arguments are its own."""
    shares = budgets(known.sizes, known.chunks, per_chunk=per_chunk, limit=limit)
    given = {doc: share for doc, share in shares.items() if planning.askable(strategy, kinds, known.language(doc))}
    tasks = _tasks(chunks, known, given, used, strategy=strategy, kinds=kinds)
    return Plan(sum(given.values()), again(tasks, candidates))


def everything(
    chunks: Iterator[pl.DataFrame], known: Survey, used: Prompts, *, strategy: str, kinds: Sequence[str]
) -> Iterator[Task]:
    """Yield each task that a plan of any size can have, in the order of the chunks; "items" have no end."""
    given = {doc: _ENDLESS for doc in known.sizes if planning.askable(strategy, kinds, known.language(doc))}
    return _tasks(chunks, known, given, used, strategy=strategy, kinds=kinds)


def surveyed(chunks: Iterator[pl.DataFrame], known: Survey) -> Iterator[pl.DataFrame]:
    """Yield the chunks of the documents that a survey knows."""
    named = list(known.sizes)
    return (frame.filter(pl.col("doc_id").is_in(named)) for frame in chunks)


def _tasks(
    chunks: Iterator[pl.DataFrame],
    known: Survey,
    given: Mapping[str, int],
    used: Prompts,
    *,
    strategy: str,
    kinds: Sequence[str],
) -> Iterator[Task]:
    wanted = surveyed(chunks, known)
    if strategy == "spans":
        return plan_spans(wanted, known, given, used, kinds)
    if strategy == "items":
        return planning.plan_items(wanted, known, given, used, kinds)
    return planning.plan_facts(wanted, known, given, used, kinds, strategy=strategy)


def again(tasks: Iterable[Task], times: int) -> Iterator[Task]:
    """Yield each task, and those that ask a model for a fact once more for each other of so many times, warmer.

    Of items a second reply mostly asks for other facts; decisions, comparisons and what nothing answers are checked
    less by their words. They are asked once.
    """
    for task in tasks:
        if times == 1 or task.request is None or task.prompt is None or task.prompt.name not in _BY_FACT:
            yield task
            continue
        asked = name_of(task)[:12]
        for turn in range(times):
            request = replace(task.request, temperature=WARM, sample=turn) if turn else task.request
            yield replace(task, request=request, asked=asked)


def ask(
    chunks: Iterator[pl.DataFrame],
    known: Survey,
    generator: Generator,
    used: Prompts,
    *,
    strategy: str,
    kinds: Sequence[str],
    per_chunk: float,
    limit: int | None,
    model: str,
    failures: list[dict[str, Any]],
    candidates: int = 1,
    titles: Titles | None = None,
    planned: Callable[[int], None] = lambda count: None,
) -> Iterator[pl.DataFrame]:
    """Yield frames of `tables.QUESTIONS`, lazily, in the order of the chunks (frames of `tables.CHUNKS`).

    Documents that the survey, with what is `needed`, does not know are not asked about. `strategy` is "rules",
    "rules_first", "answer_first", "spans" or "items"; `per_chunk` is an average; `model` is recorded in each row that
    it wrote. Rows of `tables.FAILURES` are appended to `failures`, and `planned` is told how many questions the budget
    allows; for each a model is asked as often as there shall be `candidates`. With `titles`, a question that names
    nothing of what its document is about is completed with its title.
    """
    shape: dict[str, Any] = {"kinds": kinds, "per_chunk": per_chunk, "limit": limit, "candidates": candidates}
    found = plan(chunks, known, used, strategy=strategy, **shape)
    planned(found.questions)
    how: dict[str, Any] = {"model": model, "failures": failures, "seen": set(), "candidates": candidates}
    how["titles"] = titles
    put = put_tasks(found.tasks, generator, asks=strategy != "rules", **how)
    yield from (tables.frame(tables.QUESTIONS, rows) for _, rows in put)


def put_tasks(
    tasks: Iterable[Task],
    generator: Generator,
    *,
    asks: bool,
    model: str,
    failures: list[dict[str, Any]],
    seen: set[str],
    candidates: int = 1,
    titles: Titles | None = None,
) -> Iterator[tuple[Task, list[Row]]]:
    """Yield each task that brought questions with them, rows of `tables.QUESTIONS`.

    Without `asks` no model is there; `seen` are the ids of questions that came before, and grows. Each task is there
    as often as there shall be `candidates` (`again`). `titles` are as in `ask`.
    """
    for task, outcome in _outcomes(tasks, generator, asks=asks):
        failed = {"stage": "questions", "item_id": task.item_id}
        if isinstance(outcome, Failure):
            failures.append({**failed, **vars(outcome)})
            continue
        reply, attempts = (outcome.text, outcome.attempts) if outcome else ("", 0)
        rows = [_row(_titled(row, task, titles), task, model) for row in task.read(reply)]
        uncached = list({row["question_id"]: row for row in rows if row["question_id"] not in seen}.values())
        seen.update(row["question_id"] for row in uncached)
        alike = 0 if candidates > 1 else len(rows) - len(uncached)  # a candidate may be another one
        repeated = ["the same question was asked of the same chunk before"] * alike
        lost = [("repeated", why) for why in repeated] + [("malformed", why) for why in task.refused(reply)]
        failures += [{**failed, **vars(Failure(kind, why, reply, attempts))} for kind, why in lost]
        if uncached:
            yield task, uncached


def _outcomes(
    tasks: Iterable[Task], generator: Generator, *, asks: bool
) -> Iterator[tuple[Task, Completion | Failure | None]]:
    """Yield each task with what became of its request, or None where it has none, in the order of the tasks."""
    if not asks:
        yield from ((task, None) for task in tasks)
        return
    waiting: deque[Task] = deque()

    def requests() -> Iterator[Request]:
        for task in tasks:
            waiting.append(task)
            if task.request is not None:
                yield task.request

    for outcome in generator.complete(requests()):
        while waiting[0].request is None:
            yield waiting.popleft(), None
        yield waiting.popleft(), outcome
    yield from ((task, None) for task in waiting)


def _titled(row: Row, task: Task, titles: Titles | None) -> Row:
    if titles is None or not traits(row["kind"]).answered or len(task.doc_ids) != 1:
        return row
    return {**row, "question": titles.complete(row["question"], row["answer"], task.doc_ids[0])}


def question_id(golden_chunk_ids: Sequence[str], kind: str, question: str) -> str:
    """Return the id of a question: a hash of its golden chunks, kind and normalised wording."""
    return digest("\n".join([*sorted(golden_chunk_ids), kind, normalise(question)]))


def _row(row: Row, task: Task, model: str) -> Row:
    golden = list(dict.fromkeys(quote["chunk_id"] for quote in row["quotes"]))
    return {
        **row,
        "question_id": question_id(golden or [task.item_id], row["kind"], row["question"]),
        "golden_chunk_ids": golden,
        "doc_ids": list(task.doc_ids),
        "model": model if task.prompt else by_rule.MODEL,
        "prompt": _provenance(task),
    }


def _provenance(task: Task) -> str:
    """Name the prompt of a row, and of candidates what was asked, by which they are told to be of one question."""
    named = f"{task.prompt.name}@{task.prompt.digest[:12]}" if task.prompt else f"by_rule@{by_rule.VERSION}"
    return f"{named} of {task.asked}" if task.asked else named
