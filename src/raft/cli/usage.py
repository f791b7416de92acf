"""How commands read what is typed: an error names the next command, and what may be given once is given once."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from raft.errors import UsageError
from raft.text import printable


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
    """Return the names of a command as they are typed behind `raft`."""
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
        near = [f"{where} {one}" for one in getattr(error, "possibilities", None) or ()]
        hint = f"{near[0]} …   (or: {where} --help)" if near else f"{where} --help"
        told = UsageError(error.format_message(), where=where, hint=hint)
        click.echo(printable(f"raft: {told}"), err=True)
        sys.exit(told.exit_code)
