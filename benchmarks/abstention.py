"""What tells that nothing found answers a question: the question's words, its sense, or the student's own word for it.

python benchmarks/abstention.py RUN QUESTIONS [--student]

Each question is looked at twice: with what the run's index brings, and with what it brings when every chunk that bears
the answer is withheld. A signal is good when it is higher for the former: the table has the share of pairs in which it
is (the area under the ROC curve; 0.5 is chance), and what share of the answerable questions would be refused at a
threshold at which so many of the withheld ones would be answered. With `--student` the run's adapter is asked how
likely its abstention is.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from raft import prompts
from raft.api.models import open_model, open_retriever
from raft.curation import user_questions
from raft.evaluation import contexts
from raft.pipeline.build import documents_listed
from raft.rag import answering
from raft.rag.format import ABSTENTION, PROMPTS, render_target
from raft.rag.grounding import Passage, coverage, relevance
from raft.settings import Settings
from raft.store import adapters
from raft.store.ledger import Ledger
from raft.store.run import existing

ANSWERED = (0.1, 0.15, 0.2, 0.3)
Signal = Callable[[Sequence[str], Sequence[Sequence[Passage]]], Sequence[float]]


def covered(questions: Sequence[str], passages: Sequence[Sequence[Passage]]) -> list[float]:
    """Return how much of each question its passages cover."""
    return [coverage(*pair) for pair in zip(questions, passages, strict=True)]


def near(embed: Callable[[Sequence[str]], np.ndarray]) -> Signal:
    """Return the signal of the sense alone: what `relevance` adds to the words."""

    def nearest(questions: Sequence[str], passages: Sequence[Sequence[Passage]]) -> list[float]:
        both = zip(relevance(questions, passages, embed), covered(questions, passages), strict=True)
        return [2 * mean - words for mean, words in both]

    return nearest


def student(folder: Path, settings: Settings, ledger: Ledger) -> Signal:
    """Return the signal of the run's tuned model: how unlikely it is to abstain."""
    opened = open_model(settings.student, settings, ledger, adapter=adapters.find(folder, None))
    prompt, scorer = prompts.load(PROMPTS[settings.examples.quotes], settings.prompts), opened.scorer
    if scorer is None:
        raise SystemExit("the student tells no likelihoods")

    def unlikely(questions: Sequence[str], passages: Sequence[Sequence[Passage]]) -> list[float]:
        asked = zip(questions, passages, strict=True)
        chats = [answering.request(*pair, prompt=prompt, style="", max_tokens=1).messages for pair in asked]
        said = render_target(ABSTENTION, [])
        return [-found[0] for found in scorer.score([(scorer.render(chat), said) for chat in chats])]

    return unlikely


def line(name: str, answerable: Sequence[float], withheld: Sequence[float]) -> str:
    """Return a row of the table."""
    ours, theirs = np.array(answerable)[:, None], np.array(withheld)[None, :]
    area = (ours > theirs).mean() + 0.5 * (ours == theirs).mean()
    refused = [(np.array(answerable) < _threshold(withheld, share)).mean() for share in ANSWERED]
    return f"| {name} | {area:.3f} | {' | '.join(f'{100 * share:.0f} %' for share in refused)} |"


def _threshold(withheld: Sequence[float], share: float) -> float:
    """Return the lowest value that at most a share of the withheld questions reaches."""
    reached = (value for value in sorted({*withheld}) if np.mean(np.array(withheld) >= value) <= share)
    return next(reached, np.inf)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--student", action="store_true")
    args = parser.parse_args()
    run = existing(args.run)
    settings = Settings.model_validate(run.manifest["settings"])
    rows = user_questions.register(args.questions, documents_listed(run))
    with closing(Ledger(settings.ledger or run.folder / "ledger.sqlite")) as ledger:
        retriever = open_retriever(run.folder, settings, run.manifest["collection"], lambda: ledger)
        found = contexts.contexts(
            rows,
            run.read("chunks.parquet"),
            documents_listed(run),
            retriever,
            k=settings.index.k,
            share=1.0,
            seed=settings.seed,
        )
        asked = dict(rows.select("question_id", "question").iter_rows())
        both = [name for name in asked if "withheld" in found.passages[name]]
        signals: dict[str, Signal] = {
            "the question's words in one passage": covered,
            "the nearest sentence": near(retriever.embedder.embed),
            "both: relevance": partial(relevance, embed=retriever.embedder.embed),
        }
        if args.student:
            signals["the student's own likelihood"] = student(run.folder, settings, ledger)
        print(f"{len(both)} questions, {settings.index.k} passages each\n")
        print("| signal | area | " + " | ".join(f"{100 * share:.0f} % answered" for share in ANSWERED) + " |")
        print("| --- | ---: | " + " | ".join("---:" for _ in ANSWERED) + " |")
        for name, signal in signals.items():
            values = [
                signal([asked[one] for one in both], [found.passages[one][context] for one in both])
                for context in ("retrieved", "withheld")
            ]
            print(line(name, *values), flush=True)


if __name__ == "__main__":
    main()
