"""What a build's summary says of the questions that it kept: how many were wanted, what they are about, their words."""

from collections.abc import Iterator, Mapping
from typing import Any

from raft.curation import likeness
from raft.generation import rounds


def kept_rows(stats: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield label and text of each row; `stats` are the notes of a run's steps."""
    asked, cleaned = stats["questions"], stats["cleaned"]
    if wanted := asked.get("wanted"):
        yield (
            "wanted",
            rounds.in_words(wanted, cleaned["reasons"], cleaned["splits"], sum(asked.get("failures", {}).values())),
        )
    alike = cleaned.get("likeness")
    if covered := cleaned.get("coverage"):
        listed = [part for part in ("documents", "sections", "facts") if part in covered]  # runs of before lack facts
        *shares, last = ["{:,} of {:,} {}".format(*covered[part], part) for part in listed]
        begin = ", ".join(f"{word} {count:,}" for word, count in covered["begin"].items())
        text = f"{', '.join(shares)} and {last} have a question"
        yield "covered", text if alike else f"{text}; they begin with {begin}"
    if alike:
        yield "wording", likeness.in_words(alike)
