"""Public question sets that benchmarks measure with; they lie outside of the repository, in the folder `$RAFT_DATA`."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from raft.errors import UsageError

XQUAD = "xquad_en/xquad.en.json"
_SPLITS = {"seen": range(20), "dev": range(20, 28), "unseen": range(28, 48)}


def data_file(name: str) -> Path:
    """Return the path of a file in `$RAFT_DATA`.

    Raises:
        UsageError: RAFT_DATA is not set, or the folder does not hold the file.
    """
    if not os.environ.get("RAFT_DATA"):
        raise UsageError(
            "RAFT_DATA is not set.", where=name, hint="export RAFT_DATA=FOLDER, the folder that holds the question sets"
        )
    path = Path(os.environ["RAFT_DATA"]) / name
    if not path.is_file():
        raise UsageError(
            "RAFT_DATA does not hold the file.", where=path, hint="put it there, or set RAFT_DATA to another folder"
        )
    return path


@cache
def _articles() -> tuple[dict[str, Any], ...]:
    """The 48 articles of the English XQuAD (`title`, `paragraphs`), ordered by the hash of their titles."""
    articles = json.loads(data_file(XQUAD).read_text(encoding="utf-8"))["data"]
    return tuple(sorted(articles, key=lambda article: hashlib.sha256(article["title"].encode()).hexdigest()))


def xquad_articles() -> dict[str, list[dict[str, Any]]]:
    """Return the articles of XQuAD by split.

    20 articles are `seen` (to train on), 8 `dev` (to choose settings with) and 20 `unseen` (to report on); the split
    is fixed by the sha256 of the titles.

    Raises:
        UsageError: the file is not there.
    """
    return {split: [_articles()[place] for place in places] for split, places in _SPLITS.items()}


def xquad_split(title: str) -> str:
    """Return the split that the article with this title belongs to.

    Raises:
        KeyError: XQuAD has no such article.
        UsageError: the file is not there.
    """
    return {article["title"]: split for split, articles in xquad_articles().items() for article in articles}[title]
