"""What a run says to a person: its summary, its state, its rows."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from raft.api.run import FAULT
from raft.cli.kept import dropped_row, kept_rows, more_rows, pairs_told
from raft.cli.registry import in_production
from raft.corpus.pii import counted
from raft.errors import me, pasted, typed
from raft.pipeline.estimate import DOING, as_text, cost_text
from raft.rag.grounding import ceiled
from raft.store.again import again
from raft.store.budget import dollars
from raft.text import shortened
from raft.training.tune import FEW_ROWS


def estimated(facts: Mapping[str, Any]) -> str:
    """Return an estimate on one line."""
    return f"{facts['calls']:,} calls to make, {cost_text(facts)}"


def estimate(facts: Mapping[str, Any], build: str | None = None) -> str:
    """Return an estimate as text, with the next command; `facts` is what `Estimate.summary` returns.

    `build` is the command that builds what was estimated; the one of the run, where nobody typed any.
    """
    return "\n".join([as_text(facts), "", *advice(facts, build or again(facts["run"]))])


def advice(facts: Mapping[str, Any], build: str) -> Iterator[str]:
    """Yield the next command after an estimate, as it is typed."""
    if facts["model"] in facts["unpriced"] and facts["own"]:
        yield f"  next:  {build}   # and --price 0.15/0.60 with --estimate tells what it costs"
    elif facts["model"] in facts["unpriced"]:
        yield f"  next:  {build} --estimate --price 0.15/0.60   # dollars per million tokens read and written: yours"
    elif facts["cap"] is None and facts["known_dollars"][1] > 0:
        high = facts["spent"] + facts["known_dollars"][1]
        yield f"  next:  {build} --max-cost {max(0.01, round(high + 0.005, 2)):g}"
    else:
        yield f"  next:  {build}"


def spending(facts: Mapping[str, Any]) -> list[str]:
    """Return what a run has spent as lines; `facts` is the `money` of `raft.api.state`."""
    lines = [f"  {'spent on':<26} {'calls':>8} {'read':>12} {'written':>12} {'dollars':>10}  model"]
    for row in facts["rows"]:
        lines += _row(row)
    unknown = sum(row["calls_without_price"] for row in facts["rows"])
    total = "unknown" if unknown and not facts["spent"] else dollars(facts["spent"])
    if facts["cap"] is not None:
        total += f" of {dollars(facts['cap'])}, {dollars(max(0.0, facts['left']))} left"
    if facts["open"]:
        total += f"; {dollars(facts['open'])} at most is under way"
    total += f"; {unknown:,} calls of unknown price are not in it" if unknown and facts["spent"] else ""
    return [*lines, f"  in all: {total}"]


def paid(cost: float, unpriced: float) -> str:
    """Return what replies cost: `cost` dollars, and so many of them an unknown sum."""
    known = [f"${cost:,.4f}"] if cost or not unpriced else []
    return " and ".join([*known, *([f"{unpriced:,.0f} replies of unknown price"] if unpriced else [])])


def _row(row: Mapping[str, Any]) -> Iterator[str]:
    doing = DOING.get(row["purpose"], row["purpose"])
    price = "unknown" if not row["cost"] and row["calls_without_price"] else f"{row['cost']:,.4f}"
    yield (
        f"    {doing:<24} {row['calls']:>8,} {row['input_tokens']:>12,} {row['output_tokens']:>12,}"
        f" {price:>10}  {row['model']}"
    )
    if row.get("calls_without_usage"):
        yield f"    {'  of no believable usage, counted at their worst':<24} {row['calls_without_usage']:,}"
    others = {"lost": "  lost, at their worst", "open": "  under way, at most", "batch": "  in a batch, at most"}
    for state, words in others.items():
        if row[state]:
            yield f"    {words:<24} {row[state]:>8,} {'':>12} {'':>12} {row[f'{state}_cost']:>10,.4f}"


def privacy_lines(stats: Mapping[str, Any], run: str = "RUN") -> list[str]:
    """Return what was found, and where, as lines of a summary, by the steps' statistics; none without finds."""
    noted = stats.get("privacy") or {}
    redacted, lines = noted.get("redacted"), []
    if noted.get("found"):
        where = f"in {noted['in']:,} document{'s' if noted['in'] > 1 else ''}"
        done = f"replaced {where}:" if redacted else f"{where}, left as they are:"
        lines = [f"{counted(noted['found'])} {done}", *_most(noted["documents"], noted["in"])]
    if names := noted.get("names"):
        lines += ["names of files hold them too, and stay as they are: rename the files", *_most(names, len(names))]
    if questions := noted.get("questions"):
        lines.append(f"{counted(questions)} in your own questions, {'replaced' if redacted else 'left as they are'}")
    if lines and not redacted:
        lines.append("to replace them: --set privacy.found=redact; to stop at them: refuse; to be silent: ignore")
    if noted.get("sent"):
        lines += [
            "what was made before they were replaced may hold them still: replies and vectors in the ledger, deleted",
            "rows in the files of the index, adapters, reports. To be rid of it, make the run anew, delete this one:",
            f"the same raft build with --out {run}-redacted --set ledger={run}-redacted/ledger.sqlite,",
            f"then rm -r {run}",
            "(and delete the old ledger, if it lies elsewhere, and the old collection on a Chroma server)",
        ]
    return lines


def _most(places: Mapping[str, Mapping[str, int]], count: int) -> list[str]:
    shown = sorted(places, key=lambda path: (-sum(places[path].values()), path))[:5]
    more = [f"and {count - len(shown):,} more"] if count > len(shown) else []
    return [*(f"{path}: {counted(places[path])}" for path in shown), *more]


def summary(facts: Mapping[str, Any]) -> str:
    """Return the outcome of a build as text that a person can act on; `facts` is what `Built.summary` returns."""
    steps = facts["steps"]
    lines = [f"Built {facts['run']}", ""]
    run = typed(facts["run"])
    reviewed = facts.get("reviewed") or {}
    for label, text in _rows(run, steps, facts.get("skipped") or [], seen(reviewed)):
        head, *rest = text.split("\n")
        lines += [f"  {label:<11} {head}", *(f"  {'':<11}   {line}" for line in rest)]
    lines += ["", *_advice(run, steps, more_rows(facts["run"], steps), judged=bool(reviewed.get("sample")))]
    return "\n".join(lines)


_FAILED = {
    "malformed": "what came did not keep to the form or the facts that were asked for",
    "length": "the reply was cut off at the token limit",
    "refused": "the provider refused to answer",
    "too long": "the request is longer than the model takes",
    "error": "no reply came",
    "repeated": "the same question was asked of the same chunk before",
}
"""What the kinds of `protocols.Failure` mean."""


def _counted(count: int, kind: str) -> str:
    """Return "2 hidden parts"; of one "1 hidden part"."""
    one = re.sub(r"s\b(?:( and \w+)s\b)?", r"\1", kind, count=1)
    return f"{count:,} {kind if count != 1 else one.replace(' are ', ' is ')}"


def _rows(
    run: str, steps: Mapping[str, Any], skipped: Sequence[Sequence[str]], reviewed: Sequence[str]
) -> Iterator[tuple[str, str]]:
    stats = {name: line["notes"] for name, line in steps.items()}
    unreadable = stats["documents"].get("unreadable", [])
    read = steps["documents"]["rows"]["documents.parquet"] - len(unreadable)
    text = f"{read:,} read"
    text += f", {len(unreadable):,} could not be read:" if unreadable else ""
    yield "documents", "\n".join([text, *_some([f"{path}: {reason}" for path, reason in unreadable])])
    parts: Counter[str] = Counter()
    for counts in stats["documents"].get("left_out", {}).values():
        parts.update(counts)
    if parts:
        said = ", ".join(_counted(count, kind) for kind, count in parts.most_common())
        yield "left out", f"{said}   (raft show {run} documents --text NAME says what was read)"
    if skipped:
        yield (
            "left out",
            "\n".join([_counted(len(skipped), "files"), *_some([f"{name}: {why}" for name, why in skipped], 3)]),
        )
    found = privacy_lines(stats, run)
    if found:
        yield "privacy", "\n".join(found)
    chunks, tokens = steps["chunks"]["rows"]["chunks.parquet"], stats["chunks"].get("tokens", 0)
    furniture = stats["chunks"].get("boilerplate", 0)
    yield "chunks", f"{chunks:,} of {tokens / max(1, chunks):,.0f} tokens on average; {furniture:,} boilerplate"
    asked, failed = steps["questions"]["rows"], stats["questions"].get("failures", {})
    text = f"{asked['questions.parquet']:,} written ({_list(stats['questions'].get('kinds', {}))})"
    text += f"; {asked['failures.parquet']:,} failed:" if failed else ""
    lines = [f"{count:,}: {_FAILED.get(kind, kind)}" for kind, count in failed.items()]
    lines += [f"raft show {run} failures   # says what was wrong, with each reply"] if failed else []
    yield "questions", "\n".join([text, *lines, *stats["questions"].get("left_out", [])])
    for told, *faults in pairs_told(steps):
        yield "pairs", "\n".join([told, *_some(faults)])
    reasons, splits = stats["cleaned"]["reasons"], stats["cleaned"]["splits"]
    kept = {split: splits[split] for split in ("train", "valid", "eval_seen", "eval_unseen") if split in splits}
    yield "kept", f"{sum(kept.values()):,} ({_list(kept)})"
    yield from kept_rows(stats)
    yield from dropped_row(reasons)
    if "user" in splits:
        own = f"{splits['user']:,} question{'s' * (splits['user'] != 1)}"
        yield "your own", f"{own} to measure with; none worded like them is trained on"
    made = steps["examples"]["rows"]
    text = f"{made['train.jsonl']:,} to train on, {made['valid.jsonl']:,} to validate with"
    if not made["valid.jsonl"] and made["train.jsonl"] < 10:
        text += " (of so few questions none is set aside for it)"
    shortened = stats["examples"].get("shortened") or {}
    yield "examples", text + (f"; {len(shortened):,} had to lose distractors to fit" if shortened else "")
    yield "asked", _spending(steps)
    yield "reviewed", "\n".join(reviewed or [f"nobody has judged a row yet (raft review {run})"])


def seen(found: Mapping[str, Any]) -> list[str]:
    """Return how many of a run's rows people have judged, and what that says; nothing where nobody ever has."""
    text = list(found.get("text", []))
    if count := found.get("waiting"):
        told, them = ("1 verdict is", "it") if count == 1 else (f"{count:,} verdicts are", "them")
        text.append(f"{told} not in the rows yet, new or taken back: the next build counts {them}")
    if not found.get("seen"):
        return text if any(found.get(name) for name in ("gone", "remarks", "waiting")) else []
    return [f"{found['seen']:,} of {found['rows']:,} rows were seen by a person", *text]


def _advice(run: str, steps: Mapping[str, Any], few: str, *, judged: bool) -> Iterator[str]:
    kept = steps["cleaned"]["notes"]["splits"].get("train", 0)
    if kept < FEW_ROWS:
        yield f"  {kept} training questions are few: {FEW_ROWS} or more are worth tuning on. More come from{few}\n"
    train = f"raft train {run}                       # or raft export {run} --format openai, axolotl or hf"
    some = "more rows" if judged else "some rows before you train on them"
    look = f"raft review {run}                      # judge {some}"
    yield f"  next:  {train if judged else look}"
    yield f"         raft show {run} examples               # or read them"
    if steps["cleaned"]["notes"]["reasons"]:
        yield f"         raft show {run} cleaned --only dropped # and what was dropped, with the reasons"
    if steps["questions"]["rows"]["failures.parquet"]:
        yield f"         raft show {run} failures               # and what the generator did not deliver"
    yield f"         {look if judged else train}"
    yield f"         raft serve {run}                       # ask it on a page, or as OpenAI's API, tuned or not yet"


def _spending(steps: Mapping[str, Any]) -> str:
    keys = ("calls", "replayed", "input_tokens", "output_tokens", "cost", "unpriced")
    total = {key: sum(line.get(key, 0) for line in steps.values()) for key in keys}
    price = paid(total["cost"], total["unpriced"])
    return (
        f"{total['calls']:,.0f} replies ({total['replayed']:,.0f} from the ledger), "
        f"{total['input_tokens']:,.0f} tokens read and {total['output_tokens']:,.0f} written, {price}"
    )


def status(
    facts: Mapping[str, Any],
    spent: Sequence[Mapping[str, Any]],
    running: bool,
    adapters: Sequence[Mapping[str, Any]] = (),
    *,
    money: Mapping[str, Any] | None = None,
    registered: Mapping[str, Any] | None = None,
) -> str:
    """Return the state of a run step by step, its adapters (`adapters.line`), what it cost, what its ledger holds."""
    now = "   (a build is running, or a training)" if running else ""
    lines = [f"{facts['run']}   raft {facts['raft']}{now}", ""]
    lines.append(f"  {'step':<11} {'rows':>9} {'seconds':>9} {'calls':>8} {'dollars':>9}  finished")
    told = (
        *("documents", "chunks", "survey", "index", "lexical", "qa", "questions", "reworded"),
        "cleaned",
        "examples",
    )
    for name in (*told, "refusal", "retriever"):
        line = facts["steps"].get(name)
        if line is None and name in ("qa", "reworded", "refusal", "retriever"):  # not of every run
            continue
        if line is None:
            lines.append(f"  {name:<11} {'-':>9}")
            continue
        rows = line["rows"].get(f"{name}.parquet")
        cost = "unknown" if line.get("unpriced") else f"{line.get('cost', 0):,.4f}"
        lines.append(
            f"  {name:<11} {'' if rows is None else f'{rows:,}':>9} {line['seconds']:>9,.1f}"
            f" {line.get('calls', 0):>8,.0f} {cost:>9}  {line['finished']}"
            + ("   made from what is gone" if line.get("stale") else "")
            + (f"   gone: {', '.join(line['gone'])}" if line.get("gone") else "")
        )
    if (left := facts.get("left")) is not None and not running:
        to_make = f"still to be made: {', '.join(left)}" if left else "a build with other settings was stopped"
        lines += ["", f"  {to_make}", *([f"  first mend your questions: {facts['wrong']}"] if "wrong" in facts else [])]
        lines += [f"  next:  {pasted(again(facts['run'], remark='goes on'))}"]
    if looked := seen(facts.get("reviewed") or {}):
        lines += ["", *(f"  {line}" for line in looked)]
    for pairs, *wrong in pairs_told(facts["steps"]):
        lines += ["", f"  pairs: {pairs}", *(f"    {line}" for line in _some(wrong))]
    if adapters:
        lines += ["", f"  {'adapter':<14} {'rows':>7} {'valid loss':>11}  {'trained':<17} approved by"]
        named = "raft ask answers with it" if (registered or {}).get("production") else "answers"
        lines += [_adapter(one, named) for one in adapters]
    lines += in_production(registered)
    if money and money["rows"]:
        lines += ["", *spending(money)]
    lines += ["", "  ledger (all that was ever asked from it)"]
    for model in spent:
        lines.append(
            f"    {model['model']}: {model['calls']:,} replies, {model['input_tokens']:,} tokens read,"
            f" {model['output_tokens']:,} written, {paid(model['cost'] or 0.0, model['calls_without_price'])}"
        )
    return "\n".join(lines if spent else [*lines, "    no reply yet"])


def _adapter(line: Mapping[str, Any], current: str) -> str:
    loss = "-" if line["valid_loss"] is None else f"{line['valid_loss']:.4f}"
    trained = str(line["created"] or "")[:16].replace("T", " ")
    mark = f"   ({current})" if line["current"] else ""
    approved = approval(line) if line.get("approval") else line["approved_by"] or "nobody yet"
    return f"  {line['adapter']:<14} {line['rows']:>7,} {loss:>11}  {trained:<17} {approved}{mark}"


def faults(failures: pl.DataFrame) -> str:
    """Return how often what was wrong, of rows of `tables.FAILURES`, the most frequent first."""
    counts = failures.group_by(FAULT, "kind").len("count").sort("count", "fault", descending=[True, False])
    lines = [f"  {row['count']:>7,}  {_short(row['fault'], 90)}   ({row['kind']})" for row in counts.to_dicts()]
    return "\n".join(["what was wrong:", *lines, ""])


def approval(card: Mapping[str, Any]) -> str:
    """Return an adapter's last approval in words: by whom, when, at which verdict, with which note."""
    last = card["approval"]
    verdict = last["verdict"]["decision"] if last["verdict"] else "not measured"
    return f"{last['by']}, {last['at'][:10]}, verdict then: {verdict}" + (f" ({last['note']})" if last["note"] else "")


def approved(card: Mapping[str, Any], run: str) -> str:
    """Return what is said of an approval, and what may come next."""
    told, then = f"{card['adapter']} is approved by {approval(card)}", "# raft serve answers with it then"
    return f"{told}\n  next:  raft registry promote {typed(run)} {card['adapter']} --by {me()}   {then}"


def rows(table: pl.DataFrame, name: str) -> Iterator[str]:
    """Yield rows of a table as text, one block a row; chats are shown turn by turn."""
    for row in table.iter_rows(named=True):
        if name == "examples":
            golden = ", ".join(f"[{place + 1}]" for place in row["golden_positions"]) or "left out"
            head = f"{row['question_id']}  {row['split']}  {row['tokens']} tokens  golden: {golden}"
            turns = [f"{turn['role']}:\n{_indent(turn['content'])}" for turn in row["messages"]]
            yield "\n".join(["─" * 100, head, *_in(row), *turns])
        elif name in ("questions", "qa", "cleaned"):
            yield _question(row)
        else:
            first = [key for key in ("document", "message") if key in row]
            yield "\n".join(f"{key:<16} {_short(row[key])}" for key in dict.fromkeys([*first, *row])) + "\n"


def duplicates(clusters: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield clusters of questions that say the same as text: the kept one, and those dropped for it."""
    for cluster in clusters:
        lines = [f"  kept  {_said(cluster['kept'])}"]
        for row in cluster["dropped"]:
            cosine = row["scores"]["similarity"]
            lines.append(f"  {'same' if cosine is None else f'{cosine:.2f}'}  {_said(row)}")
        yield "\n".join([f"{len(cluster['dropped']) + 1} questions", *lines, ""])


def _said(row: Mapping[str, Any]) -> str:
    return f"{_short(row['question'], 70)}   {_short(row['answer'], 30)}   ({row['question_id']})"


def _in(row: Mapping[str, Any]) -> list[str]:
    return [f"  in      {row['document']}"] if row.get("document") else []


def _question(row: Mapping[str, Any]) -> str:
    verdict = ""
    if "split" in row:
        verdict = f"kept for {row['split']}" if row["reason"] is None else f"dropped: {row['reason']}"
        verdict += f" of {row['duplicate_of']}" if row["duplicate_of"] else ""
    quotes = [f"  quote   {_short(quote['text'])}" for quote in row["quotes"]]
    head = f"{row['question_id']}  {row['kind']}  {verdict}".rstrip()
    read = [f"  {one['verdict']:.2f}    {one['asked']}: {_short(one['said'])}" for one in row.get("readings") or ()]
    lines = [head, *_in(row), f"  Q       {row['question']}", f"  A       {row['answer']}", *quotes, *read, ""]
    return "\n".join(lines)


def _short(value: Any, limit: int = 400) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return shortened(text, limit)


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _some(lines: Sequence[str], most: int = 10) -> list[str]:
    more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
    return [*lines[:most], *more]


def trained(card: Mapping[str, Any], run: str) -> str:
    """Return the outcome of a training as text; `card` is the adapter's, `run` the run directory as it was typed."""
    lines = [f"Trained {card['adapter']}, an adapter of {card['base']}", ""]
    lines += [f"  {label:<9} {text}" for label, text in _facts(card, run)]
    lines += ["", *_warnings(card)]
    run = typed(run)
    lines.append(f"  next:  raft ask {run} 'your question'")
    lines.append(f"         raft bench {run}                 # is it better than plain RAG?")
    lines.append(f"         raft approve {run} --by {me()}     # when you have seen that it is")
    return "\n".join(lines)


def promised(facts: Mapping[str, Any]) -> str:
    """Return what a refusal head promises, and what that costs, in a sentence (`pipeline.refusal.facts`)."""
    without, borne = f"{facts['unanswerable']:,}", f"{facts['answerable']:,}"
    passing = f"{facts['answered']:,} of {without} without an answer (at most {ceiled(facts['promised'])})"
    return f"answers {passing}, refuses {facts['refused']:,} of {borne} with one"


def refusing(facts: Mapping[str, Any], run: str) -> str:
    """Return what a refusal head promises as text (`api.train` with the part "refusal"); `run` as it was typed."""
    if not facts["wanted"]:
        what = "Nothing is promised of refusals any more: answering.min_relevance decides"
        return f"{what}\n\n  next:  raft ask {typed(run)} 'your question'"
    yours = facts["whose"] == "yours"
    whose = "half of your questions" if yours else "the run's, each by a head that was learned without it"
    without, borne = f"{facts['unanswerable']:,}", f"{facts['answerable']:,}"
    proves = f"at most {ceiled(facts['promised'])} of such questions ({'95 % sure' if yours else 'about 95 % sure'})"
    rates = [one for one in facts["rates"] if one["wanted"] != facts["wanted"]]
    told = ", ".join(f"{one['refused']:,} at {one['wanted']:g}" for one in rates)
    lines = [
        "Learned when to refuse",
        "",
        f"  learned   from {facts['learned_from']:,} questions, with what bears their answers and without it",
        f"  set on    {whose}: {without} times without an answer, {borne} with one",
        f"  answers   {facts['answered']:,} of {without} without an answer, which proves: {proves}",
        f"  refuses   {facts['refused']:,} of {borne} with one; {told}",
        f"  card      {run}/refusal/README.md",
    ]
    if facts["promised"] > facts["wanted"]:
        few = f"{without} are too few to promise {facts['wanted']:g}"
        lines += [
            "",
            f"  ! {few}: questions of your own help ({again(run, {'evaluation': 'questions.jsonl'})}, a file of yours)",
        ]
    other = f"raft train {typed(run)} --part refusal --set answering.false_answers=0.2"
    lines += ["", f"  next:  raft ask {typed(run)} 'your question'", f"         {other}   # another rate"]
    return "\n".join(lines)


def _facts(card: Mapping[str, Any], run: str) -> Iterator[tuple[str, str]]:
    general = f", {card['rehearsal']:,} general ones among them" if card["rehearsal"] else ""
    yield "rows", f"{card['rows'] + card['rehearsal']:,} learned from{general}; {card['valid']:,} to validate with"
    rate = card["tokens"] / max(card["seconds"], 1e-3)
    yield "tokens", f"{card['tokens']:,} read in {card['seconds']:,.0f} s, {rate:,.0f} a second with all measurements"
    yield "loss", _losses(card)
    yield "steps", f"{card['steps']:,}; the adapter is that of step {card['best_step']:,}"
    yield "where", f"{run}/adapters/{card['adapter']}   ({card['backend']}, {card['hardware']})"


def _losses(card: Mapping[str, Any]) -> str:
    curve = card["loss_curve"]
    measured = [point["valid_loss"] for point in curve if "valid_loss" in point]
    if measured:
        return f"{measured[0]:.4f} when first measured on the validation rows, {min(measured):.4f} at best"
    losses = [point["loss"] for point in curve if "loss" in point]
    return f"{losses[0]:.4f} at first, {losses[-1]:.4f} at last, on the training rows" if losses else "not told"


def _warnings(card: Mapping[str, Any]) -> Iterator[str]:
    notes = card["notes"]
    if "few_rows" in notes:
        yield f"  {notes['few_rows']} training questions are few: under {FEW_ROWS}, tuning rarely beats plain RAG."
    if "no_valid" in notes:
        yield "  There are no validation rows, so the last step was kept, be it the best or not."
    if "not_learned" in notes:
        yield "  No measurement was better than the first: a lower --learning-rate, or more rows, may help."
    if {"few_rows", "no_valid", "not_learned"} & notes.keys():
        yield ""
