"""RAFT against plain RAG on PubMedQA: yes, no or maybe, from abstracts whose conclusion is withheld.

RAFT_DATA=FOLDER RAFT_MODELS=FOLDER python benchmarks/pubmedqa.py --out runs/pubmedqa

The index holds the CONTEXTS of all 1,000 abstracts (never LONG_ANSWER, which is the conclusion); questions are
generated from the 500 that are not the official test; their human questions are `dev`, where anything is chosen; the
official test's are the headline. Every system picks its label by constrained decoding.
"""

import json
from pathlib import Path
from typing import Any

import studies
from data import data_file


def prepare(folder: Path) -> dict[str, Path]:
    """Write one text file an abstract and one file of questions a part; return the files of questions by part."""
    official = json.loads(data_file("pubmedqa/test_ground_truth.json").read_text(encoding="utf-8"))
    abstracts = json.loads(data_file("pubmedqa/ori_pqal.json").read_text(encoding="utf-8"))
    parts: dict[str, list[dict[str, Any]]] = {"dev": [], "test": []}
    for number, abstract in sorted(abstracts.items()):
        part = "test" if number in official else "dev"
        name = f"{part}/{number}.txt"
        path = folder / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(abstract["CONTEXTS"]) + "\n", encoding="utf-8")
        parts[part].append(
            {
                "question_id": number,
                "question": abstract["QUESTION"],
                "answers": [abstract["final_decision"]],
                "document": name,
            }
        )
    return studies.write_questions(folder, parts)


STUDY = studies.Study(
    name="pubmedqa",
    prepare=prepare,
    settings={
        "split.hold_out": ["test/*"],
        "chunking.tokens": 240,
        "questions.kinds": ["decision"],
        "index.k": 2,
        "examples.documents": 2,
        "examples.quotes": "none",
        "examples.golden_share": 1.0,
    },
    training={"training.learning_rate": 8e-4, "training.epochs": 1.0},
    measuring={
        "benchmark.exemplars": [0, 3],
        "benchmark.withheld": 0.0,
        "answering.max_tokens": 8,
    },
    parts=("dev", "test"),
)


if __name__ == "__main__":
    studies.run(STUDY, str(__doc__))
