"""Which questions are asked of which chunks: an even budget for what a survey found.

The chunks are read twice, to survey them and to ask; between the two only counts, digests and partners are held.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import polars as pl

from raft.generation.by_rule import rule_ask, rule_targets
from raft.generation.facts import Opening, StatedFact, digest, statements, targets
from raft.generation.items import items_ask
from raft.generation.tasks import Task, answer_first_ask, comparison_ask, section, stems, unanswerable_ask
from raft.kinds import KINDS
from raft.prompts import Prompt
from raft.text.languages import EN, Language
from raft.text.languages import known as row_of

Chunk = dict[str, Any]
_Options = list[tuple[Chunk, list[StatedFact]]]
COLUMNS = ("chunk_id", "doc_id", "heading", "text", "tokens", "boilerplate")
"""What a survey reads of chunks."""
COMPARED = tuple(kind for kind, its in KINDS.items() if its.compared)
_NOTICE = 3
"""A statement that so many documents make word for word is a notice, not knowledge of one of them."""


@dataclass
class Survey:
    """What is known of the whole corpus before the first question; what `needed` does not name is empty.

    Attributes:
        sizes: tokens of content by doc_id, of the documents that are asked about.
        chunks: how many have content.
        alike: patterns of statements that several documents make with other facts.
        notices: digests of statements that several documents make word for word.
        pairs: by (chunk_id, start, answer) of a target, the chunk and target of another document to compare it with.
        vocabulary: stems of all words.
        languages: code of each document that is not in English.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    chunks: int = 0
    alike: frozenset[str] = frozenset()
    notices: frozenset[str] = frozenset()
    pairs: dict[tuple[str, int, str], tuple[Chunk, StatedFact]] = field(default_factory=dict)
    vocabulary: set[str] = field(default_factory=set)
    languages: Mapping[str, str] = field(default_factory=dict)

    def language(self, doc_id: str) -> Language:
        """Return the language of a document."""
        return row_of(self.languages.get(doc_id, "en"))

    @cached_property
    def paired(self) -> frozenset[str]:
        """Return the chunk_ids of the targets in `pairs`."""
        return frozenset(chunk_id for chunk_id, _, _ in self.pairs)


def needed(strategy: str, kinds: Sequence[str]) -> frozenset[str]:
    """Return what of a survey, beside the sizes, is looked at when questions of these kinds are asked."""
    if strategy == "spans":
        return frozenset({"notices"})
    if strategy == "rules":
        return frozenset({"notices", "alike"})
    if strategy in ("answer_first", "rules_first"):
        return frozenset({"notices", "alike"}).union(*(KINDS[kind].needs for kind in kinds))
    return frozenset().union(*(KINDS[kind].needs for kind in kinds if not KINDS[kind].meaning))


def askable(strategy: str, kinds: Sequence[str], language: Language) -> list[str]:
    """Return those kinds whose rules are known for a language: openings, what is denied, yes and no, the abstention."""
    kinds = [kind for kind in kinds if strategy == "items" or not KINDS[kind].sentences]
    if language is EN:
        return [kind for kind in kinds if strategy != "rules" or KINDS[kind].exact]
    lacking = {"comparison", *(["decision"] if strategy == "spans" or not language.decided else [])}
    lacking |= set() if language.abstention else {"unanswerable"}
    return (
        [] if strategy in ("answer_first", "rules", "rules_first") else [kind for kind in kinds if kind not in lacking]
    )


_ENGLISH_ALONE = re.compile(r"all-MiniLM|all-mpnet|-en\b|english", re.IGNORECASE)
"""Names of embedders that know no other language."""


def left_out(strategy: str, kinds: Sequence[str], known: Survey, embedder: str = "") -> list[str]:
    """Return a sentence for each language in which some kinds are not asked, and one where the embedder knows none."""
    counts = Counter(known.language(doc) for doc in known.sizes)
    lines = []
    for language, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0].code)):
        asked = askable(strategy, kinds, language)
        if gone := [kind for kind in kinds if kind not in asked]:
            what = f"no {' or '.join(gone)}" if asked else "nothing"
            why = "for want of rules"
            why += "" if asked else "; a capable model needs none: --pipeline multilingual, local or hosted"
            if language is EN:
                why = f"for rules make those for {', '.join(kind for kind, its in KINDS.items() if its.exact)} alone"
                why += "; a model is asked for others: --set questions.way=auto"
            spoken = language.name if language.words else f"a language that is not in the table ({language.code})"
            lines.append(
                f"{count:,} document{'s are' if count > 1 else ' is'} in {spoken}: {what} is asked of"
                f" {'them' if count > 1 else 'it'}, {why}"
            )
    if known.languages and _ENGLISH_ALONE.search(embedder):
        name, others = embedder.rpartition("/")[2], len(known.languages)
        lines.append(
            f"search by meaning: {name} knows English alone, and {others:,} document{'s are' if others > 1 else ' is'}"
            " in other languages; --pipeline multilingual names an embedder that knows them"
        )
    return lines


def survey(
    frames: Iterable[pl.DataFrame],
    prefixes: Sequence[Opening],
    needs: Set[str],
    languages: Mapping[str, str] | None = None,
) -> Survey:
    """Return what is `needed` of all chunks: frames with `COLUMNS`, of the documents that are asked about."""
    found = Survey(languages=languages or {})
    by_pattern: dict[str, set[str]] = {}
    by_wording: dict[str, set[str]] = {}
    first: dict[tuple[str, str], tuple[Chunk, StatedFact]] = {}
    for doc, rows in documents(frames):
        found.sizes[doc] = sum(row["tokens"] for row in rows)
        found.chunks += len(rows)
        for row in rows:
            if "vocabulary" in needs:
                found.vocabulary |= stems(row["text"])
            stated = list(statements(row["text"])) if needs & {"alike", "notices", "pairs"} else []
            for statement in stated if "notices" in needs else []:
                by_wording.setdefault(digest(statement.wording), set()).add(doc)
            compared = needs & {"alike", "pairs"} and doc not in found.languages  # openings are English
            for target in targets(row["text"], prefixes, COMPARED, stated=stated) if compared else []:
                if "alike" in needs:
                    by_pattern.setdefault(target.pattern, set()).add(doc)
                if "pairs" in needs:
                    partner = first.setdefault((target.pattern, target.opening), (row, target))
                    if partner[0]["doc_id"] != doc and partner[1].answer != target.answer:
                        found.pairs.setdefault((row["chunk_id"], target.start, target.answer), partner)
    found.alike = frozenset(pattern for pattern, where in by_pattern.items() if len(where) > 1)
    found.notices = frozenset(wording for wording, where in by_wording.items() if len(where) >= _NOTICE)
    return found


def documents(frames: Iterable[pl.DataFrame]) -> Iterator[tuple[str, list[Chunk]]]:
    """Yield each document's chunks that are no boilerplate."""
    rows = (row for frame in frames for row in frame.filter(~pl.col("boilerplate")).iter_rows(named=True))
    for doc, group in groupby(rows, key=lambda row: row["doc_id"]):
        yield doc, list(group)


def is_notice(wording: str, known: Survey) -> bool:
    """Tell whether several documents make a statement word for word, so that it is no knowledge of one of them."""
    return digest(wording) in known.notices


def to_json(known: Survey) -> str:
    """Return a survey as JSON, the same for equal surveys; the partner of many pairs is written once."""
    places: dict[tuple[str, StatedFact], int] = {}
    compared: dict[str, Chunk] = {}
    pairs = []
    for key, (chunk, target) in sorted(known.pairs.items(), key=lambda pair: pair[0]):
        compared[chunk["chunk_id"]] = chunk
        pairs.append([*key, places.setdefault((chunk["chunk_id"], target), len(places))])
    whole = {
        "sizes": known.sizes,
        "chunks": known.chunks,
        "alike": sorted(known.alike),
        "notices": sorted(known.notices),
        "vocabulary": sorted(known.vocabulary),
        "compared": compared,
        "partners": [[chunk_id, vars(target)] for chunk_id, target in places],
        "pairs": pairs,
        **({"languages": known.languages} if known.languages else {}),
    }
    return json.dumps(whole, ensure_ascii=False, sort_keys=True) + "\n"


def from_json(text: str | bytes) -> Survey:
    """Return the survey that `to_json` wrote."""
    whole = json.loads(text)
    partners = [(whole["compared"][name], StatedFact(**target)) for name, target in whole["partners"]]
    return Survey(
        sizes=whole["sizes"],
        chunks=whole["chunks"],
        alike=frozenset(whole["alike"]),
        notices=frozenset(whole["notices"]),
        pairs={(chunk_id, start, answer): partners[place] for chunk_id, start, answer, place in whole["pairs"]},
        vocabulary=set(whole["vocabulary"]),
        languages=whole.get("languages", {}),
    )


_SPECIAL_SHARE = 0.1
"""Share of a document's budget for comparisons, and as much for unanswerable questions, where they are on."""


@dataclass(frozen=True)
class Prompts:
    """The prompts that questions are asked with, by the strategy or kind they serve."""

    answer_first: Prompt
    items: Prompt
    comparison: Prompt
    unanswerable: Prompt
    span: Prompt
    decision: Prompt
    prefixes: tuple[Opening, ...]
    language: Prompt | None = None
    like: str = ""
    others: Prompt | None = None


def budgets(sizes: Mapping[str, int], chunks: int, *, per_chunk: float, limit: int | None) -> dict[str, int]:
    """Return how many questions each document gets: in proportion to its tokens of content, largest remainders first.

    In all they are `per_chunk` for each of the `chunks`, at most `limit`.
    """
    total = sum(sizes.values())
    wanted = max(1, round(per_chunk * chunks)) if chunks else 0
    wanted = min(wanted, limit) if limit is not None else wanted
    if not total:
        return dict.fromkeys(sizes, 0)
    exact = {doc: wanted * size / total for doc, size in sizes.items()}
    given = {doc: math.floor(share) for doc, share in exact.items()}
    rest = sorted(exact, key=lambda doc: (given[doc] - exact[doc], digest(doc)))
    for doc in rest[: wanted - sum(given.values())]:
        given[doc] += 1
    return given


def plan_facts(
    frames: Iterable[pl.DataFrame],
    known: Survey,
    given: Mapping[str, int],
    prompts: Prompts,
    kinds: Sequence[str],
    *,
    strategy: str = "answer_first",
) -> Iterator[Task]:
    """Yield what to ask a small model: one question for each chosen fact.

    With "rules" no model is asked, with "rules_first" for what rules make no question of.
    """
    shares = Shares([] if strategy == "rules" else kinds)
    for doc, rows in documents(frames):
        left = given.get(doc, 0)
        left -= yield from _comparisons(rows, known, prompts, shares, left)
        left -= yield from _unanswerable(rows, known, prompts, shares, left)
        for row, target in _rules_first(_options(rows, known, prompts, kinds, strategy), left):
            named = target.pattern in known.alike
            if target.opening.endswith("?"):
                yield rule_ask(row, target, section(row), name_document=named)
                continue
            yield answer_first_ask(prompts.answer_first, row, target, section(row), name_document=named)


def plan_items(
    frames: Iterable[pl.DataFrame], known: Survey, given: Mapping[str, int], prompts: Prompts, kinds: Sequence[str]
) -> Iterator[Task]:
    """Yield what to ask a capable model: several questions with answers and quotes, a chunk."""
    shares = Shares(kinds)
    for doc, rows in documents(frames):
        left, language = given.get(doc, 0), known.language(doc)
        single = [kind for kind in askable("items", kinds, language) if KINDS[kind].meaning]
        left -= yield from _comparisons(rows, known, prompts, shares, left)
        weights = {str(position): row["tokens"] for position, row in enumerate(rows)}
        parts = budgets(weights, len(rows), per_chunk=left / len(rows), limit=None) if left and single else {}
        for position, row in enumerate(rows):
            if parts.get(str(position)):
                count = parts[str(position)]
                ask = partial(items_ask, language=language, wording=prompts.language, like=prompts.like)
                yield ask(prompts.items, row, count, single)


def spread_out(options: _Options, count: int) -> Iterator[tuple[Chunk, StatedFact]]:
    """Yield `count` targets: the best of each chunk first, then the second of each; what is left over evenly spaced."""
    chosen: list[tuple[int, int]] = []
    for depth in range(max((len(found) for _, found in options), default=0)):
        deep = [position for position, (_, found) in enumerate(options) if depth < len(found)]
        room = min(count - len(chosen), len(deep))
        chosen += [(deep[step * len(deep) // room], depth) for step in range(room)]
    for position, depth in sorted(chosen):
        yield options[position][0], options[position][1][depth]


def _rules_first(options: _Options, count: int) -> list[tuple[Chunk, StatedFact]]:
    """Return `count` targets, spread over the chunks: those of which rules have made a question before all others."""
    parts: list[_Options] = [
        [(row, [target for target in of if target.opening.endswith("?") == made]) for row, of in options]
        for made in (True, False)
    ]
    chosen = [*spread_out(parts[0], count)]
    chosen += spread_out(parts[1], count - len(chosen))
    places = {row["chunk_id"]: place for place, (row, _) in enumerate(options)}
    return sorted(chosen, key=lambda pair: places[pair[0]["chunk_id"]])


class Shares:
    """Grants comparisons and unanswerable questions their share of the budget; fractions are carried on."""

    def __init__(self, kinds: Sequence[str]) -> None:
        special = [kind for kind, its in KINDS.items() if its.special and kind in kinds]
        self._part = _SPECIAL_SHARE if len(special) < len(kinds) else 1 / max(1, len(special))
        self._carried = dict.fromkeys(special, 1.0 - self._part)

    def take(self, kind: str, budget: int, available: int) -> int:
        """Return how many of a document's `budget` are of this kind, where `available` can be had."""
        if kind not in self._carried:
            return 0
        self._carried[kind] += self._part * budget
        taken = min(budget, available, math.floor(self._carried[kind] + 1e-9))
        self._carried[kind] -= taken
        return taken


def _comparisons(
    rows: Sequence[Chunk], known: Survey, prompts: Prompts, shares: Shares, budget: int
) -> Generator[Task, None, int]:
    found = _options([row for row in rows if row["chunk_id"] in known.paired], known, prompts, COMPARED)
    options = [(row, [t for t in own if (row["chunk_id"], t.start, t.answer) in known.pairs]) for row, own in found]
    count = shares.take("comparison", budget, sum(len(found) for _, found in options))
    for row, target in spread_out(options, count):
        partner = known.pairs[row["chunk_id"], target.start, target.answer]
        yield comparison_ask(prompts.comparison, row, target, *partner)
    return count


def _unanswerable(
    rows: Sequence[Chunk], known: Survey, prompts: Prompts, shares: Shares, budget: int
) -> Generator[Task, None, int]:
    options = _options(rows if known.vocabulary else [], known, prompts, COMPARED)
    count = shares.take("unanswerable", budget, sum(len(found) for _, found in options))
    for row, target in spread_out(options, count):
        yield unanswerable_ask(prompts.unanswerable, row, target, known.vocabulary)
    return count


def _options(
    rows: Sequence[Chunk], known: Survey, prompts: Prompts, kinds: Sequence[str], strategy: str = "answer_first"
) -> _Options:
    """Return each chunk with its targets that are no notices, first those of which rules have made a question."""
    found = []
    for row in rows:
        stated = list(statements(row["text"]))
        ruled = strategy != "answer_first"
        made = rule_targets(row["text"], kinds, stated=stated, heading=section(row)) if ruled else []
        done = {target.start for target in made}
        others = targets(row["text"], prompts.prefixes, kinds, stated=stated) if strategy != "rules" else []
        found.append((row, [*made, *(target for target in others if target.start not in done)]))
    return [(row, [target for target in of if not is_notice(target.statement, known)]) for row, of in found]
