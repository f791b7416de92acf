"""What tells that nothing found answers a question, and what a threshold lets through.

python benchmarks/refusal.py RUN QUESTIONS... [--own] [--rerank] [--reader MODEL]

RUN has a refusal head (`raft train RUN --part refusal`). Each question whose answer the documents hold is looked at
with what the index brings, and with what it brings when every chunk that bears the answer is withheld; one that the
documents do not answer, with what the index brings. A signal is good when it is higher where the answer is shown: the
first table has the share of pairs in which it is (the area under the ROC curve; 0.5 is chance), and what share of the
questions whose answer is shown is refused at a threshold at which so many of the others are answered. The second one
has what the thresholds do that a person or a promise sets; with `--own` the head's is set on the run's questions alone,
also where people's are registered. Questions that a threshold was set on are left out. With `--rerank` a third one says
how often what bears the answer is among the first passages, as search brings them and in the order of the head's scores
of the first 20. With `--reader` a head is learned anew that reads with another model than the run's student.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from raft.api.models import open_reader, open_retriever
from raft.curation import user_questions
from raft.evaluation.contexts import DEPTH, Contexts, contexts
from raft.pipeline.read import documents_listed
from raft.pipeline.refusal import area, learn_head, read_head
from raft.rag.grounding import Passage, relevance
from raft.rag.refusal import Head, Learned, Pair, Seen, question_digest, threshold
from raft.settings import Settings
from raft.store.ledger import Ledger
from raft.store.run import Run, existing

ANSWERED = (0.05, 0.1, 0.13, 0.15, 0.2)
PROMISED = (0.05, 0.1, 0.15, 0.2)
CHOSEN = (0.4, 0.5, 0.6)
Signal = Callable[[Sequence[str], Sequence[Sequence[Passage]]], Sequence[float]]
Asked = tuple[list[str], list[Sequence[Passage]]]


def asked(found: Contexts, k: int) -> tuple[Asked, Asked, Asked]:
    """Return questions with what bears their answer, with what is left without that, and those without an answer."""
    names = dict(found.questions.select("question_id", "question").iter_rows())
    borne = [(name, found.passages[name]["retrieved"]) for name in names if found.sources.retrieved(name, k)]
    withheld = [(name, found.passages[name]["withheld"]) for name in names if "withheld" in found.passages[name]]
    unanswerable = set(found.questions.filter(pl.col("kind") == "unanswerable")["question_id"])
    others = [(name, found.passages[name]["retrieved"]) for name in names if name in unanswerable]
    shown = [[(names[name], passages) for name, passages in part if passages] for part in (borne, withheld, others)]
    first, second, third = (([one for one, _ in part], [passages for _, passages in part]) for part in shown)
    return first, second, third


def separating(name: str, borne: np.ndarray, without: np.ndarray) -> str:
    """Return a row of the first table."""
    cuts = [np.quantile(without, 1 - share, method="higher") for share in ANSWERED]
    refused = " | ".join(f"{100 * (borne <= cut).mean():.0f} %" for cut in cuts)
    return f"| {name} | {area(borne, without):.3f} | {refused} |"


def deciding(name: str, least: float, borne: np.ndarray, withheld: np.ndarray, others: np.ndarray) -> str:
    """Return a row of the second table."""
    told = [f"{(part >= least).sum()} of {len(part)}" if len(part) else "" for part in (withheld, others)]
    return f"| {name} | {least:.2f} | {told[0]} | {told[1]} | {(borne < least).sum()} of {len(borne)} |"


def reranked(found: Contexts, head: Head, seen: Seen, k: int) -> str:
    """Return the third table; `found` shows what search brings first, `DEPTH` passages."""
    asked = dict(found.questions.select("question_id", "question").iter_rows())
    names = [name for name in asked if found.sources.relevant.get(name)]
    pairs = [(asked[name], one) for name in names for one in found.passages[name]["retrieved"]]
    begun = time.monotonic()
    likely = iter(Learned(head.signals, head.reading).probabilities(*seen.look(pairs)))
    seconds = (time.monotonic() - begun) / max(1, len(names))
    orders: dict[str, list[list[bool]]] = {"search": [], "the head": [], "both: sum of their reciprocal ranks": []}
    for name in names:
        bears = [one.chunk_id in found.sources.relevant[name] for one in found.passages[name]["retrieved"]]
        scores = np.array([float(next(likely)) for _ in bears])
        ours = np.argsort(np.argsort(-scores))
        fused = np.argsort(-(1 / (60 + np.arange(len(bears))) + 1 / (60 + ours)), kind="stable")
        for order, places in zip(orders, (range(len(bears)), np.argsort(-scores), fused), strict=True):
            orders[order].append([bears[place] for place in places])
    lines = [f"| order | recall@1 | recall@{k} | recall@10 |", "| --- | ---: | ---: | ---: |"]
    for order, rows in orders.items():
        cells = (f"{100 * np.mean([any(row[:first]) for row in rows]):.1f}" for first in (1, k, 10))
        lines.append(f"| {order} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{seconds:.2f} s a question, where nothing is in the ledger"])


def report(run: Run, settings: Settings, args: argparse.Namespace, ledger: Ledger) -> None:
    """Print the tables of each file."""
    retriever = open_retriever(run.folder, settings, run.manifest["collection"], lambda: ledger)
    reader = open_reader(settings, retriever.embedder, ledger)
    kept = read_head(run)
    if kept is None:
        raise SystemExit("the run has no refusal head: raft train RUN --part refusal")
    head = learn_head(run, settings, retriever, reader, theirs=not args.own) if args.own or args.reader else kept
    rule = partial(relevance, embed=retriever.embedder.embed)

    def best(look: Callable[[Sequence[Pair]], np.ndarray]) -> Signal:
        def signal(questions: Sequence[str], passages: Sequence[Sequence[Passage]]) -> list[float]:
            values = iter(look([(one, own) for one, shown in zip(questions, passages, strict=True) for own in shown]))
            return [max(float(next(values)) for _ in shown) for shown in passages]

        return lambda questions, passages: signal(questions, passages) if questions else []

    def column(place: int) -> Signal:
        return best(lambda pairs: reader.seen.measure(pairs)[:, place])

    signals: dict[str, Signal] = {
        "words: the question's words in a passage": column(0),
        "sense: the nearest sentence": column(1),
        "topic: the nearest passage": column(2),
        "the rule: mean of words and sense": rule,
    }
    if head.reading is not None and reader.seen.read is not None:
        reading, read = head.reading, reader.seen.read
        signals["reading: the student's layers"] = best(lambda pairs: reading.nats(read(pairs)))
    signals["the head"] = lambda *pairs: head.scores(*pairs, reader.seen)
    print(f"learned from {head.questions} questions; threshold set on {len(head.unanswerable)} of {head.whose}\n")
    for file in args.questions:
        rows = user_questions.register(file, documents_listed(run))
        rows = rows.filter([question_digest(one) not in head.calibrated for one in rows["question"]])
        k = settings.index.k
        chunks, documents = run.read("chunks.parquet"), documents_listed(run)
        found = contexts(rows, chunks, documents, retriever, k=k, share=1.0, seed=settings.seed)
        parts = asked(found, k)
        bearing = sum(bool(found.sources.relevant.get(name)) for name in rows["question_id"])
        print(
            f"{file.name}: {rows.height} questions; of {bearing} with an answer {len(parts[0][0])} have it among {k} "
            f"passages, {len(parts[1][0])} are asked without it; {len(parts[2][0])} have none\n"
        )
        values = {name: [np.array(signal(*part)) for part in parts] for name, signal in signals.items()}
        print(f"| signal | area | {' | '.join(f'at {100 * share:.0f} % answered' for share in ANSWERED)} |")
        print(f"| --- | ---: |{' ---: |' * len(ANSWERED)}")
        for name, (borne, withheld, others) in values.items():
            print(separating(name, borne, np.concatenate([withheld, others])))
        print("\n| threshold | score | withheld, answered | unanswerable, answered | shown, refused |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for least in CHOSEN:
            print(deciding(f"min_relevance {least}", least, *values["the rule: mean of words and sense"]))
        for rate in PROMISED:
            least, promised = threshold(head.unanswerable, rate)
            print(deciding(f"false_answers {rate}, promised {promised:.2f}", least, *values["the head"]))
        if args.rerank:
            found = contexts(rows, chunks, documents, retriever, k=DEPTH, share=0.0, seed=settings.seed)
            print(f"\n{reranked(found, head, reader.seen, k)}")
        print(flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("questions", type=Path, nargs="+")
    parser.add_argument("--own", action="store_true", help="set the threshold on the run's own questions")
    parser.add_argument("--rerank", action="store_true", help="also order what search brings by the head")
    parser.add_argument("--reader", metavar="MODEL", help="learn a head that reads with this one, in memory")
    args = parser.parse_args()
    run = existing(args.run)
    settings = Settings.model_validate(run.manifest["settings"])
    if args.reader:
        settings = settings.model_copy(update={"student": args.reader})
    with closing(Ledger(settings.ledger or run.folder / "ledger.sqlite")) as ledger:
        report(run, settings, args, ledger)


if __name__ == "__main__":
    main()
