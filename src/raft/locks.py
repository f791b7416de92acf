"""The lock of a run directory: one writer, and readers that see whether there is one."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from raft.errors import RunLocked, UsageError

if sys.platform != "win32":
    import fcntl

_TRIES = 1_000
"""How often the lock is tried while nobody is in the way but readers, who share it for an instant."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run directory, made if missing, for writing.

    Raises:
        RunLocked: another process holds it.
        UsageError: the folder cannot be made or written to.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, folder)
    except OSError as error:
        raise UsageError(
            f"The run directory cannot be written to: {error.strerror or error}.",
            where=error.filename or folder,
            hint="choose another folder with --out",
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Tell whether a process is writing to the run directory now."""
    try:
        with (folder / ".lock").open("rb") as file:
            if sys.platform != "win32":  # there nobody can share a lock, and nobody reads a file that is locked
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            else:
                file.read(1)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return False
    return False


def _acquire(lock: FileLock, folder: Path) -> None:
    for _ in range(_TRIES):
        try:
            lock.acquire()
        except Timeout:
            if is_locked(folder):
                break
            time.sleep(0.001)
        else:
            return
    raise RunLocked(
        "Another raft is writing to this run directory.",
        where=folder,
        hint=f"wait for it (raft status {folder}), or choose another --out",
    )
