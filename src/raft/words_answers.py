"""What an answer says to a person: its text, what it cites, and what is to be doubted."""

from collections.abc import Iterator

from raft.answers import Answer, Citation


def answer(said: Answer, *, context: bool = False, heard: bool = False) -> str:
    """Return an answer as text that a person can check.

    Args:
        said: the answer.
        context: also show the passages that the model was given.
        heard: the reply itself was shown already, while it was written.
    """
    lines = [] if heard and not said.error else [_text(said)]
    lines += [f"  {_place(citation)}\n    “{_flat(citation.text)}”" for citation in said.citations]
    lines += [f"  ! {doubt}" for doubt in _doubts(said)]
    if context:
        for number, passage in enumerate(said.passages, 1):
            place = passage.document + (f", page {passage.page}" if passage.page else "")
            lines += [
                "",
                f"  [{number}] {place}: {passage.title}",
                *(f"    {line}" for line in passage.text.splitlines()),
            ]
    return "\n".join(lines)


def _text(said: Answer) -> str:
    return f"There is no answer: {said.error}" if said.error else said.text


def _place(citation: Citation) -> str:
    return citation.document + (f", page {citation.page}" if citation.page else "")


def _doubts(said: Answer) -> Iterator[str]:
    if said.error:
        return
    if said.refused:
        yield "an answer was withheld: what it stated stands in none of the documents that were found"
    elif not said.passages:
        yield "nothing was found for this question; no model was asked"
    elif not said.raw:
        yield "what was found is too little about the question (answering.min_relevance); no model was asked"
    elif said.abstained:
        looked = ", ".join(dict.fromkeys(passage.document for passage in said.passages))
        yield f"nothing that was found answers it; the model was shown {looked}"
    if said.supported is False:
        yield "not supported: what it states does not stand in the documents that were found"
    lost = said.quotes_given - len(said.citations)
    if lost:
        yield f"{lost} of {said.quotes_given} quotes stand in no document that was found"
    elif said.quotes_verbatim is False:
        yield "a quote names the wrong document; the one named here has it"


def _flat(text: str) -> str:
    return " ".join(text.split())
