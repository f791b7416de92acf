"""What all commands have in common: the group that they belong to, how they end, options of several."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from raft.errors import RaftError, UsageError
from raft.version import __version__

_DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
QUIET = click.option("--quiet", is_flag=True, help="No progress.")
SET = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting, e.g. index.k=8."
)


def acting(command: Callable[..., None]) -> Callable[..., None]:
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
        except KeyboardInterrupt as stop:
            what = str(stop) or "stopped; what was answered is kept. Run the same command again to go on."
            click.echo(f"\nraft: {what}", err=True)
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


def price(text: str | None) -> tuple[float, float] | None:
    """Read a price as typed, `0.15/0.60`: dollars per million tokens read and written.

    Raises:
        UsageError: it is not of that form.
    """
    if text is None:
        return None
    try:
        read, written = (float(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(
            f"A price is two numbers, and {text!r} is not: dollars per million tokens read, and written.",
            where="--price",
            hint="--price 0.15/0.60",
        ) from None
    return read, written


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="raft")
def main() -> None:
    """Train a small model to answer from your documents, and measure it against plain RAG."""
