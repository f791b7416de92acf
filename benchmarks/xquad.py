"""RAFT against plain RAG on XQuAD: generated questions on 20 articles, human questions on 20 that were never seen.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/xquad.py --out runs/xquad

Builds, trains and measures with raft's own calls; what was done before is not done again. The index holds all 240
paragraphs; questions are generated from the `seen` articles alone; `dev` is where anything is chosen; the human
questions of `unseen` are the headline.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import raft
from data import data_file, xquad_articles

CAPABILITY = ("arc_easy_val/validation.jsonl", "lambada_test/lambada_500.jsonl")
RATE, EPOCHS = 8e-4, 2.0
SETTINGS: dict[str, Any] = {
    "split.hold_out": ["dev/*", "unseen/*"],
    "split.unseen": 0.0,
    "split.seen": 0.0,
    "split.valid": 0.1,
    "questions.way": "spans",
    "questions.per_chunk": 5.0,
    "generator.attempts": 1,
    "index.k": 3,
    "examples.documents": 3,
}


def prepare(folder: Path) -> dict[str, Path]:
    """Write one Markdown file an article and one file of questions a part; return the files of questions by part."""
    everything: list[str] = []
    files: dict[str, Path] = {}
    for split, articles in xquad_articles().items():
        lines: list[str] = []
        for article in articles:
            name = f"{split}/{article['title'].replace('/', '-')}.md"
            texts = [paragraph["context"].replace("\n", " ") for paragraph in article["paragraphs"]]
            path = folder / "corpus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {article['title'].replace('_', ' ')}\n\n" + "\n\n".join(texts) + "\n", encoding="utf-8")
            for question in (asked for paragraph in article["paragraphs"] for asked in paragraph["qas"]):
                answers = list(dict.fromkeys(answer["text"] for answer in question["answers"]))
                row = {"question_id": question["id"], "question": question["question"], "answers": answers,
                       "document": name}  # fmt: skip
                lines.append(json.dumps(row, ensure_ascii=False))
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("\n".join(lines) + "\n", encoding="utf-8")
        everything += lines
    files["all"] = folder / "all.jsonl"
    files["all"].write_text("\n".join(everything) + "\n", encoding="utf-8")
    return files


def build(folder: Path, files: dict[str, Path], generator: str, student: str, **settings: Any) -> raft.Built:
    """Build the run: index of all articles, questions of the seen ones."""
    return raft.build(
        folder / "corpus",
        out=folder / "run",
        generator=generator,
        student=student,
        evaluation=files["all"],
        settings={**SETTINGS, **settings},
        listen=tell,
    )


def measure(folder: Path, questions: Path, **settings: Any) -> dict[str, Any]:
    """Measure all contenders on the human questions of one part."""
    return raft.bench(
        folder / "run",
        questions=questions,
        settings={
            "benchmark.capability": [str(data_file(name)) for name in CAPABILITY],
            "benchmark.latency_questions": 5,
            "benchmark.exemplars": [0, 2],
            "benchmark.tuning_questions": 33,
            "answering.max_tokens": 96,
            **settings,
        },
        listen=tell,
    )


def some(file: Path, each: int | None) -> Path:
    """Return a file with at most `each` questions of each article, evenly spread over it."""
    if each is None:
        return file
    articles: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        articles.setdefault(json.loads(line)["document"], []).append(line)
    kept = [
        lines[place * len(lines) // min(each, len(lines))]
        for lines in articles.values()
        for place in range(min(each, len(lines)))
    ]
    part = file.with_name(f"{file.stem}-{each}.jsonl")
    part.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return part


def tell(event: str, facts: dict[str, Any]) -> None:
    """Print what happens."""
    if event != "asked":
        print(event, {key: value for key, value in facts.items() if key != "line"}, flush=True)


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/xquad"))
    parser.add_argument("--generator", default="qwen2.5-coder-1.5b")
    parser.add_argument("--student", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--part", choices=["seen", "dev", "unseen"], default="unseen", help="whose questions are asked")
    parser.add_argument("--per-article", type=int, help="ask so many questions of each article, evenly spread")
    parser.add_argument("--only", choices=["build", "train", "bench"])
    args = parser.parse_args()
    files = prepare(args.out)
    if args.only in (None, "build"):
        build(args.out, files, args.generator, args.student)
    if args.only in (None, "train"):
        card = raft.train(args.out / "run", learning_rate=RATE, epochs=EPOCHS, listen=tell)
        print("adapter", card["adapter"], "seconds", card["seconds"])
    if args.only in (None, "bench"):
        measure(args.out, some(files[args.part], args.per_article))
        print((args.out / "run" / "report.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
