"""Cleaning: the questions with a reason for each that is dropped. Rows in equals rows out; nothing is deleted.

In this order: a question is judged by itself (`RULES`, by those of its language), by whether its golden chunk is
found again (round trip), by a model if there is one, and last against the other questions. Duplicates come last so
that the one which is kept for the others can never be dropped itself, but by a person: what they reject, no twin brings
back. What they approved or wrote, only the rules of `_OF_THE_SOURCE` drop, and duplicates and leaks.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import polars as pl

from raft.curation import decisions, figures, learned
from raft.curation.duplicates import drop_duplicates, one_wording, origin
from raft.curation.reading import Filter, mark
from raft.kinds import traits
from raft.prompts import Prompt
from raft.protocols import Embedder, Generator, Retriever, Scorer
from raft.rag.format import is_no_answer
from raft.similarity import holds_text, names
from raft.store import tables
from raft.text import contains, content_words, embedded_text, find_quote, normalise, places, word_count
from raft.text.languages import EN, Language, of_text, stems
from raft.text.values import UNSPACED, covers, fact_values, facts

ROUND_TRIP, REJECTED = "round trip", "rejected by a person"
HUMAN, UNSAID, ABSENT = decisions.HUMAN, "no document says it", "answer not in chunk"
_OF_THE_SOURCE = ("malformed", ABSENT, "quote not verbatim")
_BATCH = 256
Row = dict[str, Any]


def clean(
    questions: pl.DataFrame,
    chunks: pl.DataFrame,
    *,
    retriever: Retriever,
    embedder: Embedder,
    held_out: frozenset[str],
    min_words: int,
    max_words: int,
    max_answer_words: int,
    similarity: float,
    round_trip_k: int,
    judge: Generator | None,
    judge_prompt: Prompt | None,
    judge_minimum: float,
    languages: Mapping[str, str] | None = None,
    weights: learned.Weights | None = None,
    scorer: tuple[Prompt, Scorer] | None = None,
    filters: Sequence[Filter] = (),
    reader: Generator | None = None,
    decided: decisions.Decided | None = None,
    wordings: bool = False,
) -> pl.DataFrame:
    """Return all questions, in their order, as `tables.CLEANED`: each with the reason why it is dropped, or none.

    A quote that nearly stands in its chunk is replaced by the words that do; `original_quotes` then holds what came.
    An answer that lacks a bound or an amount that stands beside its figure is completed from its quote.

    `chunks` has at least the golden ones, which must be among `round_trip_k` results of the retriever; no rule that
    asks it drops a question on a held-out document. From `similarity` (a cosine) on, two questions with
    one answer or one source are duplicates. Without a judge, or its prompt with $question, $answer and $passage, there
    are no marks; `judge_minimum` (0 to 1) is the lowest that is kept, and so is a question whose mark cannot be had.
    `languages` are those of the documents, by doc_id, but English. What no person has judged is filtered by `weights`
    over the likelihoods of the `scorer`, then by `filters`, which ask the `reader`, and then by the judge.
    `decided` is what people have said, by question_id (`decisions.decided`); what they have written stands in
    `questions` already. With `wordings`, of several wordings of one question one is left (`duplicates.one_wording`).
    """
    texts = {row["chunk_id"]: row for row in chunks.select("chunk_id", "heading", "text").iter_rows(named=True)}
    limits = {"min_words": min_words, "max_words": max_words, "max_answer_words": max_answer_words}
    said = {name: verdict for name, (verdict, *_) in (decided or {}).items()}
    good = {name: verdict for name, verdict in said.items() if verdict != decisions.REJECTED}
    rows = [judged(row, texts, limits, languages or {}, good) for row in questions.iter_rows(named=True)]
    round_trip(kept(rows), texts, retriever=retriever, k=round_trip_k, held_out=held_out, good=good)
    passages = passages_of(texts)

    def unsaid() -> list[Row]:
        return [row for row in kept(rows) if row["question_id"] not in said]

    if weights is not None and scorer is not None:
        learned.drop(kept(rows), weights, *scorer, spared=said)
    for one in filters:
        if reader is not None:
            one.apply(unsaid(), passages, reader, held_out)
    if judge is not None and judge_prompt is not None:
        mark(unsaid(), passages, judge=judge, prompt=judge_prompt, minimum=judge_minimum)
    rejected = said.keys() - good.keys()
    if wordings:
        for row in kept(rows):  # the question before stays, which may be a twin: so this is said before duplicates
            if (first := origin(row)) and {first, row["question_id"]} & rejected:
                row["reason"] = REJECTED
        one_wording(rows, passages, approved=good, rejected=rejected)
    drop_duplicates(kept(rows), embedder=embedder, similarity=similarity)
    for row in kept(rows):
        row["reason"] = REJECTED if row["question_id"] in rejected else None
    return tables.frame(tables.CLEANED, rows)


def kept(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that nothing drops so far."""
    return [row for row in rows if row["reason"] is None]


def judged(
    row: Row, texts: Mapping[str, Row], limits: Mapping[str, int], languages: Mapping[str, str], good: Mapping[str, str]
) -> Row:
    """Return a question with what the rules say of it; `good` says of which people approved or wrote it."""
    golden = [texts[chunk_id] for chunk_id in row["golden_chunk_ids"] if chunk_id in texts]
    aligned = _aligned(row["quotes"], {chunk["chunk_id"]: chunk["text"] for chunk in golden})
    question, answer, source = row["question"] or "", row["answer"] or "", _passages(row, texts)
    language = of_text(question, next((languages[name] for name in row["doc_ids"] if name in languages), "en"))
    said = None
    if aligned and len(aligned) == 1 and traits(row["kind"]).exact and row["model"] != HUMAN:
        chunk = texts[aligned[0]["chunk_id"]]
        quote, led = figures.sentence_of(aligned[0]["text"], answer), (row["prompt"] or "").startswith("answer_first@")
        said = figures.Said(question, answer, quote, chunk["heading"], chunk["text"], language, led)
        answer = figures.completed(said)
        said = said._replace(answer=answer)
    candidate = Candidate(row["kind"], question, answer, bool(aligned), source, language=language, said=said, **limits)
    changed = aligned is not None and aligned != row["quotes"]
    return {
        **row,
        "answer": answer if said else row["answer"],
        "quotes": aligned if changed else row["quotes"],
        "original_quotes": row["quotes"] if changed else None,
        "reason": _reason(row, candidate, good.get(row["question_id"])),
        "scores": {"golden_rank": None, "similarity": None, "judge": None},
    }


def _reason(row: Row, candidate: "Candidate", verdict: str | None) -> str | None:
    own = row["model"] == HUMAN and verdict != decisions.EDITED  # a pair whose chunk was chosen: it bears the answer
    if own and traits(row["kind"]).answered and not row["golden_chunk_ids"]:
        return UNSAID
    rules = (one for one in RULES if not (own and one[0] == ABSENT) and (verdict is None or one[0] in _OF_THE_SOURCE))
    return next((why for why, applies in rules if applies(candidate)), None)


def passages_of(texts: Mapping[str, Row]) -> Callable[[Row], str]:
    """Return what returns headings and texts of a row's golden chunks, of chunks by id."""
    return partial(_passages, texts=texts)


def _passages(row: Row, texts: Mapping[str, Row]) -> str:
    golden = (texts[chunk_id] for chunk_id in row["golden_chunk_ids"] if chunk_id in texts)
    return "\n\n".join(embedded_text(chunk["heading"], chunk["text"]) for chunk in golden)


def round_trip(
    rows: list[Row],
    texts: Mapping[str, Row],
    *,
    retriever: Retriever,
    k: int,
    held_out: frozenset[str],
    good: Container[str],
) -> None:
    """Drop each row one of whose golden chunks is not found again; `scores.golden_rank` is the last one's rank."""
    asked = [row for row in rows if traits(row["kind"]).answered and held_out.isdisjoint(row["doc_ids"])]
    for batch in (asked[start : start + _BATCH] for start in range(0, len(asked), _BATCH)):
        most = max(max(k, len(row["golden_chunk_ids"])) for row in batch)
        hits = retriever.search([row["question"] for row in batch], most).sort("query", "rank")
        found: list[dict[str, str]] = [{} for _ in batch]
        for query, chunk_id, text in hits.select("query", "chunk_id", "text").iter_rows():
            found[query][chunk_id] = text
        for row, results in zip(batch, found, strict=True):
            golden = row["golden_chunk_ids"]
            ranks = [_rank(texts[name], results) for name in golden if name in texts]
            worst = max((rank or most + 1 for rank in ranks), default=most + 1)
            row["scores"]["golden_rank"] = worst if worst <= max(k, len(golden)) else None
            if row["scores"]["golden_rank"] is None and row["question_id"] not in good:
                row["reason"] = ROUND_TRIP


def _rank(golden: Row, results: Mapping[str, str]) -> int | None:
    """Return the rank of the golden chunk, or of the first chunk that repeats it, among texts by chunk_id."""
    found = [*results]
    if golden["chunk_id"] in results:
        return found.index(golden["chunk_id"]) + 1
    return next((rank for rank, name in enumerate(found, 1) if holds_text(results[name], golden["text"])), None)


_DEBRIS = re.compile(
    r"""^\W*(?:sure|certainly|of\ course|okay|ok|great|absolutely)\b\s*[,!.:]
      | ^\W*here\ (?:is|are|'s)\b
      | \b(?:question|answer|passage|response|output)\s*\d*\s*:
      | ^\W*(?:q|a)\s*[:.)]\s
      | <\|\w+\|> | \[/?INST\] | </?s> | ``` | ^\s*[\[{] | "\s*:\s*["\[{\d] | [}\]]\s*$
      | \bas\ an?\ \w+\ (?:language\ )?model\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NUMBERED = re.compile(r"\W*q?\d+\s*[:.)]\s", re.IGNORECASE)
_CUT_SHORT = re.compile(r"(?:[,;:(/，；：、،؛（]|[a-z ][-–—])$")
_CUT = re.compile(rf"{_CUT_SHORT.pattern}|\b(?:the|an?|of|and|or|to|with|by|from|than|because)$")
_LABELLED = re.compile(
    r"\W*(?:frage|antwort|réponse|pregunta|respuesta|pergunta|resposta|domanda|risposta|vraag|antwoord|pytanie|odpowiedź"
    r"|вопрос|ответ|问题|問題|答案|質問|回答|질문|답변|(?:ال)?سؤال|प्रश्न|उत्तर)\s*\d*\s*[:：]",
    re.IGNORECASE,
)
_SEVERAL = re.compile(rf"[?？؟](?=\s|$|[{UNSPACED}])")
_ASKS = (
    r"(?:what|which|who|whom|whose|when|where|why|how)(?:['’](?:s|re|d|ll))?"
    r"|(?:is|are|was|were|am|do|does|did|can|could|may|might|must|should|shall|will|would|has|have|had)(?:n['’]t)?"
)
_QUESTION = re.compile(rf"\W*(?:{_ASKS}|can['’]t|cannot|won['’]t)\b", re.IGNORECASE)
_LED_IN = re.compile(
    r"\W*(?:in|on|at|by|for|from|to|under|with|within|until|till|after|before|since|during|about|above|over|through"
    r"|if|as|according|among|besides|between|into|against|of|per|once|unless|apart|upon|out|prior|other|because|due"
    r"|although|though|despite|while|whether|aside|along|outside|inside|given|regarding|instead|together|like|unlike)\b"
    rf".*\b(?:{_ASKS})\b",
    re.IGNORECASE | re.DOTALL,
)
_ASKED_LATE = re.compile(  # "Manning took how many teams there?", "Parcels over 2 kg: are they insured?"
    r"\b(?:what|whose|how (?:many|much|long|often|far|old|high|large))\b"
    r"|\b(?:in|on|at|to|from|by|for|of|with|under) (?:which|whom)\b"
    rf"|[:;–—]\s*(?:{_ASKS})\b",
    re.IGNORECASE,
)
_IMPERATIVE = re.compile(
    r"(?:list|describe|explain|outline|give|name|state|summari[sz]e|provide|walk|show)\b", re.IGNORECASE
)
_TEXT = (
    r"(?:passage|section|text|document|excerpt|paragraph|article|context|chapter|page|snippet|table|figure|sentence)s?"
)
_POINTS = re.compile(
    rf"""\b(?:the|this)\ (?:\w+\ )?(?:passage|excerpt|snippet|paragraph)s?\b
      | \bthe\ (?:text|context|author)\b
      | \b(?:this|these|that|those|above|given|provided|following|preceding|previous)\ (?:\w+\ )?{_TEXT}\b
      | \b(?:according\ to|based\ on|(?:mentioned|described|stated|listed|shown|discussed|given)\ (?:in|by))
        \ (?:the|this|that)\ {_TEXT}(?!\ (?:of|on|about|for)\b)
      | \b(?:mentioned|described|listed|shown|stated|given|noted|see|as|the)\ (?:above|below)\b
      | \b(?:above|below)-?mentioned\b | \b(?:above|below)\W*$
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CLOSING = "\"'”’)"
_AUXILIARY = r"(?:is|are|was|were|do|does|did|can|could|may|might|must|should|shall|will|would)"
_PRONOUN = re.compile(
    rf"""^\W*(?:\w+\W+){{0,6}}?(?:
        {_AUXILIARY}\ (?:this|that|these|those|its|his|her|their)
      | (?:{_AUXILIARY}|has|have|had)\ (?:he|she|they
          |it(?!\ (?:takes?|taken|possible|impossible|allowed|permitted|forbidden|prohibited|necessary|required
                 |mandatory|optional|enough|sufficient|safe|legal|illegal|okay|ok|true|advisable|recommended|appropriate
                 |important|useful|helpful|common|normal|usual|customary|likely|easy|hard|difficult|good|bad|best|better
                 |worth|time|mean|costs?|make\ sense
                 |(?:called|determined|decided|said|known|expected)\ (?:when|how|that|if|whether))\b)))\b
      | \b(?:this|these)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
DECIDED = re.compile(r"\W*(?:yes|no|maybe|it depends)\b", re.IGNORECASE)
_LETTER = re.compile(r"[^\W_]")
_STEP = re.compile(r"(?:^|(?<=\s))\d+[.)]\s")


class Candidate(NamedTuple):
    """A question with what it is judged by.

    `quotes`: whether there are any and all of them stand in the golden chunks; `source`: headings and texts of these;
    `language`: that of the question; `said`: an exact fact's question and answer, with the one quote that states it.
    """

    kind: str
    question: str
    answer: str
    quotes: bool
    source: str
    min_words: int
    max_words: int
    max_answer_words: int
    language: Language = EN
    said: figures.Said | None = None


def _aligned(quotes: list[dict[str, Any]], golden: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """Return the quotes as they stand verbatim in the golden chunks, or None when one stands in none of them."""
    aligned = [_align(quote, golden) for quote in quotes]
    found = [quote for quote in aligned if quote is not None]
    return found if len(found) == len(aligned) else None


def _align(quote: dict[str, Any], golden: Mapping[str, str]) -> dict[str, Any] | None:
    text, start, end = quote["text"] or "", quote["start"], quote["end"]
    own = golden.get(quote["chunk_id"])
    if text and own is not None and start is not None and own[start:end] == text:
        return quote
    for chunk_id in sorted(golden, key=lambda name: name != quote["chunk_id"]):
        span = find_quote(text, golden[chunk_id])
        if span:
            return {"chunk_id": chunk_id, "start": span[0], "end": span[1], "text": golden[chunk_id][slice(*span)]}
    return None


def _malformed(candidate: Candidate) -> bool:
    question, answer = candidate.question.strip(), candidate.answer.strip()
    if not traits(candidate.kind).answered and not (answer and is_no_answer(answer)):
        return True
    cut = _CUT if candidate.language is EN else _CUT_SHORT
    ends = [answer, *([] if question.endswith(candidate.language.marks) else [question])]
    if any(not normalise(text) or _loops(text) for text in (question, answer)) or any(map(cut.search, ends)):
        return True
    if candidate.language is not EN and any(map(_LABELLED.match, (question, answer))):
        return True
    if _DEBRIS.search(question) or _DEBRIS.match(answer) or _NUMBERED.match(question):
        return True
    return len(_SEVERAL.findall(question)) > 1


def _loops(text: str) -> bool:
    """Tell whether one to six words come three times in a row."""
    words = normalise(text).split()
    return any(
        words[at : at + size] == words[at + size : at + 2 * size] == words[at + 2 * size : at + 3 * size]
        for size in range(1, 7)
        for at in range(len(words) - 3 * size + 1)
    )


def _not_a_question(candidate: Candidate) -> bool:
    question, language = candidate.question.strip(), candidate.language
    if language is not EN:
        return not (question.rstrip(_CLOSING).endswith(language.marks) or language.asks(question))
    if traits(candidate.kind).steps and _IMPERATIVE.match(question):
        return False
    if not question.rstrip(_CLOSING).endswith(("?", "？")):
        return True
    return not (_QUESTION.match(question) or _LED_IN.match(question) or _ASKED_LATE.search(question))


def _leans_on_a_text(candidate: Candidate) -> bool:
    question = candidate.question
    if candidate.language is not EN:
        return candidate.language.leans(question)
    if _POINTS.search(question):
        return True
    named = names(question) or any(fact.kind in ("name", "code") for fact in facts(question))
    return not named and _PRONOUN.search(question) is not None


def _answer_absent(candidate: Candidate) -> bool:
    kind, answer, source = traits(candidate.kind), candidate.answer, candidate.source
    if not kind.answered:
        return False
    if not source:
        return True
    if kind.fixed and (DECIDED.match(answer) or candidate.language.decides(answer)):
        return False
    if not kind.support:
        return not covers(fact_values(source), fact_values(answer))
    plain = _STEP.sub(" ", answer) if kind.steps else answer
    return not supported(plain, source, share=kind.support, language=candidate.language)


def supported(answer: str, source: str, *, share: float, language: Language = EN) -> bool:
    """Tell whether an answer stands in a text: word for word, or with all its numbers, dates, codes and names.

    Then a share (0 to 1) of its words must stand there too; of up to four words all. In other languages than English,
    whose words have more endings, words are compared by their stems, and capitals make no names.
    """
    answer = answer.strip()
    # as it is: between markup, or in "6pm-6am", where its word goes on
    if contains(source, answer) or any(places(answer, source, _LETTER, _LETTER)):
        return True
    wanted, there = content_words(answer, language), content_words(source, language)
    named = names(answer.partition(" ")[2]) & wanted  # the first word is capitalised as any sentence's
    if language is not EN:
        wanted, there, named = frozenset(stems(wanted, language)), frozenset(stems(there, language)), frozenset()
    if not wanted or not covers(fact_values(source), fact_values(answer)) or not named <= there:
        return False
    return len(wanted & there) >= (1.0 if len(wanted) <= 4 else share) * len(wanted)


def _given_away(candidate: Candidate) -> bool:
    kind, question, answer = candidate.kind, candidate.question, candidate.answer
    if traits(kind).free:
        return False
    if contains(question, answer):
        return True
    if kind == "date" and fact_values(answer):
        given = frozenset(value for fact in facts(question) if fact.kind == "date" for value in fact_values(fact.text))
        return covers(given, fact_values(answer))
    words = content_words(answer, candidate.language)  # the 2 of "Quillon 2" does not give "2 years" away
    return kind != "number" and bool(words) and words <= content_words(question, candidate.language)


RULES: tuple[tuple[str, Callable[[Candidate], bool]], ...] = (
    ("malformed", _malformed),
    ("too short", lambda one: word_count(one.question) < min(one.min_words, one.language.shortest)),
    (
        "too long",
        lambda one: word_count(one.question) > one.max_words or word_count(one.answer) > one.max_answer_words,
    ),
    ("not a question", _not_a_question),
    ("does not stand alone", _leans_on_a_text),
    (ABSENT, _answer_absent),
    ("quote not verbatim", lambda one: traits(one.kind).answered and not one.quotes),
    ("gives the answer away", _given_away),
    ("wrong type of answer", lambda one: one.said is not None and figures.other_type(one.said)),
    ("bound of a condition", lambda one: one.said is not None and figures.of_a_condition(one.said)),
    ("asks for another figure", lambda one: one.said is not None and figures.another_figure(one.said)),
    ("not what the quote says", lambda one: one.said is not None and figures.unsaid(one.said)),
)
"""The first rule that applies gives the reason."""
