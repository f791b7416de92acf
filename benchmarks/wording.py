"""How far generated questions are worded as people's are, and what each means does about it, on XQuAD's `seen`.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/wording.py RUN {people,reword,candidates,like} [--rows 100]

RUN is a copy of `runs/xquad/run`, built or stopped; new replies go into its ledger. Where it has no questions yet, they
are those whose replies its ledger holds. `people` measures what is there; `reword` words questions anew, and writes
them to RUN/reworded-MODEL.jsonl to be read; `candidates` asks three times for a question; `like` chooses half by 20
examples.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl

from data import xquad_articles
from raft.api.models import open_model, question_embedder
from raft.backends.index.hybrid import Indexes
from raft.curation import clean, coverage, wording
from raft.curation.duplicates import one_wording
from raft.generation import generate
from raft.pipeline.asking import read_survey
from raft.protocols import Completion, Failure, Request
from raft.settings import Settings
from raft.store import tables
from raft.store.ledger import Ledger, request_key
from raft.store.run import Run
from raft.text import normalise, word_count

KINDS = ("fact", "number", "date", "name")
LIMITS = {"min_words": 4, "max_words": 40, "max_answer_words": 60}
K = 2
"""As the study's settings have it (`index.k`)."""
Row = dict[str, Any]


class Replayed:
    """Answers what a ledger holds an answer to, and nothing else."""

    def __init__(self, ledger: Ledger, identity: str) -> None:
        self.ledger, self.identity = ledger, identity

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield what is known, in the order of the requests."""
        for request in requests:
            found = self.ledger.find([request_key(request, self.identity, 0)])
            texts = [getattr(entry, "reply", None) for entry in found.values()]
            try:
                if not texts or request.check is None:
                    raise ValueError("it is not known")
                request.check(texts[0])
                yield Completion(texts[0], self.identity)
            except ValueError as error:
                yield Failure("malformed", str(error))


class Study:
    """A run with its chunks, its questions that the rules keep, and the model that wrote them."""

    def __init__(self, folder: Path, ledger: Ledger, model: str) -> None:
        self.run, self.ledger, self.settings = Run(folder), ledger, Settings(generator={"model": model})
        self.model = open_model(model, self.settings, ledger).generator
        self.chunks = self.run.read("chunks.parquet")
        self.texts = {row["chunk_id"]: row for row in self.chunks.iter_rows(named=True)}
        self.passage = clean.passages_of(self.texts)
        embedder = question_embedder(self.settings, ledger, "wording")
        self.indexes = Indexes(folder, embedder, hybrid=True, url=None, collection=str(self.run.manifest["collection"]))
        if not (folder / "questions.parquet").exists():
            self.ask(Replayed(ledger, self.model.identity)).write_parquet(folder / "questions.parquet")
        self.questions = pl.read_parquet(folder / "questions.parquet")

    def ask(self, generator: Any, chunks: pl.DataFrame | None = None, candidates: int = 1) -> pl.DataFrame:
        """Return the questions that are asked of the articles that are not held out."""
        known, failures = read_survey(self.run), []
        found = generate.ask(
            iter([self.chunks if chunks is None else chunks]),
            known,
            generator,
            generate.read_prompts(None),
            strategy="spans",
            kinds=KINDS,
            per_chunk=3.0,
            limit=None,
            model=self.settings.generator.model,
            failures=failures,
            candidates=candidates,
        )
        frames = [*found]
        print(f"{sum(frame.height for frame in frames)} questions, {len(failures)} failures", flush=True)
        return pl.concat(frames)

    def kept(self, questions: pl.DataFrame) -> list[Row]:
        """Return what the rules and the round trip keep."""
        rows = [clean.judged(row, self.texts, LIMITS, {}, {}) for row in questions.iter_rows(named=True)]
        with self.indexes.open(exact=True) as retriever:
            clean.round_trip(clean.kept(rows), self.texts, retriever=retriever, k=K, held_out=frozenset(), good={})
        return clean.kept(rows)


def people(study: Study) -> list[tuple[str, str]]:
    """Return people's questions on `seen`, each with heading and text of the chunk that its answer stands in."""
    documents = study.run.read("documents.parquet")
    texts = {row["path"]: row for row in documents.iter_rows(named=True)}
    found = []
    for article in xquad_articles()["seen"]:
        document = texts[f"seen/{article['title'].replace('/', '-')}.md"]
        chunks = study.chunks.filter(pl.col("doc_id") == document["doc_id"]).to_dicts()
        for paragraph in article["paragraphs"]:
            place = document["text"].find(paragraph["context"].replace("\n", " "))
            for asked in paragraph["qas"]:
                at = place + asked["answers"][0]["answer_start"]
                home = next((one for one in chunks if one["start"] <= at < one["end"]), None)
                if place >= 0 and home is not None:
                    found.append((asked["question"], study.passage({"golden_chunk_ids": [home["chunk_id"]]})))
    return found


def apart(ours: Counter[Any], theirs: Counter[Any]) -> float:
    """Return the total variation distance (0 to 1) of two distributions."""
    names = {*ours, *theirs}
    return sum(abs(ours[name] / ours.total() - theirs[name] / theirs.total()) for name in names) / 2


THEIRS: list[tuple[str, str]] = []
"""People's questions, once they are read."""


def line(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Return a row of the table: questions with what their chunks say, and how far they are from people's."""
    sources = [source for _, source in pairs]
    rows = [{"question": question, "source": source} for question, source in pairs]
    told = wording.measures(rows, lambda row: str(row["source"]))
    begun = Counter(normalise(question).partition(" ")[0] for question, _ in pairs)
    first = ", ".join(f"{word} {100 * count / len(pairs):.0f}" for word, count in begun.most_common(6))
    counts = sorted(word_count(question) for question, _ in pairs)
    low, high = counts[len(counts) // 10], counts[len(counts) * 9 // 10]
    shares = f"{100 * told['overlap']:.0f} | {100 * told['all']:.0f} | {told['words']:.1f} ({low} to {high})"
    far = [
        apart(Counter(part(question) for question, _ in pairs), Counter(part(question) for question, _ in THEIRS))
        for part in (lambda text: normalise(text).partition(" ")[0], lambda text: word_count(text) // 3)
    ]
    return f"| {name} | {len(sources)} | {shares} | {first} | {far[0]:.2f} | {far[1]:.2f} |"


def spread(rows: Sequence[Any], count: int) -> list[Any]:
    """Return up to so many rows, evenly spread."""
    count = min(count, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def reword(study: Study, count: int, examples: Sequence[str], out: Path) -> None:
    """Word some questions anew, print the measures before and after, and write what came for reading."""
    old = spread(study.kept(study.questions), count)
    raw = study.questions.filter(pl.col("question_id").is_in([row["question_id"] for row in old]))
    how = wording.asked(None, examples, each=1, least=0.5)
    with study.indexes.open(exact=True) as retriever:
        new, stats = wording.reword(
            raw,
            study.chunks,
            how,
            generator=study.model,
            model="reworded",
            retriever=retriever,
            share=1.0,
            seed=0,
            k=K,
            limits=LIMITS,
            languages={},
            held_out=frozenset(),
            identify=generate.question_id,
        )
    print(json.dumps(stats), flush=True)
    before = {row["question_id"]: row for row in old}
    rows = [(before[row["prompt"].rpartition(" ")[2]], row) for row in new.iter_rows(named=True)]
    with out.open("w", encoding="utf-8") as file:
        for one, row in rows:
            told = {"before": one["question"], "after": row["question"], "answer": row["answer"]}
            file.write(json.dumps({**told, "quote": row["quotes"][0]["text"]}, ensure_ascii=False) + "\n")
    changed = {one["question_id"]: row["question"] for one, row in rows}
    mixed = [(changed.get(row["question_id"], row["question"]), study.passage(row)) for row in old]
    print(line("asked about", [(row["question"], study.passage(row)) for row in old]))
    print(line("of these, replaced", [(one["question"], study.passage(one)) for one, _ in rows]))
    print(line("by", [(row["question"], study.passage(row)) for _, row in rows]))
    print(line("all of them then", mixed))


def candidates(study: Study, count: int) -> None:
    """Ask three times for the questions of some chunks, and print what the choice of one a fact does."""
    asked = set(study.questions["golden_chunk_ids"].explode())
    some = spread([row["chunk_id"] for row in study.chunks.iter_rows(named=True) if row["chunk_id"] in asked], count)
    known = study.ask(study.model, study.chunks.filter(pl.col("chunk_id").is_in(some)), candidates=3)
    rows = study.kept(known)
    print(line("each candidate", [(row["question"], study.passage(row)) for row in rows]))
    once = study.kept(study.ask(study.model, study.chunks.filter(pl.col("chunk_id").is_in(some))))
    print(line("asked once", [(row["question"], study.passage(row)) for row in once]))
    one_wording(rows, study.passage)
    left = clean.kept(rows)
    print(line("least overlap of a fact", [(row["question"], study.passage(row)) for row in left]))


def like(study: Study, examples: Sequence[str]) -> None:
    """Choose half of the questions by 20 examples, and without."""
    kept = tables.frame(tables.CLEANED, study.kept(study.questions))
    headings = dict(study.chunks.select("chunk_id", "heading").iter_rows())
    for name, own in (("half, without examples", ()), ("half, with 20 examples", examples)):
        chosen = coverage.choose(kept, headings, kept.height // 2, seed=0, like=own)
        rows = chosen.filter(pl.col("reason").is_null()).to_dicts()
        print(line(name, [(row["question"], study.passage(row)) for row in rows]))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("part", choices=["people", "reword", "candidates", "like"])
    parser.add_argument("--model", default="qwen2.5-coder-1.5b")
    parser.add_argument("--rows", type=int, default=100, help="questions, or chunks for candidates")
    parser.add_argument("--like", action="store_true", help="show 20 people's questions to those who word anew")
    given = parser.parse_args()
    with closing(Ledger(given.run / "ledger.sqlite")) as ledger:
        study = Study(given.run, ledger, given.model)
        theirs = people(study)
        THEIRS.extend(theirs)
        examples = [question for question, _ in spread(theirs, 20)]
        if given.part == "people":
            kept: Mapping[str, Any] = {row["question_id"]: row for row in study.kept(study.questions)}
            print(line("people", theirs))
            print(line("generated, kept", [(row["question"], study.passage(row)) for row in kept.values()]))
        elif given.part == "reword":
            reword(study, given.rows, examples if given.like else [], given.run / f"reworded-{given.model}.jsonl")
        elif given.part == "candidates":
            candidates(study, given.rows)
        else:
            like(study, examples)


if __name__ == "__main__":
    main()
