"""What a benchmark says to a person, and a tuned retriever."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raft.errors import typed
from raft.evaluation.metrics import TOO_FEW
from raft.report.figures import (
    added_shown,
    chosen_blindly,
    full,
    headline,
    judged,
    left_out,
    paired,
    parts_shown,
    spread,
)
from raft.report.measures import MEASURES

Facts = Mapping[str, Any]
_SETS = {"all": "of all together", "user": "of your own", "eval_unseen": "about documents held out whole"}


def benchmark(facts: Facts) -> str:
    """Return the outcome of a benchmark as text; `facts` is the contents of `benchmark.json`."""
    verdict = facts["verdict"]
    gained = headline(verdict)
    lines = [f"Verdict: {verdict['decision']}{f', {gained}' if gained else ''}", ""]
    lines += [f"  {reason}" for reason in verdict["reasons"]]
    lines += ["", f"  {verdict['advice']}" if verdict.get("advice") else ""]
    for described in facts["question_sets"]:
        lines += ["", *_table(facts, described)]
    if added := parts_shown(facts):
        lines += ["", "  what each part adds:", *(f"    {part:<9} {said}" for part, said in added)]
    lines += _paired(facts)
    lines += ["", *_capability(facts)]
    if facts.get("blind"):
        lines.append(f"  blind: {chosen_blindly(facts['blind'])}")
    if facts.get("judge"):
        first, *rest = judged(facts["judge"])
        lines += [f"  judge: {first}", *(f"         {line}" for line in rest)]
    if facts.get("wrong_references"):
        lines.append(f"  {left_out(facts)}")
    place = f"{facts['run']}/benchmarks/{facts['version']}" if facts.get("version") else facts["run"]
    lines.append(f"  report: {place}/report.html, every answer as a table: {place}/report.csv")
    return "\n".join(line.rstrip() for line in lines)


def _paired(facts: Facts) -> list[str]:
    title = MEASURES[facts["verdict"]["measure"]].title
    rows = [(*names, *map(full, found)) for names, found in paired(facts)]
    if not rows:
        return []
    lines = ["", "  each with and without the others (* in use):"]
    for one, two, three, four, five, six in (("reader", "retriever", "refusal", title, "invented", "refused"), *rows):
        lines.append(f"    {one:<9} {two:<9} {three:<8} {four:>22} {five:>22} {six:>22}")
    return lines + [f"    {said}" for said in added_shown(facts, title)]


def _table(facts: Facts, described: Facts) -> Iterator[str]:
    name = described["name"]
    unit = described.get("resampled") or "documents"
    count = described["questions"] if unit == "questions" else described["documents"]
    few = f"; too few {unit} to tell" if unit != "sections" and count < TOO_FEW else ""
    few = few or (f"; {unit} are resampled" if unit != "documents" else "")
    yield (
        f"  {name}: {described['questions']} questions by {described['written_by']}, "
        f"{described['documents']} documents{few}"
    )
    closed = any((system["sets"].get(name) or {}).get("accuracy") for system in facts["arms"])
    first, second = ("accuracy", "macro_f1") if closed else ("f1", "exact_match")
    heads = (MEASURES[first].title, "95 %", MEASURES[second].title, "refused", "invented", "s a question")
    yield f"    {'':<40} {heads[0]:>8} {heads[1]:>13} {heads[2]:>11} {heads[3]:>8} {heads[4]:>9} {heads[5]:>13}"
    for system in facts["arms"]:
        scores = system["sets"].get(name)
        if scores is None:
            continue
        main = scores.get(first)
        spread = f"{100 * main['low']:.1f}-{100 * main['high']:.1f}" if main else ""
        latency = f"{system['latency']['median']:.2f}" if system["latency"] else ""
        yield (
            f"    {system['title']:<40.40} {_share(main):>8} {spread:>13} {_share(scores.get(second)):>11} "
            f"{_share(scores.get('false_refusals')):>8} {_share(scores.get('false_answers')):>9} {latency:>13}"
        )


def _share(interval: Facts | None) -> str:
    return f"{100 * interval['value']:.1f}" if interval else "-"


def _capability(facts: Facts) -> Iterator[str]:
    for one in (facts["capability"] or {}).values():
        change = one.get("change")
        if change is None:
            yield f"  {one['title']}: not measured"
            continue
        yield (
            f"  {one['title']}: {100 * one['before']:.1f} before tuning, {100 * one['after']:.1f} after "
            f"({100 * change['value']:+.1f} [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}])"
        )


def tuned(card: Mapping[str, Any], run: str) -> str:
    """Return the outcome of a tuning as text (`pipeline.retriever.Card`); `run` is the directory as it was typed."""
    chunks = f"{card['chunks']:,} chunks, of which search finds {card['hard']:,} near and wrong"
    lines = [
        "Tuned the retriever" if card["used"] else "Tuned the retriever, which is not used",
        "",
        f"  learned   from {card['questions']:,} questions, among {chunks}",
        *_found(card),
        f"  used      {'yes' if card['used'] else 'no'}: {card['why']}",
        f"  card      {run}/retriever/README.md",
        "",
    ]
    refuses, run = (Path(run) / "refusal").is_dir(), typed(run)
    lines.append(f"  next:  raft bench {run}                         # with both retrievers side by side")
    if card["used"] and refuses:
        lines.append(f"         raft train {run} --part refusal          # what refused before was set on the other")
    if card["used"]:
        lines.append(f"         rm -r {run}/retriever                    # to search untuned again")
    else:
        lines.append(f"         raft ask {run} 'your question'           # searches untuned, as before")
    return "\n".join(lines)


def _found(card: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each set of questions and measure: untuned, tuned, and the difference with its interval."""
    sets = {name: one for name, one in card["measured"].items() if one["questions"]}
    for name, one in sets.items() if len(sets) != 2 else [*sets.items()][:1]:
        for key, label in (("recall_at_1", "recall@1"), ("recall_at_k", f"recall@{card['k']}"), ("mrr", "MRR")):
            before, after, by = (one[key][part] for part in ("before", "after", "difference"))
            by = f"{100 * by['value']:+.1f} ({spread(by, signed=True)})"
            told = f"{label:<9} {100 * before['value']:5.1f} untuned, {100 * after['value']:5.1f} tuned: {by}"
            about = f"   ({one['questions']:,} questions {_SETS[name]})" if key == "recall_at_1" else ""
            yield f"  {'measured' if (name, key) == ('all', 'recall_at_1') else '':<9} {told}{about}"
