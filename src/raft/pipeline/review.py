"""What people have said of a run's rows: which rows they are shown, and what their verdicts say of all."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

import polars as pl

from raft.curation import clean, decisions
from raft.curation.coverage import NOT_CHOSEN
from raft.curation.decisions import APPROVED, DIFFER, Decision, Said
from raft.curation.duplicates import DUPLICATE, OTHER_WORDING
from raft.curation.split import LEAK
from raft.errors import DamagedArtifact
from raft.evaluation.metrics import kappa, win_rate
from raft.pipeline.asking import SURVEY, surveyed_languages
from raft.pipeline.pairs import asked_in
from raft.settings import Settings
from raft.store import artifacts
from raft.store.run import Run
from raft.text import overlap
from raft.text.grammar import CONDITIONS, EACH, ENGLISH
from raft.text.values import Fact, fact_values, facts

LISTS = ("sample", "suspicious", "dropped", "evaluation", "human")
"""A sample of what the rules keep, the most suspicious others, some that they drop, what is measured with, and what
people wrote: pairs of their own, and edits."""
BESIDE = "sample, in another list"
"""What a decision says of where a row of the sample was shown that was judged in another list."""
_LOOKED_AT = 5_000
"""Rows that suspicious ones are looked for among."""
_MOST_EVALUATION, _MOST_HUMAN = 200, 1_000
_NOT_WRONG = (DUPLICATE, OTHER_WORDING, LEAK, NOT_CHOSEN)
Row = dict[str, Any]


class Opinions:
    """What people say of a run's rows by its own decisions and those of `settings.decisions`.

    Files of decisions are read each time, since others may write to them; tables once.
    """

    def __init__(self, run: Run, settings: Settings) -> None:
        self._run, self._settings = run, settings
        self._read: dict[str, Row | None] = {}

    def rows(self, names: Collection[str]) -> dict[str, Row]:
        """Return questions by id as the next build cleans them where no person has edited them, and people read them.

        They are rows of `tables.QUESTIONS` with what `clean.judged` adds; names of none are left out.

        Raises:
            DamagedArtifact: a table is missing or damaged.
        """
        if missing := {*names} - self._read.keys():
            self._read |= dict.fromkeys(missing) | {row["question_id"]: row for row in self._judged(missing)}
        return {name: row for name in names if (row := self._read[name])}

    def _judged(self, names: Collection[str]) -> list[Row]:
        tables = asked_in(self._settings)
        asked = [*self._only("question_id", names, (part for table in tables for part in self._run.stream(table)))]
        golden = {one for row in asked for one in row["golden_chunk_ids"]}
        chunks = self._run.stream("chunks.parquet", ["chunk_id", "heading", "text"]) if golden else ()
        texts = {row["chunk_id"]: row for row in self._only("chunk_id", golden, chunks)}
        limits = limits_of(self._settings)
        return [clean.judged(row, texts, limits, self.languages, {}) for row in asked]

    def _only(self, column: str, names: Collection[str], parts: Iterable[pl.DataFrame]) -> Iterator[Row]:
        wanted = pl.Series([*names], dtype=pl.String).implode()
        for part in parts:
            yield from part.filter(pl.col(column).is_in(wanted)).iter_rows(named=True)

    @cached_property
    def languages(self) -> dict[str, str]:
        """The languages of the documents, by doc_id, but English."""
        return surveyed_languages(self._run) if (self._run.folder / SURVEY).is_file() else {}

    @cached_property
    def reasons(self) -> list[tuple[str, str | None]]:
        """Each cleaned row's id and the reason why it was dropped, in the order of the draw."""
        return [(name, self._cleaned[name]) for name in drawn(self._cleaned, self._settings.seed)]

    @cached_property
    def _cleaned(self) -> dict[str, str | None]:
        parts = self._run.stream("cleaned.parquet", ["question_id", "reason"])
        return {name: reason for part in parts for name, reason in part.iter_rows()}

    def _waiting(self, found: Said) -> int:
        """Count the questions of whose decisions the rows' build did not know, or knew otherwise."""
        now, built = decisions.digests(decisions.decided(found)), self._run.manifest.get("decided")
        if built is None:  # an earlier raft noted none
            finished = self._run.manifest["steps"].get("cleaned", {}).get("finished", "")
            newest = {name: max(one.time for one in own.values()) for name, own in found.items()}
            built = {name: now[name] for name, time in newest.items() if time <= finished}
        others = [name for name in now if now[name] != built.get(name)]
        changed = [name for name in others if name in built or self._counts(found[name])]
        given = self._settings.decisions
        gone = () if given and not given.exists() else built.keys() - now.keys()  # no build goes on without the file
        return len(changed) + len(gone)

    def _counts(self, own: Mapping[str, Decision]) -> bool:
        """Tell whether a decision says anything else of a row than the rules."""
        one = decisions.settled(own)
        dropped = self._cleaned.get(one.question_id) is not None
        return one.verdict == decisions.EDITED or dropped != (one.verdict == decisions.REJECTED)

    def said(self) -> tuple[Said, list[str], int]:
        """Return what holds of the rows, what to tell of the files, and how many decisions are of rows that are gone.

        Raises:
            UsageError: a file cannot be read, or a line of it is no decision.
            DamagedArtifact: a table is missing or damaged.
        """
        own = self._run.folder / decisions.FILE
        given = self._settings.decisions
        paths = {path.resolve(): path for path in [given, own if own.is_file() else None] if path is not None}
        lines: list[Decision] = []
        remarks = []
        for path in paths.values():
            if not path.exists():  # a build refuses it; whoever reads learns of it
                remarks.append(f"{path}, decisions that the run was built with, is no more there: they do not count")
                continue
            found, torn = decisions.read(path)
            known = {repr(one) for one in lines if one.time}  # a copy of a file says nothing twice
            lines += [one for one in found if repr(one) not in known]
            remarks += [f"the last line of {path} was cut off, and is left out"] if torn else []
        if not lines:
            return {}, remarks, 0
        rows = self.rows({one.question_id for one in lines})
        texts = {name: (row["question"] or "", row["answer"] or "") for name, row in rows.items()}
        gone = {(one.question_id, one.digest) for one in lines} - {
            (name, decisions.digest_of(*text)) for name, text in texts.items()
        }
        return decisions.said(lines, texts), remarks, len(gone)

    def figures(self) -> dict[str, Any]:
        """Return what `figures` does."""
        splits = self._run.manifest["steps"].get("cleaned", {}).get("notes", {}).get("splits", {})
        rows = sum(count for name, count in splits.items() if name != "user")
        try:
            found, remarks, gone = self.said()
            kept, dropped = by_rules(self.reasons, found) if found else ([], [])
        except DamagedArtifact as damaged:
            remarks = [f"what people decided cannot be counted: {damaged}"]
            return _worded({"rows": rows, "seen": None, "remarks": remarks, "gone": 0})
        if not found:  # no table has to be read for it
            waiting = self._waiting(found)
            return _worded({"rows": rows, "seen": 0, "waiting": waiting, "remarks": remarks, "gone": gone})
        final = {name: decisions.settled(own) for name, own in found.items()}
        verdicts = Counter(one.verdict for one in final.values())
        facts_ = {
            "rows": len(kept),
            "seen": len(final),
            **{name: verdicts[name] for name in (APPROVED, decisions.EDITED, decisions.REJECTED)},
            "waiting": self._waiting(found),
            "differ": sorted(name for name, one in final.items() if one.reason == DIFFER),
            "sample": _estimate(kept, found, final, "sample"),
            "dropped": _estimate(dropped, found, final, "dropped"),
            "agreement": _agreement(found),
            "reviewers": dict(Counter(who for own in found.values() for who in own)),
            "remarks": remarks,
            "gone": gone,
        }
        return _worded(facts_)


def limits_of(settings: Settings) -> dict[str, int]:
    """Return the limits that the rules keep to."""
    return settings.cleaning.model_dump(include={"min_words", "max_words", "max_answer_words"})


def said(run: Run, settings: Settings) -> tuple[Said, list[str], int]:
    """Return what `Opinions.said` does."""
    return Opinions(run, settings).said()


def edited_by_hand(run: Run) -> list[str]:
    """Return the files of training rows that are not as the build made them: the next one writes them anew."""
    made = run.manifest["steps"].get("examples", {}).get("artifacts", {})
    files = {name: run.folder / name for name in ("train.jsonl", "valid.jsonl") if (run.folder / name).is_file()}
    return [name for name, path in files.items() if name in made and artifacts.digest(path) != made[name]["digest"]]


def by_rules(cleaned: Iterable[tuple[str, str | None]], found: Said) -> tuple[list[str], list[str]]:
    """Return the ids of rows (each with its reason) that the rules alone keep, and of those they drop.

    In neither are those that are dropped for others' sake, be they right or not: duplicates, leaks, not chosen ones.
    """
    kept: list[str] = []
    dropped: list[str] = []
    for name, why in cleaned:
        own = next(iter(found.get(name, {}).values()), None)
        reason = own.was if own else why
        if reason not in _NOT_WRONG:
            (kept if reason in (None, clean.REJECTED) else dropped).append(name)
    return kept, dropped


def drawn(names: Iterable[str], seed: int) -> list[str]:
    """Return question ids in the order of a draw by the seed: as many as one likes from its start are a sample."""
    return sorted(names, key=lambda name: hashlib.sha256(f"review:{seed}:{name}".encode()).digest())


def figures(run: Run, settings: Settings) -> dict[str, Any]:
    """Return what people's verdicts say of a run's rows, as JSON values; `text` is that in words, line by line.

    `seen` is None where a table that it takes is missing; `remarks` say so then.
    `rows` are those that the rules keep, `seen` those that anybody has judged. Of the `sample` so many are `seen`, and
    `wrong` (rejected or edited); the share of all is between `low` and `high` in 95 of 100 samples. `dropped` says the
    same of what the rules dropped. `waiting` are verdicts, given or taken back, that the next build counts.
    `agreement` is that of pairs of reviewers on rows that both judged, as a share and as kappa.

    Raises:
        UsageError: as `said`.

    References:
        Wilson: Probable inference, the law of succession, and statistical inference. JASA 22(158), 1927.
    """
    return Opinions(run, settings).figures()


def _estimate(order: Sequence[str], found: Said, final: Mapping[str, Decision], name: str) -> dict[str, Any] | None:
    """Return the share of rows that are wrong, by those judged up to the last one shown in the list, or `BESIDE` it."""
    lists = [{one.shown for one in found.get(row, {}).values()} for row in order]
    end = max((place for place, own in enumerate(lists, 1) if name in own), default=0)
    passed = order[:end]
    beside = [one for one, own in zip(order[end:], lists[end:], strict=True) if name == "sample" and BESIDE in own]
    seen = [*(one for one in passed if one in final), *beside]
    wrong = sum(final[one].verdict != APPROVED for one in seen)
    interval = win_rate(wrong, len(seen) - wrong, 0)
    if interval is None:
        return None
    ends = (interval.low, interval.high) if len(seen) < len(order) else (interval.value, interval.value)
    return {
        **{"seen": len(seen), "wrong": wrong, "of": len(order), "passed_over": len(passed) + len(beside) - len(seen)},
        **{"low": ends[0], "high": ends[1]},
    }


def _agreement(found: Said) -> dict[str, Any] | None:
    pairs = [
        (own[one].verdict == APPROVED, own[two].verdict == APPROVED)
        for own in found.values()
        for one, two in combinations(sorted(own), 2)
    ]
    agreed = kappa(pairs)
    if agreed is None:
        return None
    same, beyond = agreed
    return {"rows": len(pairs), "share": round(same, 4), "kappa": None if beyond is None else round(beyond, 3)}


def _worded(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "text": [*_words(found)]}


def _words(found: Mapping[str, Any]) -> Iterable[str]:
    sample, dropped, agreement = (found.get(name) for name in ("sample", "dropped", "agreement"))
    if found["seen"] == 0:
        yield f"nobody has judged one of {found['rows']:,} rows"
    elif found["seen"] and sample is None:
        told = "1 row was" if found["seen"] == 1 else f"{found['seen']:,} rows were"
        yield f"{told} judged, and none of the sample: nothing can be said of all"
    elif sample:
        share = _between(sample)
        yield f"{sample['wrong']:,} of {sample['seen']:,} wrong: {share} percent of the {sample['of']:,} kept"
    if sample and sample["passed_over"]:
        yield f"{sample['passed_over']:,} of the sample were passed over: if they were the hard ones, it is more"
    if dropped:
        right = dropped["seen"] - dropped["wrong"]
        yield f"of those that the rules dropped, {right:,} of {dropped['seen']:,} are right"
    if agreement:
        beyond = "" if agreement["kappa"] is None else f" (kappa {agreement['kappa']:.2f})"
        yield f"reviewers agree on {100 * agreement['share']:.0f} percent of {agreement['rows']:,} rows{beyond}"
    if found.get("differ"):
        yield f"they differ on {len(found['differ']):,}, which count as rejected until they agree"
    if found["gone"]:
        told = "1 decision is" if found["gone"] == 1 else f"{found['gone']:,} decisions are"
        yield f"{told} of rows that are no more, or are written otherwise now"
    yield from found["remarks"]


def _between(sample: Mapping[str, Any]) -> str:
    low, high = (round(100 * sample[end]) for end in ("low", "high"))
    return f"between {low} and {high}" if sample["seen"] < sample["of"] else f"{low}"


def listed(rows: Mapping[str, Row], found: Said, *, size: int, seed: int) -> dict[str, list[str]]:
    """Return the ids of the rows (of `tables.CLEANED`, by id) that each of `LISTS` shows, in its order.

    `sample` has `size` rows; the suspicious ones are those others that `doubts` has most against.
    """
    reasons = ((name, row["reason"]) for name, row in rows.items())
    kept, dropped = (drawn(names, seed) for names in by_rules(reasons, found))
    others = kept[size : size + _LOOKED_AT]
    weights = {name: sum(weight for _, weight in doubts(rows[name])) for name in others}
    measuring = [name for name in kept if (rows[name]["split"] or "").startswith("eval_")]
    return {
        "sample": kept[:size],
        "suspicious": sorted((name for name in others if weights[name] >= 1), key=lambda one: -weights[one])[:size],
        "dropped": dropped[: max(1, size // 2)],
        "evaluation": measuring[:_MOST_EVALUATION],
        "human": [name for name in drawn(rows, seed) if _by_people(rows[name], found.get(name, {}))][:_MOST_HUMAN],
    }


_ENDS = re.compile(rf"\d[^\s\d]*(?:\s[a-z.]+)?(?:{ENGLISH.joins.pattern})$|\b(?:to|by)\s$", re.IGNORECASE)
_BOUNDS = (ENGLISH.compared, ENGLISH.limits, ENGLISH.opens, _ENDS)
_NO_BOUND = re.compile(r"\b(?:about|around|approximately|roughly|nearly|almost|exactly|total|since)\b", re.IGNORECASE)
"""Words of `limits` behind which a figure is what it is."""
_BEGINS = re.compile(rf"(?:{ENGLISH.joins.pattern})\d", re.IGNORECASE)
_QUALIFIED = re.compile(rf"\W{{0,3}}((?:{EACH}|{CONDITIONS}|except|only|for)\b[^.;]{{0,40}})", re.IGNORECASE)


def _by_people(row: Row, own: Mapping[str, Decision]) -> bool:
    return row["model"] == decisions.HUMAN or any(one.verdict == decisions.EDITED for one in own.values())


def doubts(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return what may be wrong with a row of `tables.CLEANED`, each in words and with its weight."""
    question, answer, found = row["question"] or "", row["answer"] or "", list[tuple[str, float]]()
    quote = " ".join(one["text"] or "" for one in row["quotes"])
    place = quote.casefold().find(answer.casefold()) if answer else -1
    mine = facts(answer)
    if mine and place >= 0:
        kind, before, after = mine[0].kind, quote[:place], quote[place + len(answer) :]
        others = _others(mine[0], before, after)
        if others:
            found.append((f"another {kind} in the quote: {', '.join(others[:3])}", 1.0))
        opened = (one.search(before) for one in _BOUNDS)
        bound = next((one for one in opened if one and not _NO_BOUND.search(one[0])), None)
        if kind in ("number", "date") and bound:
            found.append((f"after “{bound[0].strip()}”: a bound, or the end of a range", 1.0))
        elif kind in ("number", "date") and _BEGINS.match(after):
            found.append(("the beginning of a range", 1.0))
        if (more := _QUALIFIED.match(after)) and more[1].split()[0].casefold() not in f"{question} {answer}".casefold():
            found.append((f"goes on: “{more[1].strip()}”", 1.0))
    scores = row["scores"] or {}
    if (scores.get("golden_rank") or 1) > 1:
        found.append((f"its chunk is found at place {scores['golden_rank']}", 0.5))
    if scores.get("judge") is not None and scores["judge"] < 1:
        found.append((f"the judge's mark is {scores['judge']:.2f}", 1.0 - scores["judge"]))
    if row["original_quotes"]:
        found.append(("the quote came otherwise than it stands", 0.5))
    if quote and (shared := overlap(question, quote)) < 0.5:
        found.append(("the question has few words of the quote", 1.0 - shared))
    return found


def _others(mine: Fact, *texts: str) -> list[str]:
    """Return facts of texts that are of one kind with a fact; numbers are where they count the same."""
    alike = (one.text for text in texts for one in facts(text) if one.kind == mine.kind and _unit(one) == _unit(mine))
    return list(dict.fromkeys(alike))


def _unit(fact: Fact) -> str:
    return next((value.unit for value in fact_values(fact.text)), "") if fact.kind == "number" else ""


def evaluation_lines(rows: Iterable[Row], found: Said, paths: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the evaluation questions that people approved, or wrote, as lines of a file for `--eval`."""
    final = {name: decisions.settled(own) for name, own in found.items()}
    lines = []
    for row in rows:
        one = final.get(row["question_id"])
        if one is None or one.verdict == decisions.REJECTED or not (row["split"] or "").startswith("eval_"):
            continue
        text = {**row, **(one.edit or {})}
        document = paths.get(row["doc_ids"][0]) if row["doc_ids"] else None
        line = {"question": text["question"], "answers": [text["answer"]], "document": document, "kind": row["kind"]}
        lines.append({name: value for name, value in line.items() if value is not None})
    return lines
