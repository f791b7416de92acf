"""What an answer says to a person who wants to check it, or who got none."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from raft.errors import typed
from raft.rag.grounding import Answer, ceiled, floored
from raft.text import normalise, overlap, sentences, shortened

_LONG = 200  # characters of a passage that a refusal shows
_LACKS = "not all of its figures and quotes stand in what it rests on, beside words of the question"


def answer(
    said: Answer, *, run: Path, options: Mapping[str, object] | None = None, context: bool = False, heard: bool = False
) -> str:
    """Return an answer as text that a person can check, with `context` also the passages that the model was given.

    Where there is none, what was found is shown, and the next command; `run` is the run directory as it was typed,
    and so are the `options`, by name; those that are None were not.
    With `heard` the reply itself was shown already, while it was written.
    """
    lines = [] if heard and not said.error else [f"There is no answer: {said.error}" if said.error else said.text]
    lines += [f"  {citation.place}\n    “{' '.join(citation.text.split())}”" for citation in said.citations]
    lines += [f"  ! {doubt}" for doubt in _doubts(said)]
    if context:
        for number, passage in enumerate(said.passages, 1):
            lines += ["", f"  [{number}] {passage.place}: {passage.title}"]
            lines += [f"    {line}" for line in passage.text.splitlines()]
    elif said.abstained and said.passages:
        lines += ["", "  nearest in the documents:"]
        lines += [f"  {one.place}: {one.title}\n    “{_excerpt(said.question, one.text)}”" for one in said.passages]
    return "\n".join([*lines, *(_next(said, run, options or {}, context) if said.abstained else ())])


def _excerpt(question: str, text: str) -> str:
    """Return the sentence that has most of the question's words, the first one where several do."""
    said = [" ".join(text[start:end].split()) for start, end in sentences(text)]
    best = max(
        (one for one in said if one[0] != "#" and " " in one), key=lambda one: overlap(question, one), default=text
    )
    return shortened(best, _LONG)


def _next(said: Answer, run: Path, options: Mapping[str, object], context: bool) -> Iterator[str]:
    again = dict(options)
    if said.relevance is not None:  # a head's score is no figure of the rule that the option sets
        again["min_relevance"] = "0" if said.promised is not None else f"{floored(said.relevance, 20):g}"
    given = [f"--{name.replace('_', '-')} {typed(value)}" for name, value in again.items() if value is not None]
    if said.relevance is None:
        given.append("--show-context")
    question = shlex.quote(said.question)
    parts = [*given, "--", question] if question.startswith(("-", "'-")) else [question, *given]
    asked = " ".join(["raft ask", typed(run), *parts])
    if said.relevance is not None:
        yield f"\n  next:  {asked}   # have the model try all the same"
    elif said.passages and not context:
        yield f"\n  next:  {asked}   # read all that was found"


def _doubts(said: Answer) -> Iterator[str]:
    if said.error:
        return
    if said.refused:
        yield f"an answer was withheld: {_LACKS}"
    elif not said.passages:
        yield "nothing was found for this question; no model was asked"
    elif said.relevance is not None and said.promised is not None:
        yield (
            f"what was found seems not to hold the answer: {floored(said.relevance):.2f} of 1, and under "
            f"{said.min_relevance:.2f} no model is asked, so that of the questions that the documents don't answer at "
            f"most {ceiled(said.promised)} are (answering.false_answers)"
        )
    elif said.relevance is not None:
        yield (
            f"what was found is too little about the question: {floored(said.relevance):.2f} of 1, and under "
            f"{said.min_relevance:g} (answering.min_relevance) no model is asked"
        )
    elif not said.raw:
        yield "what was found is too little about the question (answering.min_relevance); no model was asked"
    elif said.abstained:
        looked = ", ".join(dict.fromkeys(passage.document for passage in said.passages))
        yield f"nothing that was found answers it; the model was shown {looked}"
    if said.supported is False:
        yield f"not supported: {_LACKS if normalise(said.text) else 'it says nothing'}"
    elif said.supported and not said.citations:
        yield "no quote shows it: its figures stand in what was found"
    elif said.supported is None and said.passages and not said.abstained:
        yield "not checked: neither a quote nor a figure ties it to words of the question"
    lost = said.quotes_given - len(said.citations)
    if lost:
        yield f"{lost} of {said.quotes_given} quotes stand in no document that was found"
    elif said.quotes_verbatim is False:
        yield "a quote names the wrong document; the one named here has it"
