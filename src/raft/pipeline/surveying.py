"""The survey of a run: made once for the same chunks, and read by the estimate and by what asks the questions."""

from collections.abc import Mapping

import polars as pl

from raft import artifacts, prompts, surveying
from raft.artifacts import Output
from raft.pipeline.reading import documents_listed
from raft.run import Run, Step
from raft.settings import Settings
from raft.stages import split
from raft.surveying import Survey
from raft.targets import read_openings

SURVEY = "survey.json"


def set_aside(run: Run, settings: Settings) -> frozenset[str]:
    """Return the doc_ids of documents that no question is written about.

    Raises:
        UsageError: a glob of `split.hold_out` matches no document, or they match all of them.
    """
    return split.matching(documents_listed(run), settings.split.hold_out)


def survey_chunks(run: Run, settings: Settings, *, way: str, aside: frozenset[str]) -> None:
    """Chunks, but those of `aside`, to `survey.json`: all that planning the questions has to know of them together.

    It comes before the index, since the estimate rests on it, and embedding may be the first thing that costs money.
    """
    needs = surveying.needed(way, settings.questions.kinds)
    compared = not needs.isdisjoint({"alike", "pairs"})
    path = run.folder / SURVEY
    run.make(
        "survey",
        _survey,
        version=1,
        outputs={SURVEY: lambda: artifacts.digest(path) if path.is_file() else None},
        inputs=["chunks.parquet"],
        using={
            "needs": needs,
            **({"without": aside} if aside else {}),
            **({"openings": prompts.load_text("openings.yaml", settings.prompts)} if compared else {}),
        },
    )


def _survey(
    step: Step, *, needs: frozenset[str], without: frozenset[str] = frozenset(), openings: str | None = None
) -> Mapping[str, Output]:
    frames = step.run.stream("chunks.parquet", list(surveying.COLUMNS))
    asked = (frame.filter(~pl.col("doc_id").is_in(list(without))) for frame in frames)
    found = surveying.survey(asked, read_openings(openings) if openings else [], needs)
    artifacts.atomically(step.folder / SURVEY, surveying.to_json(found))
    return {}


def read_survey(run: Run) -> Survey:
    """Return what `survey_chunks` has kept."""
    return surveying.from_json((run.folder / SURVEY).read_bytes())
