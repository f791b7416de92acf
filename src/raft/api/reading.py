"""What is asked of a run that is there, and the files that a new pipeline begins with."""

from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl

from raft import artifacts, config, exporting, modelcard, prompts, tables
from raft.api.opened import Built
from raft.errors import UsageError
from raft.ledger import Ledger
from raft.run import is_locked


def state(folder: str | Path) -> dict[str, Any]:
    """Return the summary of a run, its `adapters`, what its ledger was ever asked (`spent`), and whether it is written.

    That is `running`: another raft builds, trains or measures. `money` is what the run itself spent: `rows` by step and
    model (`Ledger.spending`), `spent` in dollars with lost calls at their worst case, `open` for what is under way at
    most, `cap` and what is `left` of it (None without one).

    Raises:
        UsageError: there is no run directory at `folder`.
    """
    built = Built(folder)
    path = built.settings.ledger or built.folder / "ledger.sqlite"
    spent: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with closing(Ledger(path)) as ledger:
            spent, rows = ledger.spent(), ledger.spending(built.manifest.get("collection", ""))
    running = is_locked(built.folder)
    return {
        "summary": built.summary(),
        "spent": spent,
        "money": _money(rows, built.settings.generator.max_cost, running=running),
        "adapters": [modelcard.line(card) for card in built.adapters],
        "running": running,
    }


def _money(rows: list[dict[str, Any]], cap: float | None, *, running: bool) -> dict[str, Any]:
    if not running:  # what a killed process left open was perhaps billed: the next build counts it as lost
        for row in rows:
            row["lost"], row["lost_cost"] = row["lost"] + row["open"], row["lost_cost"] + row["open_cost"]
            row["open"], row["open_cost"] = 0, 0.0
    spent = sum(row["cost"] + row["lost_cost"] for row in rows)
    under_way = sum(row["open_cost"] + row["batch_cost"] for row in rows)
    left = None if cap is None else cap - spent - under_way
    return {"rows": rows, "spent": spent, "open": under_way, "cap": cap, "left": left}


def table(folder: str | Path, name: str, *, only: str | None = None) -> pl.DataFrame:
    """Return a table of a run by its short name ("cleaned"), with `only` the rows that have that word.

    Args:
        folder: the run directory.
        name: documents, chunks, questions, failures, cleaned, examples or eval.
        only: "kept", "dropped", or the value of a row's split, reason or kind.

    Raises:
        UsageError: there is no run, or no such table.
        DamagedArtifact: the table is missing or damaged.
    """
    known = {file.split(".")[0]: file for file in tables.ARTIFACTS}
    if name not in known:
        raise UsageError(
            f"There is no table {name!r}; there are {', '.join(known)}.", hint=f"raft show {folder} cleaned"
        )
    found = Built(folder)._run.read(known[name])
    if only is None:
        return found
    columns = [pl.col(column) for column in ("split", "reason", "kind") if column in found.columns]
    if not columns:
        raise UsageError(f"The rows of {name} have no split, reason or kind.", hint=f"raft show {folder} {name}")
    if only in ("kept", "dropped") and "reason" in found.columns:
        return found.filter(pl.col("reason").is_null() == (only == "kept"))
    return found.filter(pl.any_horizontal([column == only for column in columns]))


def export(folder: str | Path, *, format: str, out: str | Path | None = None) -> Path:
    """Write the training rows of a run in the form that a trainer or service takes.

    Args:
        folder: the run directory.
        format: "openai" (chat JSONL), "axolotl" (chat JSONL and its YAML) or "hf" (a `datasets.DatasetDict` on disk).
        out: where to; None: `export-<format>` in the run directory.

    Returns:
        The folder that was written.

    Raises:
        UsageError: there is no run, or the format is unknown.
    """
    run = Built(folder)
    run._run.require("examples")
    target = Path(out) if out is not None else run.folder / f"export-{format}"
    return exporting.export(run.examples, run.settings, format=format, out=target)


def initialise(folder: str | Path) -> list[Path]:
    """Copy the package's pipelines and prompts into `folder` for editing, and write a commented YAML beside them.

    Files that are there already are left alone.

    Returns:
        The files that were written.
    """
    target = Path(folder)
    files = {
        f"{kind}/{name}": text for kind in ("pipelines", "prompts") for name, text in prompts.packaged(kind).items()
    }
    head = f"# raft build CORPUS --pipeline {target / 'raft.yaml'}\n# Paths are relative to this file.\n\n"
    files["raft.yaml"] = head + config.commented_yaml({"prompts": "prompts"})
    written = []
    try:
        for name, text in files.items():
            path = target / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                artifacts.atomically(path, text)
                written.append(path)
    except OSError as error:
        raise UsageError(
            f"The folder cannot be written to: {error.strerror}.", where=error.filename, hint="raft init another-folder"
        ) from None
    return written
