"""What a model's second look at a question tells: is it higher for pairs that people called right than for the others?

python benchmarks/model_filters.py LEDGER MODEL SIGNAL... [--corpus example] [--rows 100]

Of the labelled pairs in `benchmarks/labels`, those that the pipeline's rules kept; so many of them, spread evenly. The
area under the ROC curve is the share of cases (one right pair, one not) in which the right one has more; 0.5 is chance.
Its interval is that of a bootstrap. Then the share of right pairs that is kept, and of what is kept that is right,
at the threshold that keeps at least 70 percent of the right ones.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from raft import prompts
from raft.api.models import OpenedModel, open_model
from raft.curation.reading import JUDGE_SCHEMA, JUDGE_TOKENS, READER_TOKENS, agreement, chosen, read_mark
from raft.protocols import Completion, Request
from raft.settings.sections import Cleaning, Settings
from raft.store.ledger import Ledger

Pair = Mapping[str, Any]


def replies(model: OpenedModel, requests: Sequence[Request]) -> list[str]:
    """Return what the model says, nothing where it says nothing of use."""
    return [one.text if isinstance(one, Completion) else "" for one in model.generator.complete(requests)]


def reader(model: OpenedModel, pairs: Sequence[Pair]) -> list[float]:
    """Return how far the model, reading the passage, says the same."""
    prompt = prompts.load("reader")
    chats = [prompt.render(question=one["question"], passage=one["passage"]) for one in pairs]
    said = replies(model, [Request(chat, max_tokens=READER_TOKENS) for chat in chats])
    return [agreement(one["answer"], text, kind=one["kind"]) for one, text in zip(pairs, said, strict=True)]


def closed(model: OpenedModel, pairs: Sequence[Pair]) -> list[float]:
    """Return how far the model says the same without a document."""
    chats = [prompts.load("closed").render(question=one["question"], style="") for one in pairs]
    said = replies(model, [Request(chat, max_tokens=READER_TOKENS) for chat in chats])
    return [agreement(one["answer"], text, kind=one["kind"]) for one, text in zip(pairs, said, strict=True)]


def judge(model: OpenedModel, pairs: Sequence[Pair]) -> list[float]:
    """Return the judge's mark; the middle where there is none."""
    shown = [{name: one[name] for name in ("question", "answer", "passage")} for one in pairs]
    chats = [prompts.load("judge").render(**values) for values in shown]
    asked = [Request(chat, max_tokens=JUDGE_TOKENS, schema=JUDGE_SCHEMA, check=read_mark) for chat in chats]
    return [read_mark(text) if text else 0.5 for text in replies(model, asked)]


def rubric(model: OpenedModel, pairs: Sequence[Pair]) -> list[float]:
    """Return the share of the default rubric's questions that are answered with yes; a half where nothing is."""
    rows = [{**one, "reason": None} for one in pairs]
    (filter_,) = chosen(Cleaning(rubric="default"), None, seed=0)
    filter_.apply(rows, lambda row: str(row["passage"]), model.generator, frozenset())
    told = [[one["verdict"] for one in row.get("readings", ())] for row in rows]
    return [sum(verdicts) / len(verdicts) if verdicts else 0.5 for verdicts in told]


def said(model: OpenedModel, pairs: Sequence[Pair]) -> list[float]:
    """Return how much likelier a token of the sentence is after question and answer than without them, in nats."""
    after = [(f"Question: {one['question']}\nAnswer: {one['answer']}\nText:", f" {one['sentence']}") for one in pairs]
    alone = [("Text:", text) for _, text in after]
    return (likely(model, after) - likely(model, alone)).tolist()


def formed(model: OpenedModel, pairs: Sequence[Pair]) -> list[float]:
    """Return how likely a token of the question is after sentence and answer, in nats."""
    form = "Text: {sentence}\nAnswer: {answer}\nQuestion:"
    return likely(model, [(form.format(**one), f" {one['question']}") for one in pairs]).tolist()


def likely(model: OpenedModel, texts: Sequence[tuple[str, str]]) -> np.ndarray:
    """Return the mean log-likelihood of a token of each text."""
    if model.scorer is None:
        raise SystemExit("the model tells no likelihoods")
    return np.array([nats / max(1, tokens) for nats, _, tokens in model.scorer.score(texts)])


SIGNALS: dict[str, Callable[[OpenedModel, Sequence[Pair]], list[float]]] = {
    one.__name__: one for one in (reader, closed, judge, rubric, said, formed)
}


def area(scores: np.ndarray, right: np.ndarray) -> float:
    """Return the area under the ROC curve; ties count half."""
    above = scores[right][:, None] - scores[~right][None, :]
    return float((above > 0).mean() + (above == 0).mean() / 2) if above.size else float("nan")


def line(name: str, values: np.ndarray, right: np.ndarray, seconds: float) -> str:
    """Return a row of the table."""
    draw = np.random.default_rng(0)
    drawn = [area(values[rows], right[rows]) for rows in draw.integers(0, len(values), (1000, len(values)))]
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    kept = values >= np.quantile(values[right], 0.3, method="lower")
    shown = f"{area(values, right):.2f} [{low:.2f}, {high:.2f}] | {kept[right].mean():.2f} | {right[kept].mean():.2f}"
    return f"| {name} | {len(values)} | {right.mean():.2f} | {shown} | {seconds:.1f} |"


def main() -> None:
    """Ask, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("model")
    parser.add_argument("signals", nargs="+", choices=SIGNALS)
    parser.add_argument("--corpus", action="append")
    parser.add_argument("--rows", type=int, default=150)
    given = parser.parse_args()
    from labels import CORPORA, load  # noqa: PLC0415  the signals can be had without them

    kept = load(given.corpus or CORPORA).filter(pl.col("reason").is_null()).to_dicts()
    pairs = [kept[place * len(kept) // given.rows] for place in range(given.rows)] if given.rows < len(kept) else kept
    pairs = [{**one, "sentence": " ".join(one["quotes"])} for one in pairs]
    right = np.array([one["label"] == "right" for one in pairs])
    with closing(Ledger(given.ledger)) as ledger:
        model = open_model(given.model, Settings(), ledger)
        for name in given.signals:
            begun = time.monotonic()
            scores = np.array(SIGNALS[name](model, pairs))
            took = (time.monotonic() - begun) / len(pairs)
            for corpus in ["", *sorted({one["corpus"] for one in pairs})]:
                rows = np.array([corpus in ("", one["corpus"]) for one in pairs])
                title = f"{name} | {Path(given.model).name} | {corpus or 'all'}"
                print(line(title, scores[rows], right[rows], took), flush=True)


if __name__ == "__main__":
    main()
