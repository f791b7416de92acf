"""What a run says to a person: its summary, its state, its rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from raft.stages.tuning import FEW_ROWS
from raft.words_privacy import privacy_lines
from raft.words_spending import paid, spending


def summary(facts: Mapping[str, Any]) -> str:
    """Return the outcome of a build as text that a person can act on; `facts` is what `Built.summary` returns."""
    steps = facts["steps"]
    lines = [f"Built {facts['run']}", ""]
    for label, text in _rows(facts["run"], steps, facts.get("skipped") or []):
        head, *rest = text.split("\n")
        lines += [f"  {label:<11} {head}", *(f"  {'':<11}   {line}" for line in rest)]
    lines += ["", *_advice(facts["run"], steps)]
    return "\n".join(lines)


def _rows(run: str, steps: Mapping[str, Any], skipped: Sequence[Sequence[str]]) -> Iterator[tuple[str, str]]:
    notes = {name: line["notes"] for name, line in steps.items()}
    unreadable = notes["documents"].get("unreadable", [])
    read = steps["documents"]["rows"]["documents.parquet"] - len(unreadable)
    text = f"{read:,} read"
    text += f", {len(unreadable):,} could not be read:" if unreadable else ""
    yield "documents", "\n".join([text, *_some([f"{path}: {reason}" for path, reason in unreadable])])
    if skipped:
        yield "left out", "\n".join([f"{len(skipped):,} files", *_some([f"{name}: {why}" for name, why in skipped], 3)])
    found = privacy_lines(notes, run)
    if found:
        yield "privacy", "\n".join(found)
    chunks, tokens = steps["chunks"]["rows"]["chunks.parquet"], notes["chunks"].get("tokens", 0)
    furniture = notes["chunks"].get("boilerplate", 0)
    yield "chunks", f"{chunks:,} of {tokens / max(1, chunks):,.0f} tokens on average; {furniture:,} boilerplate"
    asked, failed = steps["questions"]["rows"], notes["questions"].get("failures", {})
    text = f"{asked['questions.parquet']:,} written ({_list(notes['questions']['kinds'])})"
    text += f"; {asked['failures.parquet']:,} failed ({_list(failed)})" if failed else ""
    yield "questions", text
    reasons, splits = notes["cleaned"]["reasons"], notes["cleaned"]["splits"]
    kept = {split: splits[split] for split in ("train", "valid", "eval_seen", "eval_unseen") if split in splits}
    yield "kept", f"{sum(kept.values()):,} ({_list(kept)})"
    if reasons:
        yield "dropped", f"{sum(reasons.values()):,} ({_list(reasons)})"
    if "user" in splits:
        yield "your own", f"{splits['user']:,} questions to measure with; none like them is left to train on"
    made = steps["examples"]["rows"]
    text = f"{made['train.jsonl']:,} to train on, {made['valid.jsonl']:,} to validate with"
    shortened = notes["examples"].get("shortened") or {}
    yield "examples", text + (f"; {len(shortened):,} had to lose distractors to fit" if shortened else "")
    yield "asked", _spending(steps)


def _advice(run: str, steps: Mapping[str, Any]) -> Iterator[str]:
    kept = steps["cleaned"]["notes"]["splits"].get("train", 0)
    if kept < FEW_ROWS:
        yield f"  {kept} training questions are few: {FEW_ROWS} or more are worth tuning on. More come from more"
        yield "  documents, --questions-per-chunk, or a better generator (--generator openai/gpt-4o-mini)."
        yield ""
    yield f"  next:  raft show {run} examples               (read some rows before you train on them)"
    yield f"         raft show {run} cleaned --only dropped (and what was dropped, with the reasons)"
    yield f"         raft train {run}                       (or raft export {run} --format openai, axolotl or hf)"


def _spending(steps: Mapping[str, Any]) -> str:
    total = {key: sum(line.get(key, 0) for line in steps.values())
             for key in ("calls", "replayed", "input_tokens", "output_tokens", "cost", "unpriced")}  # fmt: skip
    price = paid(total["cost"], total["unpriced"])
    return (
        f"{total['calls']:,.0f} replies ({total['replayed']:,.0f} from the ledger), "
        f"{total['input_tokens']:,.0f} tokens read and {total['output_tokens']:,.0f} written, {price}"
    )


def _step_cost(line: Mapping[str, Any]) -> str:
    return "unknown" if line.get("unpriced") else f"{line.get('cost', 0):,.4f}"


def status(
    facts: Mapping[str, Any],
    spent: Sequence[Mapping[str, Any]],
    running: bool,
    adapters: Sequence[Mapping[str, Any]] = (),
    money: Mapping[str, Any] | None = None,
) -> str:
    """Return the state of a run step by step, its adapters (`modelcard.line`), what it cost, what its ledger holds."""
    lines = [
        f"{facts['run']}   raft {facts['raft']}" + ("   (a build is running, or a training)" if running else ""),
        "",
    ]
    lines.append(f"  {'step':<11} {'rows':>9} {'seconds':>9} {'calls':>8} {'dollars':>9}  finished")
    for name in ("documents", "chunks", "survey", "index", "lexical", "questions", "cleaned", "examples"):
        line = facts["steps"].get(name)
        if line is None:
            lines.append(f"  {name:<11} {'-':>9}")
            continue
        rows = line["rows"].get(f"{name}.parquet")
        lines.append(
            f"  {name:<11} {'' if rows is None else f'{rows:,}':>9} {line['seconds']:>9,.1f}"
            f" {line.get('calls', 0):>8,.0f} {_step_cost(line):>9}  {line['finished']}"
            + ("   made from what is gone" if line.get("stale") else "")
        )
    if any(line.get("stale") for line in facts["steps"].values()) and not running:
        lines += ["", f"  a build was stopped; next:  raft build CORPUS --out {facts['run']}   (goes on)"]
    if adapters:
        lines += [
            "",
            f"  {'adapter':<14} {'rows':>7} {'valid loss':>11}  {'trained':<17} approved by",
            *map(_adapter, adapters),
        ]
    if money and money["rows"]:
        lines += ["", *spending(money)]
    lines += ["", "  ledger (all that was ever asked from it)"]
    for model in spent:
        lines.append(
            f"    {model['model']}: {model['calls']:,} replies, {model['input_tokens']:,} tokens read,"
            f" {model['output_tokens']:,} written, {paid(model['cost'] or 0.0, model['calls_without_price'])}"
        )
    return "\n".join(lines if spent else [*lines, "    nothing yet"])


def _adapter(line: Mapping[str, Any]) -> str:
    loss = "-" if line["valid_loss"] is None else f"{line['valid_loss']:.4f}"
    trained = str(line["created"] or "")[:16].replace("T", " ")
    mark = "   (answers)" if line["current"] else ""
    approved = line["approved_by"] or "nobody yet"
    return f"  {line['adapter']:<14} {line['rows']:>7,} {loss:>11}  {trained:<17} {approved}{mark}"


def rows(table: pl.DataFrame, name: str) -> Iterator[str]:
    """Yield rows of a table as text, one block a row; chats are shown turn by turn."""
    for row in table.iter_rows(named=True):
        if name == "examples":
            head = f"{row['question_id']}  {row['split']}  {row['tokens']} tokens  golden at {row['golden_positions']}"
            turns = [f"{turn['role']}:\n{_indent(turn['content'])}" for turn in row["messages"]]
            yield "\n".join(["─" * 100, head, *turns])
        elif name in ("questions", "cleaned"):
            yield _question(row)
        else:
            yield "\n".join(f"{key:<16} {_short(value)}" for key, value in row.items()) + "\n"


def _question(row: Mapping[str, Any]) -> str:
    verdict = ""
    if "split" in row:
        verdict = f"kept for {row['split']}" if row["reason"] is None else f"dropped: {row['reason']}"
        verdict += f" of {row['duplicate_of']}" if row["duplicate_of"] else ""
    quotes = "".join(f"\n  quote   {_short(quote['text'])}" for quote in row["quotes"])
    head = f"{row['question_id']}  {row['kind']}  {verdict}".rstrip()
    return f"{head}\n  Q       {row['question']}\n  A       {row['answer']}{quotes}\n"


def _short(value: Any, limit: int = 400) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _some(lines: Sequence[str], most: int = 10) -> list[str]:
    more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
    return [*lines[:most], *more]
