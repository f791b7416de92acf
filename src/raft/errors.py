"""Errors that a user can act on: what was wrong, where, and the next command to type; and checks of typed paths."""

import errno
import getpass
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class RaftError(Exception):
    """A failure that the user can do something about; the command line prints it without a traceback.

    Args:
        what: one sentence saying what was wrong.
        where: the file, setting or row that it was found in.
        hint: the next command to type, or what to change.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        from raft.text.secrets import shown  # noqa: PLC0415  it takes time, and errors are rare

        what = re.sub(r"(?<=[\w)'\"])\.\.(?=\s|$)", ".", what)  # what a library says ends with a full stop, or without
        self.what, self.where = shown(what), None if where is None else shown(str(where))
        self.hint = hint and shown(hint)
        super().__init__(str(self))

    def __reduce__(self) -> tuple[object, ...]:
        return as_it_was, (type(self), self.args, vars(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  next:  {pasted(self.hint)}")
        return "\n".join(lines)


def as_it_was(kind: type[BaseException], args: tuple[object, ...], facts: dict[str, object]) -> BaseException:
    """Return an error that came from another process, whatever its class is made of."""
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(facts)
    return error


def pasted(command: str) -> str:
    """Return a command with the remark behind it as a shell's comment, so that the line works when it is pasted."""
    for match in re.finditer(r"\s{3,}\(", command if command.endswith(")") else ""):
        with suppress(ValueError):  # it stands within quotes
            shlex.split(command[: match.start()])
            return f"{command[: match.start()]}   # {command[match.end() : -1]}"
    return command


def me(given: str = "") -> str:
    """Return a name that was given, or else who is at work on this machine, as it is typed behind `--by`."""
    if given.strip():
        return typed(given)
    try:
        return typed(getpass.getuser())
    except (OSError, KeyError):  # a container may give its user no name
        return "somebody"


def names_run(call: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have the hints of what a function raises name the run, its first argument, where they say `RUN`.

    What trains or merges knows nothing of runs.
    """

    @wraps(call)
    def named(*given: _P.args, **options: _P.kwargs) -> _T:
        try:
            return call(*given, **options)
        except RaftError as error:
            run = given[0] if given else options["folder"]
            error.hint = error.hint and re.sub(r"\bRUN\b", lambda _: typed(run), error.hint)
            raise

    return named


def typed(path: object) -> str:
    """Return a path as it is typed in a shell, in quotes where it has to be, and so that it is no option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def of_system(error: OSError, *, where: object = None) -> RaftError:
    """Return what an error of the operating system means to who typed the command; nothing that was done is lost."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "df -h   (make room, then run the same command again: what was done is kept, and not paid for twice)"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        hint = "choose a folder that you may write to with --out, or: ls -ld on what is named here"
    else:
        hint = "look at what is named here, then run the same command again: what was done is kept"
    return RaftError(f"{error.strerror or error}.", where=error.filename or where, hint=hint)


def unwritable(what: str, error: OSError, out: object) -> "UsageError":
    """Return that something cannot be written into the folder that `--out` names, or the usual one."""
    said = f"{what} cannot be written to: {error.strerror or error}."
    return UsageError(said, where=error.filename or out, hint="choose another folder with --out")


class UsageError(RaftError):
    """What was typed, or a setting in the YAML, is wrong; nothing was started."""

    exit_code = 2


def place(path: str | Path, name: str) -> Path:
    """Return where a path leads that somebody typed, `~` and all; `name` is what it was typed for.

    Raises:
        UsageError: it is empty, as where a variable of the shell is not set.
    """
    if not str(path).strip():
        raise UsageError(
            "An empty path is no place.",
            where=name,
            hint='echo "$NAME"   (of the variable that was meant), or . for this folder',
        )
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"There is no such user: {path}.", where=name, hint="name the whole path") from None


def regular(path: Path) -> Path:
    """Return a path that a file can be read from, or where nothing is: a pipe or a device would be waited for.

    Raises:
        UsageError: something else than a file is there.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise UsageError(f"{path} is {what}, and no file.", where=path, hint=f"ls -ld {typed(path)}")
    return path


class EndpointRefuses(UsageError):
    """What is asked answers nobody: its address, a key, or the model's name there is at fault, and no request."""


class MissingExtra(UsageError):
    """An optional package is needed that is not installed.

    Args:
        package: the import that failed, e.g. ``"torch"``.
        extra: the extra of ``raft-pipeline`` that brings it, e.g. ``"local"``.
        why: what it is needed for, e.g. ``"to run SmolLM2-135M-Instruct on this machine"``.
    """

    def __init__(self, package: str, *, extra: str, why: str) -> None:
        super().__init__(
            f"The package {package} is needed {why}, and it is not installed.",
            hint=f"pip install 'raft-pipeline[{extra}]'",
        )


class DamagedArtifact(RaftError):
    """An artifact does not hold what its schema or its digest says."""


class OtherEmbedder(RaftError):
    """An index was made with another embedder than the one that is asked for."""


class RunLocked(RaftError):
    """Another process is writing to the run directory."""


class NotMeasured(RaftError):
    """What production answers could not be asked; nothing is known of it but what was known before."""

    exit_code = 12
