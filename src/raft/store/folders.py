"""Folders that are raft's own: nothing is written into another one, and nothing is deleted that raft did not make."""

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from raft.errors import UsageError, typed
from raft.store import tables

MARK = ".raft"
"""The file by which a folder is known as raft's, and what it says: another program may have one of this name."""
_SAYS = "What lies in this folder was made by raft, which may replace it.\n"
_EMPTY = {MARK, ".lock", ".DS_Store", ".gitkeep", ".gitignore"}
"""What may lie in a folder that counts as empty."""
TABLES = (*tables.ARTIFACTS, "train.jsonl", "valid.jsonl")
"""What steps make, and write as drafts first."""
_FILES = (
    *TABLES,
    *("manifest.json", "ledger.sqlite", "registry.sqlite", "survey.json", "benchmark.json", "report.html", "report.md"),
)
_LEDGER = {"completions", "embeddings"}
"""Tables of every ledger, of the first raft's too."""
_PAIRS = ("pairs.html", "pairs.json", "pairs-ratings.jsonl")
_REPORTS = ("report.csv", "blind.html", "blind.json", "ratings.jsonl", "benchmarks.jsonl", "monitor.html", *_PAIRS)
DRAFT = re.compile(rf"\.(?:{'|'.join(map(re.escape, (*_FILES, *_REPORTS)))})\.\d{{8}}\.draft")
"""Names that a file has while it is written, and after a kill."""
_FOLDERS = ("index", "lexical", "adapters", "benchmarks", "refusal", "retriever", "scratch")


def is_ours(folder: Path) -> bool:
    """Tell whether a folder is raft's: it has its mark, its manifest, or its ledger."""
    try:
        if (folder / MARK).is_file() and (folder / MARK).read_bytes() == _SAYS.encode():
            return True
        path = folder / "manifest.json"
        manifest = json.loads(path.read_bytes()) if path.is_file() else None  # a pipe would be waited for
        if isinstance(manifest, dict) and {"format", "raft", "steps"} <= manifest.keys():
            return True
    except (OSError, ValueError, RecursionError):
        pass
    return _tables(folder / "ledger.sqlite") >= _LEDGER


def check_name(folder: Path) -> None:
    """Check that a run directory's path can be written down.

    Raises:
        UsageError: it is not UTF-8, and the libraries that keep tables and vectors take no other.
    """
    whole = str(folder.absolute())
    try:
        whole.encode()
    except UnicodeEncodeError:
        pattern = whole.encode(errors="replace").decode()  # a question mark stands for any byte, in a shell too
        what = "The path of a run directory has to be UTF-8, and this one is not."
        raise UsageError(
            what, where=pattern, hint=f"ls -d {pattern}   (mv it, or the folder above it, to another name)"
        ) from None


def is_foreign(path: Path) -> bool:
    """Tell whether a file is a database with tables, and none of them is a ledger's."""
    found = _tables(path)
    return not (found >= _LEDGER or found <= {*_LEDGER, "calls", "runs"})  # the latter where a kill cut it short


def _tables(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        return set()


def _counts(path: Path) -> bool:
    """Tell whether what lies in a folder makes it somebody's: raft's lock is empty, others may not be."""
    return path.name not in _EMPTY or (path.name == ".lock" and (not path.is_file() or path.stat().st_size > 0))


def claim(folder: Path) -> None:
    """Make a folder raft's own, so that what it writes there replaces nothing of the user's.

    Raises:
        UsageError: it is no folder, its path is not UTF-8, or it holds something and was not made by raft; or something
            of the user's lies where raft's files belong.
        OSError: it cannot be written to.
    """
    check_name(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError("There is a file in the place of the folder.", where=folder, hint="--out another-folder")
    if folder.exists() and any(map(_counts, folder.iterdir())) and not is_ours(folder):
        raise UsageError(
            "The folder holds files that raft did not make, and it would write beside or over them.",
            where=folder,
            hint=f"--out {typed(folder / 'raft-run')}   (or any folder that is empty, or not there yet)",
        )
    for name, is_right in [*((one, Path.is_file) for one in _FILES), *((one, Path.is_dir) for one in _FOLDERS)]:
        if (path := folder / name).exists() and not is_right(path):
            kind = "folder" if path.is_dir() else "file"
            hint = f"mv {typed(path)} {typed(path)}.mine   (then the same command again)"
            raise UsageError(f"There is a {kind} in the place of what raft writes.", where=path, hint=hint)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).exists():
        with (folder / MARK).open("w", encoding="utf-8") as file:
            file.write(_SAYS)
            file.flush()
            os.fsync(file.fileno())  # else the folder is nobody's after a loss of power


def clear(folder: Path, made: str) -> None:
    """Delete a folder of which every file's path in it matches the pattern `made`.

    Raises:
        UsageError: something else lies in it; then nothing is deleted.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path.is_symlink() or not path.is_dir()) and not re.fullmatch(made, name):
            hint = f"mv {typed(path)} {typed(path)}.mine   (then the same command again)"
            raise UsageError("Something that raft did not make lies where it has to delete.", where=path, hint=hint)
    if folder.exists():
        shutil.rmtree(folder)


def abandon(folder: Path) -> None:
    """Delete a run directory that was just made, if nothing was written into it: it would be taken for a run."""
    if all(path.is_dir() or path.name in _EMPTY for path in folder.rglob("*")):
        shutil.rmtree(folder, ignore_errors=True)
