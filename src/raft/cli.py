"""The command line: arguments in, calls of `raft.api`, words out."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from raft import __version__
from raft.errors import RaftError

_DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def _acting(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one screen of words and an exit code: 2 for usage, 1 for failure, 130 for Ctrl-C."""

    @wraps(command)
    def run(*args: Any, debug: bool, **options: Any) -> None:
        try:
            command(*args, **options)
        except RaftError as error:
            if debug:
                raise
            click.echo(f"raft: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("\nraft: stopped; what was answered is kept. Run the same command again to go on.", err=True)
            sys.exit(130)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except Exception as error:
            if debug:
                raise
            click.echo(
                f"raft: something went wrong that raft does not know how to explain: {type(error).__name__}: {error}\n"
                "  next:  run the same command with --debug, and report what it prints; what was done is kept",
                err=True,
            )
            sys.exit(1)

    return _DEBUG(run)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="raft")
def main() -> None:
    """Train a small model to answer from your documents, and measure it against plain RAG."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_acting
def init(folder: Path) -> None:
    """Copy pipelines and prompts to FOLDER for editing, with a YAML file that explains every setting."""
    from raft import api

    written = api.initialise(folder)
    click.echo(f"{len(written)} files written to {folder}" if written else f"{folder} has all files already")
    click.echo(f"  next:  edit {folder / 'raft.yaml'}, then raft build CORPUS --pipeline {folder / 'raft.yaml'}")


@main.command()
@click.argument("corpus", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), help="The run directory.  [default: runs/NAME-OF-CORPUS]")
@click.option("--pipeline", metavar="FILE", help="Settings: a YAML file, or one of the package's (embedded, hosted).")
@click.option("--generator", metavar="MODEL", help="The model that writes questions: hub name, folder, provider/name.")
@click.option("--embedder", metavar="MODEL", help="The model that makes vectors.")
@click.option("--student", metavar="MODEL", help="The small model that will be tuned.")
@click.option("--questions-per-chunk", type=float, metavar="N", help="Questions asked for, a chunk, on average.")
@click.option("--limit", type=int, metavar="N", help="At most N questions, spread evenly over the documents.")
@click.option("--seed", type=int, metavar="N", help="Seed of every random choice.")
@click.option(
    "--eval", "evaluation", metavar="FILE", help="Your own questions: JSONL with question, answers, document."
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting, e.g. index.k=8.")
@click.option("--quiet", is_flag=True, help="No progress.")
@_JSON
@_acting
def build(corpus: tuple[str, ...], assignments: tuple[str, ...], pipeline: str | None, quiet: bool, as_json: bool,
          **options: Any) -> None:  # fmt: skip
    """Build a training set and an index from CORPUS (files, folders, globs). Resumes by itself."""
    from raft import api, config, words
    from raft.progress import Progress

    with Progress(silent=quiet) as progress:
        built = api.build(
            list(corpus) or None,
            pipeline_file=pipeline,
            settings=dict(config.parse_assignment(text) for text in assignments),
            listen=progress,
            **options,
        )
    facts = built.summary()
    click.echo(json.dumps(facts, ensure_ascii=False, indent=1) if as_json else words.summary(facts))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@_JSON
@_acting
def status(run: Path, as_json: bool) -> None:
    """Say what RUN holds, step by step, and what was spent on it."""
    from raft import api, words

    facts = api.state(run)
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False, indent=1))
    else:
        click.echo(words.status(facts["summary"], facts["spent"], facts["running"]))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("table", metavar="TABLE")
@click.option("-n", "--rows", "count", default=10, show_default=True, help="How many rows.")
@click.option("--only", metavar="WORD", help="kept, dropped, a split, a reason or a kind.")
@_JSON
@_acting
def show(run: Path, table: str, count: int, only: str | None, as_json: bool) -> None:
    """Print rows of TABLE: documents, chunks, questions, failures, cleaned, examples or eval."""
    from raft import api, words

    rows = api.table(run, table, only=only).head(count)
    if as_json:
        for row in rows.iter_rows(named=True):
            click.echo(json.dumps(row, ensure_ascii=False))
    else:
        for text in words.rows(rows, table):
            click.echo(text)
    if rows.is_empty():
        click.echo("no such rows", err=True)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["openai", "axolotl", "hf"]), required=True, help="Who will read it."
)
@click.option("--out", type=click.Path(path_type=Path), help="The folder.  [default: RUN/export-FORMAT]")
@_acting
def export(run: Path, form: str, out: Path | None) -> None:
    """Write the training rows of RUN for a trainer or a fine-tuning service."""
    from raft import api

    click.echo(api.export(run, format=form, out=out))
