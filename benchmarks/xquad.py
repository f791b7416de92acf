"""RAFT against plain RAG on XQuAD: generated questions on 20 articles, human questions on 20 that were never seen.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/xquad.py --out runs/xquad

The index holds all 240 paragraphs; questions are generated from the `seen` articles alone; `dev` is where anything is
chosen; the human questions of `unseen` are the headline.
"""

from pathlib import Path

import studies
from data import xquad_articles


def prepare(folder: Path) -> dict[str, Path]:
    """Write one Markdown file an article and one file of questions a part; return the files of questions by part."""
    parts: dict[str, list[dict[str, object]]] = {}
    for split, articles in xquad_articles().items():
        rows = parts.setdefault(split, [])
        for article in articles:
            name = f"{split}/{article['title'].replace('/', '-')}.md"
            texts = [paragraph["context"].replace("\n", " ") for paragraph in article["paragraphs"]]
            path = folder / "corpus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {article['title'].replace('_', ' ')}\n\n" + "\n\n".join(texts) + "\n", encoding="utf-8")
            for question in (asked for paragraph in article["paragraphs"] for asked in paragraph["qas"]):
                answers = list(dict.fromkeys(answer["text"] for answer in question["answers"]))
                rows.append(
                    {
                        "question_id": question["id"],
                        "question": question["question"],
                        "answers": answers,
                        "document": name,
                    }
                )
    return studies.write_questions(folder, parts)


STUDY = studies.Study(
    name="xquad",
    prepare=prepare,
    settings={
        "split.hold_out": ["dev/*", "unseen/*"],
        "chunking.tokens": 80,
        "questions.per_chunk": 6.0,
        "index.k": 2,
        "examples.documents": 2,
        "examples.order": "retrieved",
        "examples.per_question": 2,
        "examples.golden_share": 1.0,
    },
    training={"training.learning_rate": 8e-4, "training.epochs": 1.0, "training.rehearsal": 0.2},
    measuring={
        "benchmark.exemplars": [0, 2],
        "answering.max_tokens": 64,
        "answering.batch": 32,
        "answering.min_relevance": 0.6,
        "benchmark.withheld": 1.0,
    },
    parts=("seen", "dev", "unseen"),
)


if __name__ == "__main__":
    studies.run(STUDY, str(__doc__))
