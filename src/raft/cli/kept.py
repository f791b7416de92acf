"""What a build's summary says of the questions that it kept: how many were wanted, what they are about, their words."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from raft.curation.clean import REJECTED
from raft.curation.coverage import NOT_CHOSEN
from raft.curation.duplicates import OTHER_WORDING
from raft.curation.split import LEAK
from raft.errors import pasted
from raft.generation.rounds import BARREN, MOST, ROUNDS
from raft.report.figures import wording_shown
from raft.store.again import again, pair_files
from raft.training.tune import FEW_ROWS

_ENDS = {
    "all": "the documents were asked until nothing new came of them",
    "limit": "questions.limit was asked",
    "most": f"{MOST} questions were asked for each wanted one",
    "barren": f"{BARREN} rounds in a row brought nothing new",
    "rounds": f"{ROUNDS} rounds were asked",
}
"""Why rounds ended before as many were kept as were wanted, by `generation.rounds.ended`."""


def kept_rows(stats: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield label and text of each row; `stats` are the notes of a run's steps."""
    asked, cleaned = stats["questions"], stats["cleaned"]
    if wanted := asked.get("wanted"):
        failed = sum(asked.get("failures", {}).values())
        yield "wanted", _wanted(wanted, cleaned["reasons"], cleaned["splits"], failed)
    if reworded := stats.get("reworded"):
        yield "worded anew", _reworded(reworded)
    alike = cleaned.get("likeness")
    if covered := cleaned.get("coverage"):
        listed = [part for part in ("documents", "sections", "facts") if part in covered]  # runs of before lack facts
        *shares, last = ["{:,} of {:,} {}".format(*covered[part], part) for part in listed]
        begin = ", ".join(f"{word} {count:,}" for word, count in covered["begin"].items())
        text = f"{', '.join(shares)} and {last} have a question"
        yield "covered", text if alike else f"{text}; they begin with {begin}"
    if alike:
        yield "wording", "\n".join(f"{whose}: {words}\n  {begin}" for whose, words, begin in wording_shown(alike))


def dropped_row(reasons: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield label and text of what was dropped; a question that stays in another wording is none that was at fault."""
    faults = {reason: count for reason, count in reasons.items() if reason != OTHER_WORDING}
    listed = ", ".join(f"{reason} {count:,}" for reason, count in faults.items())
    text = f"{sum(faults.values()):,} ({listed})" if faults else "none"
    if others := reasons.get(OTHER_WORDING):
        text += f"; {others:,} stay{'s' * (others == 1)} in another wording"
    if reasons:
        yield "dropped", text


def pairs_told(steps: Mapping[str, Any]) -> list[list[str]]:
    """Return of each file of pairs what became of its rows, and then, a line each, what is wrong with some."""
    done, found = steps.get("cleaned", {"stale": True}), []
    kept = None if done.get("stale") else done["notes"].get("pairs")  # runs of before lack it
    for one in _files(steps):
        faults = [*one["wrong"], *one.get("lost", ())]
        text = f"{one['rows']:,} from {one['file']}"
        text += "" if kept is None else f", {kept.get(one['file'], 0):,} of them kept"
        text += f"; {one['twice']:,} stand in another file too" if one.get("twice") else ""
        text += f"; {len(faults):,} cannot be learned from:" if faults else ""
        found.append([text, *faults, *(f"{name}: no such document, so all are searched" for name in one["unknown"])])
    return found


def _files(steps: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the notes on each file of pairs; runs of before have one, of which less is known."""
    if "qa" not in steps:
        return []
    notes, rows = steps["qa"]["notes"], steps["qa"]["rows"]["qa.parquet"]
    return list(notes.get("files") or [{"rows": rows, **notes}])


def more_rows(run: str, steps: Mapping[str, Any]) -> str:
    """Return what brings more questions to train on, with a command that wants enough of them where there may be."""
    asked, cleaned = steps["questions"], steps["cleaned"]["notes"]
    if "qa" in steps and not any(asked["rows"].values()):
        names = ", ".join(one["file"] for one in _files(steps))
        return f"\n  more pairs in {names},\n  or from the documents: leave --limit 0 out."
    spare, wanted, splits = cleaned["reasons"].get(NOT_CHOSEN), asked["notes"].get("wanted"), cleaned["splits"]
    facts = cleaned.get("coverage", {}).get("facts")  # runs of before lack it
    if (wanted["ended"] and not spare) if wanted else (facts and sum(asked["rows"].values()) >= facts[1]):
        own = pasted(again(run, {"questions.qa": [*pair_files(run), "pairs.jsonl"]}, remark="a file of yours"))
        others = "more documents, questions and answers of your own, or a better generator"
        why = "" if wanted else "; what these documents state was asked"
        return f"\n  {others} (--generator openai/gpt-4o-mini){why}:\n  {own}"
    kept = sum(count for split, count in splits.items() if split != "user")
    parted = kept / splits["train"] if splits.get("train") else 2.0  # some are kept to measure with
    change: dict[str, Any] = {"questions.keep": math.ceil(FEW_ROWS * parted / 10) * 10}
    if "--limit " in again(run, change):  # it would end the rounds
        change["questions.limit"] = None
    why = f" ({spare:,} were not chosen)" if spare else f" ({wanted['keep']:,} were wanted)" if wanted else ""
    others = "more documents, a better generator (--generator openai/gpt-4o-mini), or more questions"
    return f"\n  {others}{why}:\n  {pasted(again(run, change))}"


def _wanted(facts: Mapping[str, Any], reasons: Mapping[str, int], splits: Mapping[str, int], failed: int) -> str:
    """Return how many of the wanted questions there are, in how many rounds, and where some are missing, why.

    `facts` are a step's notes of its rounds, `reasons` how many questions cleaning dropped for each, `splits` how many
    of the kept ones went where, `failed` how many requests brought none.
    """
    many, end, leaks = len(facts["rounds"]), facts["ended"], reasons.get(LEAK, 0)
    kept = leaks + sum(count for split, count in splits.items() if split != "user")
    text = f"{min(facts['keep'], kept):,} of {facts['keep']:,}"
    told = f"{facts['asked']:,} asked for in {many} round{'s' * (many != 1)}"
    took = "splitting and leaks leave" if leaks else "splitting leaves"
    rows = f"; {took} {splits.get('train', 0):,} to train on"
    if kept < facts["keep"] and (rejected := reasons.get(REJECTED)):
        rows = f"; {rejected:,} {'were' if rejected != 1 else 'was'} rejected since{rows}"
    if not end:
        return f"{text}: {told}{rows}"
    lost = Counter({f"'{one}'": count for one, count in reasons.items() if one not in (LEAK, REJECTED, OTHER_WORDING)})
    lost.update({"no usable reply": failed} if failed else {})
    most = ", ".join(f"{reason} {count:,}" for reason, count in lost.most_common(3))
    why = f"; most were lost to {most}" if most else ""
    more = "more documents, pairs of your own (--qa), another questions.way or kinds"
    advice = "a larger questions.limit" if end == "limit" else more
    return f"{text}: {_ENDS[end]} ({told}){why}{rows};\nmore come from {advice}, or a better generator"


def _reworded(facts: Mapping[str, Any]) -> str:
    text = f"{facts['questions']:,} of {facts['drawn']:,} questions"
    if not (facts["before"] and facts["after"]):
        return text
    after, before = (facts[when]["overlap"] for when in ("after", "before"))
    return f"{text}; they share {100 * after:.0f} instead of {100 * before:.0f} percent of their words with their chunk"
