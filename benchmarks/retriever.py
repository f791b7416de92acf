"""Does a retriever that was tuned on a run's questions find more, where it was tuned and elsewhere?

python benchmarks/retriever.py RUN QUESTIONS... [--elsewhere RUN QUESTIONS]... [--rates X,..] [--epochs N,..] [--other]

For each learning rate and number of epochs what embeds questions is tuned on RUN's training questions, as `raft train
RUN --part retriever` does, and searched with: each file of questions in RUN, and other files in other runs, on which
nothing was learned. The tables have recall at 1, 2, 5 and 20 and MRR at ten ranks, by vectors alone and fused with
words, and of MRR the difference to the untuned one with its 95 percent interval, paired and drawn over documents. With
`--other` also what raft does not do: LoRA in the place of all weights; and both sides, with in-batch negatives and
a hard one a question. Seconds are of a processor. Nothing is written into the runs.
"""

import argparse
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raft.api import models
from raft.backends.embedding import SentenceEmbedder
from raft.backends.index.bm25 import LexicalIndex
from raft.backends.index.hybrid import DEPTH
from raft.backends.trainers import questions
from raft.backends.trainers.questions import Pairs
from raft.curation import user_questions
from raft.errors import RaftError
from raft.evaluation.contexts import contexts
from raft.evaluation.metrics import paired_difference, reciprocal_rank
from raft.pipeline.read import documents_listed
from raft.pipeline.retriever import learned_from
from raft.rag.relevant import Sources, ranks
from raft.settings import Settings, of_manifest
from raft.store.ledger import Ledger
from raft.store.run import Run, existing
from raft.text import embedded_text

CUTS = (1, 2, 5, 20)
Embed = Callable[[Sequence[str]], np.ndarray]


def copied(run: Run, settings: Settings, work: Path) -> Ledger:
    """Return a copy of a run's ledger, whose vectors need not be made again."""
    path = work / f"{run.manifest['collection']}.sqlite"
    if not path.exists():
        shutil.copyfile(settings.ledger or run.folder / "ledger.sqlite", path)
    return Ledger(path)


class Asked:
    """A file of questions in a run, with the ranks of what bears their answers once they were searched untuned."""

    def __init__(self, folder: Path, file: Path, work: Path) -> None:
        self.run: Run = existing(folder)
        self.settings: Settings = of_manifest(self.run.manifest["settings"], folder)
        self.title = f"{file.name} in {folder.name}"
        self.chunks, documents = self.run.read("chunks.parquet"), documents_listed(self.run)
        found = user_questions.own_questions(self.settings, file, documents)
        self.questions = found.unique("question_id", maintain_order=True)
        collection, ledger = self.run.manifest["collection"], copied(self.run, self.settings, work)
        self.embedder = embedder = models.question_embedder(self.settings, ledger, "bench")
        with models.open_indexes(folder, self.settings, embedder, collection).open(exact=True) as retriever:
            known = contexts(self.questions, self.chunks, documents, retriever, k=5, share=0.0, seed=0)
        self.sources: Sources = known.sources
        self.names = [name for name in self.sources.relevant if self.sources.relevant[name]]
        self.texts = [
            embedded_text(heading, text) for heading, text in self.chunks.select("heading", "text").iter_rows()
        ]
        self.ids = self.chunks["chunk_id"].to_list()
        self.usual = embedder.embed(self.texts)
        asked = dict(self.questions.select("question_id", "question").iter_rows())
        self.asked = [asked[name] for name in self.names]
        self.words = self._words()
        self.untuned = {hybrid: self.firsts(embedder.embed(self.asked), self.usual, hybrid) for hybrid in (False, True)}

    def _words(self) -> list[dict[str, int]]:
        lexical = LexicalIndex.load(self.run.folder / "lexical")
        found: list[dict[str, int]] = [{} for _ in self.asked]
        for query, chunk, rank in lexical.search(self.asked, DEPTH).select("query", "chunk_id", "rank").iter_rows():
            found[query][chunk] = rank
        return found

    def firsts(self, asked: np.ndarray, shown: np.ndarray, hybrid: bool) -> list[int | None]:
        """Return the rank of the first chunk that bears each question's answer; None: not among 50 of a list."""
        firsts: list[int | None] = []
        for name, scores, words in zip(self.names, asked @ shown.T, self.words, strict=True):
            order = [self.ids[place] for place in np.argsort(-np.round(scores, 6), kind="stable")[:DEPTH]]
            if hybrid:
                fused = {chunk: 1 / (60 + rank) for rank, chunk in enumerate(order, 1)}
                for chunk, rank in words.items():
                    fused[chunk] = fused.get(chunk, 0.0) + 1 / (60 + rank)
                order = sorted(fused, key=lambda chunk: (-fused[chunk], chunk))
            placed = ranks(self.sources.relevant[name], order)
            firsts.append(min((rank for rank in placed if rank is not None), default=None))
        return firsts

    def rows(self, title: str, asked: Embed, shown: Embed | None = None) -> Iterator[str]:
        """Yield a row for search by vectors, and one for both; `shown` embeds chunks anew."""
        vectors, chunks = asked(self.asked), self.usual if shown is None else shown(self.texts)
        groups = [self.sources.group(name) for name in self.names]
        for hybrid, told in ((False, "vectors"), (True, "both")):
            found, before = self.firsts(vectors, chunks, hybrid), self.untuned[hybrid]
            cells = [100 * sum(rank is not None and rank <= cut for rank in found) / len(found) for cut in CUTS]
            new, old = ([reciprocal_rank(rank) for rank in part] for part in (found, before))
            by = paired_difference(new, old, groups)
            assert by is not None
            gain = f"{100 * by.value:+.1f} [{100 * by.low:+.1f}, {100 * by.high:+.1f}]"
            yield f"| {title} | {told} | {' | '.join(f'{one:.1f}' for one in [*cells, 100 * np.mean(new)])} | {gain} |"


def lora(name: str, pairs: Pairs, rate: float, epochs: int) -> Embed:
    """Tune matrices of rank 16 on all linear layers of what embeds questions; the rest as raft does."""
    from peft import LoraConfig  # noqa: PLC0415  for those alone who measure it

    model = SentenceEmbedder(name)
    layers = ["query", "key", "value", "dense"]
    model.load().add_adapter(LoraConfig(r=16, lora_alpha=32, target_modules=layers))
    questions.tune_model(model.load(), pairs, seed=0, learning_rate=rate, epochs=epochs)
    return model.embed


def both_sides(name: str, pairs: Pairs, texts: Sequence[str], rate: float, epochs: int) -> Embed:
    """Tune one embedder of questions and chunks, with in-batch negatives and the nearest wrong chunk of each."""
    import torch  # noqa: PLC0415  heavy

    embedder = SentenceEmbedder(name)
    model = embedder.load()

    def embed(part: Sequence[str]) -> Any:
        read = model.preprocess if hasattr(model, "preprocess") else model.tokenize
        return torch.nn.functional.normalize(model(read(list(part)))["sentence_embedding"], dim=-1)

    near = np.argsort(-(embedder.embed(pairs.questions) @ pairs.chunks.T), axis=1)
    wrong = [
        next(int(one) for one in row if one not in (gold, *bar))
        for row, gold, bar in zip(near, pairs.golden, pairs.barred, strict=True)
    ]
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    order, drawn = list(range(len(pairs.questions))), random.Random(0)
    steps, step = epochs * math.ceil(len(order) / 32), 0
    torch.manual_seed(0)
    model.train()
    for _ in range(epochs):
        drawn.shuffle(order)
        for begin in range(0, len(order), 32):
            batch = order[begin : begin + 32]
            shown = list(dict.fromkeys([*(pairs.golden[one] for one in batch), *(wrong[one] for one in batch)]))
            scores = 20 * embed([pairs.questions[one] for one in batch]) @ embed([texts[one] for one in shown]).T
            for row, one in enumerate(batch):
                scores[row, [shown.index(bar) for bar in pairs.barred[one] if bar in shown]] = -math.inf
            golden = torch.tensor([shown.index(pairs.golden[one]) for one in batch])
            for group in optimiser.param_groups:
                group["lr"] = rate * min((step + 1) / max(1, steps // 10), (steps - step) / steps)
            torch.nn.functional.cross_entropy(scores, golden).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            step += 1
    model.eval()
    return embedder.embed


def measure(args: argparse.Namespace, work: Path) -> None:
    """Print the tables."""
    sets = [Asked(args.run, file, work) for file in args.questions]
    sets += [Asked(Path(folder), Path(file), work) for folder, file in args.elsewhere]
    run, chosen = sets[0].run, sets[0].settings
    name, embedder = chosen.index.embedder, sets[0].embedder
    indexes = models.open_indexes(run.folder, chosen, embedder, run.manifest["collection"])
    lesson = learned_from(run, chosen, embedder, lambda asker: indexes.open(exact=True, asker=asker))
    pairs = lesson.pairs
    known = dict(zip(sets[0].ids, sets[0].texts, strict=True))
    told: dict[str, list[str]] = {one.title: [*one.rows("untuned", one.embedder.embed)] for one in sets}

    def tell(title: str, begun: float, asked: Embed, shown: Embed | None = None) -> None:
        seconds = f"{title}, {time.process_time() - begun:.0f} s"
        for one in sets:
            told[one.title] += one.rows(seconds, asked, shown)
        print(seconds, file=sys.stderr, flush=True)

    print(f"{len(pairs.questions)} questions to learn from, among {len(pairs.chunks)} chunks")
    for rate in args.rates:
        for epochs in args.epochs:
            with tempfile.TemporaryDirectory() as made:
                begun = time.process_time()
                questions.tune(name, pairs, Path(made) / "model", seed=0, learning_rate=rate, epochs=epochs)
                tell(f"{rate:g}, {epochs} epochs", begun, SentenceEmbedder(str(Path(made) / "model")).embed)
    if args.other:
        begun = time.process_time()
        tell("LoRA, 3e-4, 2 epochs", begun, lora(name, pairs, 3e-4, 2))
        begun = time.process_time()
        both = both_sides(name, pairs, [known[one] for one in lesson.chunks], 2e-5, 1)
        tell("both sides, 2e-5, 1 epoch", begun, both, both)
    for title, rows in told.items():
        count = len(next(one for one in sets if one.title == title).names)
        head = " | ".join([*(f"recall@{cut}" for cut in CUTS), "MRR", "MRR, difference"])
        print(
            f"\n{title}, {count} questions:\n\n| tuned | search | {head} |\n| --- | --- |{' ---: |' * (len(CUTS) + 2)}"
        )
        print("\n".join(rows))


def main() -> int:
    """Print the tables that the command line asks for."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("questions", type=Path, nargs="+")
    parser.add_argument("--elsewhere", nargs=2, action="append", default=[], metavar=("RUN", "QUESTIONS"))
    numbers = partial(str.split, sep=",")
    parser.add_argument("--rates", type=lambda text: [*map(float, numbers(text))], default=[questions.LEARNING_RATE])
    parser.add_argument("--epochs", type=lambda text: [*map(int, numbers(text))], default=[questions.EPOCHS])
    parser.add_argument("--other", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        try:
            measure(args, Path(work))
        except RaftError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
