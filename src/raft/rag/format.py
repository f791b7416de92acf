"""The one way to render documents and question, and to parse answer, quotes and abstention.

Building, training, answering and measuring share this form. A reply that keeps it reads

    Answer: 30 days
    Quote [2]: "verbatim text"

with any number of quote lines, or, where the documents hold no answer, the line `Answer: ` + `ABSTENTION` alone. The
quotes may also stand before the answer (small models are wrong more often so), or be left out.

Three rules make it unambiguous. A quote takes one line: each run of white space in it becomes one space (it is still
found in its chunk by `raft.text.find_quote`), and its outermost quotation marks are the form's, all others its own.
The answer is everything behind the first line that begins with `Answer:`, so it may have lines of its own; but where
no quote stands before it, the quote lines that end the reply are quotes.

What others wrote never looks like the form's own marks: a line of a document, a question or an answer that begins as
one of them (`[2]`, `Question:`, `Answer:`, `Quote [1]:`) is shown with a backslash before it, and control tokens of
models are spelled as text. Replies are read back without either; all other text is shown as it is.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raft.prompts import Prompt, Where
from raft.protocols import Message
from raft.text import as_text, as_written, normalise
from raft.text.languages import EN, LANGUAGES, Language, of_text

PROMPTS: Mapping[Where, str] = {"last": "answer", "first": "answer_quotes_first", "none": "answer_alone"}
"""Names of the prompts that ask for them there."""

ABSTENTION = EN.abstention
"""What is said, in English, where the documents hold no answer; `abstention` says it in a question's language."""

_HEAD = re.compile(r"^(?:\*\*)?(?:(Answer)|Quote[ \t]*(?:\[?(\d{1,6})\]?)?)[ \t]*:(?:\*\*)?", re.MULTILINE)
_LAST = re.compile(r"(?:\n(?:\*\*)?Quote[ \t]*(?:\[?\d{1,6}\]?)?[ \t]*:[^\n]*)+\Z")
_MAY_BEGIN = re.compile(
    r"\*{0,2}(?:A(?:n(?:s(?:w(?:e(?:r[ \t]*)?)?)?)?)?|Q(?:u(?:o(?:t(?:e[ \t]*(?:\[?\d{0,6}\]?[ \t]*)?)?)?)?)?)?"
)
_QUOTE_LINE = re.compile(r"(?:\*\*)?Quote[ \t]*(?:\[?\d{1,6}\]?)?[ \t]*:.*", re.DOTALL)
_LINE_END = r"\n\r\v\f\x85\u2028\u2029"
_MAY_BE_MARKED = re.compile(rf"[{_LINE_END}][ \t\xa0]*(?:\*\*)?\\[^{_LINE_END}]*\Z")
_MAY_BE_SPELLED = re.compile(
    r"[<\[](?:_+[^\n]{0,64})?\Z"
)  # a control token, as `as_text` spells it, or the beginning of one
_NUMBER = r"[ \t]*\[?\d{1,6}\]?"
_MARK = rf"\\*(?=\[\d{{1,6}}\]|(?:Question|Answer|Quote|(?:Quote|Document){_NUMBER})[ \t]*(?:\*\*)?[:：])"
_MARKED = re.compile(rf"(?<=[\n\r\v\f\x85\u2028\u2029])([ \t\xa0]*(?:\*\*)?)({_MARK})", re.IGNORECASE)
_ESCAPED = re.compile(rf"(?<!\\)\\({_MARK})", re.IGNORECASE)
_TELLING = 400  # characters of a text that tell its language
_PAIRS = (('"', '"'), ("“", "”"), ("'", "'"))
_SOURCE = r"""(?:the\ |these\ |those\ |this\ |any\ of\ the\ |your\ )?(?:\w+\ )?
    (?:documents?|context|passages?|texts?|excerpts?|sources?)"""
_NOT = r"(?:not|n[’']t|never)"
_REST = r"(?:(?!\b(?:but|however|although|though|except|unless|only)\b)[^,;:])*"  # what is not told, and nothing beside
_ABOUT = r"(?:\ (?:about|on|of|for|regarding|concerning)\ (?:(?!\b(?:is|are|was|were)\b)[^,;:])*?)?"
_THERE = rf"(?:\ (?:given|provided|available|found|stated|mentioned))?(?:\ (?:in|by|from)\ {_SOURCE})?"
_ABSTAINS = re.compile(
    rf"""(?:(?:i\ am\ |i[’']m\ )?sorry\W+(?:but\ )?)?(?:unfortunately\W+)?
    (?:(?:based\ on|according\ to|in)\ {_SOURCE}[^,.]{{0,20}},\ )?(?:
        (?:none\ of\ )?{_SOURCE}(?:\ \w+)?\ (?:do|does|did)\ ?{_NOT}\ (?:\w+ly\ )?(?:
            (?:answer|mention|specify|state|say|tell|address|discuss|indicate)\b{_REST}
          | cover\ (?:this|that|it|(?:this|the)\ (?:question|topic|subject))
          | (?:contain|provide|include|give|have|offer)\ (?:\w+\ ){{0,3}}
            (?:information|answers?|details?|data|mention)\b{_REST})
      | i\ (?:do\ ?{_NOT}|ca(?:n\ ?)?{_NOT})\ (?:know|answer|find|tell|determine|say)\b{_REST}
      | (?:(?:it|this|that|(?:the|this)\ (?:answer|information|question))\ )?(?:(?:is|was|are)\ ?)?
        {_NOT}\ (?:\w+ly\ )?(?:
            (?:mentioned|stated|specified|given|found|provided|answered|available|included|covered|discussed)
            \ (?:in|by|from)\ {_SOURCE}(?:\ (?:given|provided|above))?
          | (?:mentioned|stated|specified|given|answered))
      | (?:(?:it|this|that|(?:the|this)\ (?:answer|question))\ )?can\ ?not\ be\ (?:answered|determined|found)
        (?:\ (?:from|by|in|with|using|based\ on|given)\ {_SOURCE}(?:\ (?:given|provided|above))?)?
      | there\ is\ (?:no|{_NOT}\ (?:any|enough))\ (?:information|mention|answer|details?)
        (?:\ (?:about|on|of|for|regarding|to\ (?:answer|determine|tell|say))\b{_REST}|{_THERE})
      | (?:no|insufficient|{_NOT}\ enough)\ (?:information|answer|details?)
        (?:\ to\ (?:answer|determine|tell|say)\b{_REST}|{_ABOUT}(?:\ is)?{_THERE}{_ABOUT})
      | (?:unanswerable|unknown|no\ answer|n/a)
    )\W*""",
    re.IGNORECASE | re.VERBOSE,
)
_EXPLAINS = re.compile(rf"(?:they|it|{_SOURCE})\ (?:only|merely|just)\b", re.IGNORECASE | re.VERBOSE)
_SENTENCE_END = re.compile(r"[.!?]+(?:\s+|$)|\n+")


_ABSTENTIONS = frozenset(normalise(row.abstention) for row in LANGUAGES.values()) | {""}
_REFUSALS = frozenset(normalise(said) for row in LANGUAGES.values() for said in row.refusals.split("|")) | _ABSTENTIONS


@dataclass(frozen=True)
class Shown:
    """A document as a prompt shows it: `title` is the line above its `text`."""

    chunk_id: str
    title: str
    text: str


@dataclass(frozen=True)
class Parsed:
    """What a reply says, and whether it kept the form (`followed`) and says that the documents hold no answer.

    `answer` is without its quotes, or the whole reply, stripped, when it did not keep the form; `quotes` has the number
    of the document (from 1; None when the reply names none) and the text of each, in order.
    """

    answer: str
    quotes: tuple[tuple[int | None, str], ...]
    abstained: bool
    followed: bool


def title_line(title: str | None, heading: str | None) -> str:
    """Return the line above a document's text: "Title > Heading", and the title once where the heading begins so."""
    title, heading = (title or "").strip(), (heading or "").strip()
    if not title or not heading or heading == title or heading.startswith(f"{title} > "):
        return heading or title
    return f"{title} > {heading}"


def render_documents(shown: Iterable[Shown]) -> str:
    """Return the documents numbered from 1, each with its title above its text, separated by blank lines."""
    return "\n\n".join(
        f"[{number}] {' '.join(document.title.split())}".rstrip() + _told(f"\n{document.text.strip()}")
        for number, document in enumerate(shown, 1)
    )


def render_prompt(prompt: Prompt, *, question: str, shown: Iterable[Shown], style: str) -> tuple[Message, ...]:
    """Return the turns that ask `question` of the documents, numbered in their order.

    The prompt is `prompts/answer.md`, or another with the placeholders $documents, $question and $style. Where the
    question is not in English, the style names its language, and the prompt asks for the abstention in it.

    Raises:
        UsageError: the prompt has another placeholder.
    """
    shown = list(shown)
    language = spoken(question, (document.text for document in shown))
    if language is not EN:
        own = abstention(language)
        prompt = replace(prompt, turns=tuple((role, text.replace(ABSTENTION, own)) for role, text in prompt.turns))
        style = "\n".join(filter(None, [style, f"Answer in {language.name}."]))
    return prompt.render(documents=render_documents(shown), question=_told(question.strip()), style=style)


def spoken(question: str, texts: Iterable[str]) -> Language:
    """Return the language of a question: what it tells itself, or else that of the texts shown with it."""
    return of_text(question, of_text("\n".join(text[:_TELLING] for text in texts)).code)


def abstention(language: Language) -> str:
    """Return what is said in a language where the documents hold no answer; in English where that is not known."""
    return language.abstention or ABSTENTION


def render_style(*, tone: str | None, format: str | Mapping[str, Any] | None, examples: Sequence[Any]) -> str:
    """Return the wanted style (the fields of `settings.AnswerStyle`) as text for a prompt; empty without any."""
    lines = [f"Tone of the answer: {tone.strip()}"] if tone else []
    if isinstance(format, str):
        lines.append(f"Form of the answer: {format.strip()}")
    elif format is not None:
        lines.append(f"Form of the answer: JSON by this schema: {json.dumps(format, ensure_ascii=False)}")
    if examples:
        lines.append("Answers in this style:")
        lines += [f"Question: {example['question']}\nAnswer: {example['answer']}" for example in examples]
    return "\n".join(lines)


def render_target(answer: str, quotes: Iterable[tuple[int, str]], where: Where = "last") -> str:
    """Return the reply that a model is to learn: the answer, and its quotes, each with its document's number.

    `parse` reads back the same answer (stripped) and the same quotes (white space collapsed, empty ones left out).
    Documents are numbered from 1; the quotes stand before the answer ("first"), behind it ("last") or nowhere ("none").
    """
    lines = [f'Quote [{n}]: "{as_text(text)}"' for n, text in ((n, " ".join(t.split())) for n, t in quotes) if text]
    said = [_told(f"Answer: {as_text(answer.strip())}").rstrip()]
    return "\n".join({"first": [*lines, *said], "last": [*said, *lines], "none": said}[where])


def _told(text: str) -> str:
    """Return text whose lines, but for the first, are told apart from the form's own."""
    return _MARKED.sub(r"\1\\\2", text)


def shown_text(text: str) -> str:
    """Return a text as a prompt shows it in a document."""
    return as_text(_told(f"\n{text}")[1:])


def unmarked(text: str) -> str:
    """Return a text as it was before its lines were told apart from the form's own, wherever in it those stand now."""
    return _ESCAPED.sub(r"\1", text)


def parse(reply: str) -> Parsed:
    """Read a reply; never fails.

    The form is kept when the reply begins with a quote or the answer, and has an answer. Unnumbered quotes, bold
    labels and typographic quotation marks are understood too.
    """
    whole = as_written(reply.strip())
    quotes: list[tuple[int | None, str]] = []
    heads = list(_HEAD.finditer(whole)) if _HEAD.match(whole) else []
    ends = [*(head.start() for head in heads[1:]), len(whole)]
    for head, end in zip(heads, ends, strict=False):
        if head.group(1):
            rest = whole[head.end() :]
            last = None if quotes else _LAST.search(rest)
            answer = _MARKED.sub(lambda line: line[1] + line[2][1:], (rest[: last.start()] if last else rest).strip())
            if answer:
                quotes += _quotes(last.group()) if last else []
                return Parsed(answer, tuple(quotes), is_abstention(answer), followed=True)
            break
        quotes += _quote(head, whole[head.end() : end])
    return Parsed(whole, (), is_abstention(whole), followed=False)


def settled(reply: str) -> str:
    """Return what is settled of a reply's answer while the reply is written: it can be read, and is not taken back.

    However the reply goes on, the answer that `parse` finds in the whole of it begins with this. The form's own marks
    are no part of it, nor is what may become one.
    """
    text = _before(_MAY_BE_SPELLED, reply.lstrip())
    if _MAY_BEGIN.fullmatch(text):
        return ""
    if not _HEAD.match(text):  # it does not keep to the form, and all of it is the answer
        return as_written(text.rstrip())
    head = next((one for one in _HEAD.finditer(text) if one.group(1)), None)
    if head is None or text[head.end() :] == "*":
        return ""
    lines = text[head.end() :].rstrip().split("\n")
    while len(lines) > 1 and (_QUOTE_LINE.fullmatch(lines[-1]) or _MAY_BEGIN.fullmatch(lines[-1])):
        lines.pop()
    said = _before(_MAY_BE_MARKED, "\n".join(lines)).strip()
    return as_written(_MARKED.sub(lambda line: line[1] + line[2][1:], said))


def _before(mark: re.Pattern[str], text: str) -> str:
    found = mark.search(text)
    return text[: found.start()] if found else text


def up_to_answer(reply: str) -> str:
    """Return what stands before the answer of a reply that kept the form: its quotes, if there, and the word Answer."""
    head = _HEAD.match(reply.strip())
    quotes = () if head and head.group(1) else parse(reply).quotes
    spelled = [(number, as_text(text)) for number, text in quotes]
    lines = [f'Quote [{number}]: "{text}"' if number else f'Quote: "{text}"' for number, text in spelled]
    return "\n".join([*lines, "Answer:"])


def _quotes(lines: str) -> list[tuple[int | None, str]]:
    heads = [(_HEAD.match(line), line) for line in lines.strip().splitlines()]
    return [quote for head, line in heads if head for quote in _quote(head, line[head.end() :])]


def _quote(head: re.Match[str], text: str) -> list[tuple[int | None, str]]:
    text = _unquoted(" ".join(text.split()))
    return [(int(head.group(2)) if head.group(2) else None, text)] if text else []


def is_abstention(answer: str) -> bool:
    """Tell whether a reply says nothing but that there is no answer: an abstention, or one of its common wordings.

    The whole reply must say so; what the documents deal with instead may follow ("They only mention ..."). In other
    languages than English, the table of languages has all that is known.
    """
    if normalise(answer) in _REFUSALS - {""}:
        return True
    first, *others = [
        part.strip(" \t*_\"“”'") for part in _SENTENCE_END.split(answer) if any(map(str.isalnum, part))
    ] or [""]
    rest = (_ABSTAINS.fullmatch(part) or _EXPLAINS.match(part) for part in others)
    return _ABSTAINS.fullmatch(first) is not None and all(rest)


def is_no_answer(reference: str) -> bool:
    """Tell whether a reference says that the documents hold no answer: it is empty, or the abstention of a language.

    Other wordings are answers: "No information is stored about visitors" is what a corpus may well say.
    """
    return normalise(reference) in _ABSTENTIONS


def _unquoted(text: str) -> str:
    for opening, closing in _PAIRS:
        if len(text) >= 2 and text.startswith(opening) and text.endswith(closing):
            return text[1:-1].strip()
    return text
