"""The command `raft`: its group, and what its commands share: how they read what is typed, how they end and print.

An error names the next command, and what may be given once is given once.
"""

# ruff: noqa: PLC0415  heavy modules are imported by the command that needs them

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import wraps
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import click

from raft.errors import RaftError, UsageError, of_system, typed
from raft.store.children import import_path
from raft.text import printable
from raft.text.secrets import names_key, shown
from raft.version import __version__

_DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


class Place(click.ParamType[Path]):
    """A path as typed, `~` and all."""

    name = "path"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path, or say what is wrong with it."""
        if not str(value).strip():
            self.fail("the path is empty; is a variable of the shell not set?", param, ctx)
        try:
            return Path(value).expanduser()
        except RuntimeError:
            self.fail(f"there is no such user: {value}", param, ctx)


RUN = click.argument("run", type=Place())
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs, one object a line.")
QUIET = click.option("--quiet", is_flag=True, help="No progress.")
_NAMESAKES = ("raft-ft", "raft-toolkit")
"""Packages of others that bring a command or a package `raft`."""
SET = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting, e.g. index.k=8."
)


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print text, whoever wrote it, as what it is: nothing in it moves a cursor, paints or turns letters round."""
    click.echo(printable(str(text)), err=err, nl=nl)


def acting(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one screen of words and an exit code: 2 for usage, 1 for failure, 130 for Ctrl-C."""

    @wraps(command)
    def run(*args: Any, debug: bool, **options: Any) -> None:
        try:
            command(*args, **options)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(0)
        except (RaftError, OSError) as error:
            if debug:
                raise
            told = of_system(error) if isinstance(error, OSError) else error
            told.hint = told.hint and spelled_out(told.hint, wrong=told.where or "")
            told.where = told.where and _as_typed(told.where)
            echo(f"raft: {told}", err=True)
            sys.exit(told.exit_code)
        except KeyboardInterrupt as stop:
            goes_on = f"stopped; what was answered is kept\n  next:  {the_same() or 'the same command'}   # goes on"
            echo(f"\nraft: {str(stop) or goes_on}", err=True)
            sys.exit(130)
        except Exception as error:
            if debug:
                raise
            echo(
                f"raft: something went wrong that raft does not know how to explain: {type(error).__name__}: {error}\n"
                f"  next:  {the_same() or 'the same command'} --debug   # report what it prints; what was done is kept",
                err=True,
            )
            sys.exit(1)

    return _DEBUG(run)


def show(facts: Any, as_json: bool, words: Callable[[Any], object]) -> None:
    """Print what came of a command, for programs (one object on one line) or in words."""
    echo(json.dumps(_whole(facts), ensure_ascii=False) if as_json else words(facts))


def _whole(value: Any) -> Any:
    """Return a JSON value whose whole numbers are written as such: 12, not 12.0."""
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def tell_of_writers(run: Path) -> None:
    """Say where another raft is writing to a run that is being read."""
    from raft.store.run import is_locked

    if is_locked(run):
        echo(f"raft: a build is running, or a training: what is here may change (raft status {typed(run)})", err=True)


_TYPED = "raft.typed"
_SAME = re.compile(r"the same command(?: again| with(?= --))(?=[ \n]|$)")
_ALONE = re.compile(r"(--[\w-]+ ('[^']*'|[^\s']+)( (?=--)|(?=$|   \()))+")
"""A hint of options alone."""
_GIVEN = re.compile(r"--set '?[\w.]+=|--(?!set\b)[\w-]+")
"""An option, or a setting, that a hint gives anew."""
_TRAINING = {f"training.{one}": f"--{one.replace('_', '-')}" for one in ("backend", "epochs", "learning_rate", "rank")}


def spelled_out(hint: str, context: click.Context | None = None, *, wrong: str = "") -> str:
    """Return a hint with what was typed in the place of "the same command again", or "with" options of its own.

    Options alone are the same command with them. What was typed of the same options and settings goes, and so do the
    settings that are `wrong`, as they were typed.
    """
    said = re.sub("^run (the same command again)[: ]+(.+)$", r"\1   (\2)", hint)
    if _ALONE.match(said):
        said = f"the same command with {_as_typed(said, context)}"
    found = _SAME.match(said)
    anew = [*_GIVEN.findall(said.partition("   (")[0]), *re.findall(r"--set '?[\w.]+=", wrong)]
    same = the_same(*(one.replace("'", "") for one in anew), context=context) if found else None
    return same + said[found.end() :] if found and same else hint


def the_same(*without: str, flags: Sequence[str] = (), context: click.Context | None = None) -> str | None:
    """Return what was typed, without options, settings (`--set index.k=`) and `flags`; None: nobody typed.

    `context` is that of a command which runs no more. A key that was typed as a setting is not said again.
    """
    words, kept = _typed_words(context), list[str]()
    begins = tuple(one if one.startswith("--set ") else f"{one}=" for one in without)
    while words:
        word, *words = words
        said = f"--set {words[0] if words else ''}" if word == "--set" else word.replace("--set=", "--set ", 1)
        name, equals, _ = said.partition("=")
        goes = said.startswith(begins) or (name.startswith("--set ") and (not equals or names_key(name)))
        if word in without or (word == "--set" and goes):
            words = words[1:]
        elif word not in flags and not goes:
            kept.append(word)
    return shown(shlex.join(kept)) if kept else None


def _typed_words(context: click.Context | None = None) -> list[str]:
    context = context or click.get_current_context(silent=True)
    return shlex.split(context.meta.get(_TYPED, "")) if context else []


def _as_typed(text: str, context: click.Context | None = None) -> str:
    """Return a text in which settings go by the options that they were typed with."""
    from raft.store.again import OPTIONS

    words = {word.partition("=")[0] for word in _typed_words(context)}
    for key, option in (OPTIONS | _TRAINING).items():
        text = re.sub(rf"--set ('?){re.escape(key)}=", rf"{option} \1", text) if option in words else text
    return text


class Command(click.Command):
    """A command that refuses an option with a value which is given twice: only one of the two would count."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments.

        Raises:
            click.UsageError: they are wrong.
        """
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        once = [one for one in order if isinstance(one, click.Option) and not (one.multiple or one.is_flag)]
        for one in once:
            if once.count(one) > 1:
                raise click.UsageError(f"{one.opts[-1]} is given more than once.", ctx)
        ctx.meta[_TYPED] = shlex.join(["raft", *_names(ctx), *args])
        return super().parse_args(ctx, args)


class Commands(click.Group):
    """A group of such commands; what is typed wrongly is told as every other error is."""

    command_class = Command

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read what stands before the command."""
        with _told():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Read what stands behind the command, and carry it out."""
        with _told():
            return super().invoke(ctx)


def _names(context: click.Context | None) -> list[str]:
    if context is None or context.parent is None:
        return []
    return [*_names(context.parent), str(context.info_name)]


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a later click has it
            raise
        where = " ".join(["raft", *_names(error.ctx)])
        near = next(iter(getattr(error, "possibilities", None) or ()), "")
        hint = f"{where} --help"
        if near:  # an option has no help of its own
            hint += f"   ({near} is meant, perhaps)"
            hint = hint if near.startswith("-") else f"{where} {near} --help   (is meant, perhaps; or: {where} --help)"
        if isinstance(error, click.BadParameter) and error.param and isinstance(error.param.type, click.Choice):
            named = re.findall("'([^']*)'", error.message)  # what was typed, and what may be
            if meant := get_close_matches(named[0], named[1:], n=1):
                hint = spelled_out(f"{error.param.opts[0]} {meant[0]}", error.ctx)
        told = UsageError(error.format_message(), where=where, hint=hint)
        click.echo(printable(f"raft: {told}"), err=True)
        sys.exit(told.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="raft")
@click.pass_context
def main(context: click.Context) -> None:
    """Train a small model to answer from your documents, and measure it against plain RAG."""
    context.with_resource(_nothing_from_here())
    for name in _NAMESAKES:
        with suppress(PackageNotFoundError):
            distribution(name)
            hint = f"pip uninstall {name} raft-pipeline && pip install raft-pipeline"
            echo(f"raft: the package {name}, which brings a raft too, is installed beside this one: {hint}", err=True)


@contextmanager
def _nothing_from_here() -> Iterator[None]:
    """Let processes that libraries start import nothing of the working directory."""
    before = {name: value for name in ("PYTHONSAFEPATH", "PYTHONPATH") if (value := os.environ.get(name)) is not None}
    os.environ["PYTHONSAFEPATH"] = "1"
    if path := before.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = import_path(path.split(os.pathsep))
    try:
        yield
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        os.environ.update(before)
