"""What is said of a tuned retriever."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raft.errors import typed
from raft.report.figures import spread

_SETS = {"all": "of all together", "user": "of your own", "eval_unseen": "about documents held out whole"}


def tuned(card: Mapping[str, Any], run: str) -> str:
    """Return the outcome of a tuning as text (`pipeline.retriever.Card`); `run` is the directory as it was typed."""
    chunks = f"{card['chunks']:,} chunks, of which search finds {card['hard']:,} near and wrong"
    lines = [
        "Tuned the retriever" if card["used"] else "Tuned the retriever, which is not used",
        "",
        f"  learned   from {card['questions']:,} questions, among {chunks}",
        *_table(card),
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


def _table(card: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each set of questions and measure: untuned, tuned, and the difference with its interval."""
    sets = {name: one for name, one in card["measured"].items() if one["questions"]}
    for name, one in sets.items() if len(sets) != 2 else [*sets.items()][:1]:
        for key, label in (("recall_at_1", "recall@1"), ("recall_at_k", f"recall@{card['k']}"), ("mrr", "MRR")):
            before, after, by = (one[key][part] for part in ("before", "after", "difference"))
            by = f"{100 * by['value']:+.1f} ({spread(by, signed=True)})"
            told = f"{label:<9} {100 * before['value']:5.1f} untuned, {100 * after['value']:5.1f} tuned: {by}"
            about = f"   ({one['questions']:,} questions {_SETS[name]})" if key == "recall_at_1" else ""
            yield f"  {'measured' if (name, key) == ('all', 'recall_at_1') else '':<9} {told}{about}"
