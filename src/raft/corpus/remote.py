"""Documents at an address (s3://, gs:// and what else fsspec knows): fetched beside the run, and anew when they change.

From then on they are files like any other: names are relative to the address, as they are to a folder.
"""

import errno
import glob
import hashlib
import json
import math
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from secrets import token_hex
from threading import Event, Thread
from typing import Any, TypeVar

from raft.corpus import web
from raft.corpus.readers import MAX_FILE, MEGABYTE, format_of
from raft.errors import RaftError, UsageError, of_system, typed
from raft.text import is_address
from raft.text.secrets import bears_key, shown, shown_address

_HERE = ("file", "local", "memory")
_TELLS = re.compile(
    "etag|md5|sha|crc|sum|digest|hash|hex|time|modif|updated|created|generation|version|blob_id|oid|commit", re.I
)
"""Names of what a file system says of a file that another file of the same name would not have."""
_PASSES = re.compile("access|atime|^time$|^url$|expir|lease", re.I)
"""Names of what changes though the file does not."""
_PACKAGES = {
    **{"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "adl": "adlfs"},
    **{"sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol", "hdfs": "pyarrow", "dropbox": "dropboxdrivefs"},
}
"""What to install for a protocol; of others its own words say so, and no name is guessed."""
_LIST = {"s3": "aws s3 ls", "gs": "gcloud storage ls", "http": "curl -iL", "https": "curl -iL"}
"""What shows with the same keys whether they are right."""
_HEARS = 0.2
"""Seconds after which a Ctrl-C is heard: polars has a wait without an end go on after it."""
_NOTES = "fetched.jsonl"
_AT_ONCE, _MOST_FOLDERS, _MOST_FILES, _LONGEST_NAME, _LONGEST_PATH = 16, 1000, 200_000, 255, 4000
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Place:
    """An address taken apart: where files lie, which are meant (a pattern, or all), and where they come to lie here.

    `index` says in which state each of them was fetched.
    """

    address: str
    system: Any
    root: str
    pattern: str
    local: Path
    index: Path


def check(corpus: Iterable[str], *, local_only: bool) -> None:
    """Refuse addresses that cannot be read from, before any work.

    Raises:
        UsageError: nobody knows the protocol, a package is missing, a key stands in an address, or `local_only` is set
            and it is not on this machine.
    """
    for address in filter(is_address, corpus):
        protocol = address.partition("://")[0]
        if bears_key(address):
            hint = "take it out: keys come from the environment, or from the provider's own files"
            what = "An address of documents has a password or key in it."
            raise UsageError(what, where=shown_address(address), hint=hint)
        if local_only and protocol not in _HERE:
            hint = "name files on this machine; or --set local_only=false"
            raise UsageError("local_only is set, and documents are elsewhere.", where=f"corpus: {address}", hint=hint)
        _system(address)


def fetch(corpus: Iterable[str], cache: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Return a corpus whose addresses were fetched into a folder, and (address, reason) for each file left out there.

    What is there and has not changed is not fetched again; what is gone at the address goes here, too.

    Raises:
        UsageError: there are no documents at an address.
        RaftError: it cannot be read.
    """
    entries: list[str] = []
    skipped: list[tuple[str, str]] = []
    for entry in corpus:
        if not is_address(entry):
            entries.append(entry)
        elif here := _on_this_machine(entry):
            entries.append(here)
        else:
            try:
                place = _place(entry, cache)
                names, left_out = _fetched(place)
            except RaftError:
                raise
            except Exception as error:  # each file system has its own
                raise _unreadable(entry, error, cache) from error
            skipped += left_out
            alone = place.pattern and not has_magic(place.pattern)
            entries.append(glob.escape(str(place.local / names[0])) if alone else str(place.local))
    return entries, skipped


def forget(corpus: Iterable[str], cache: Path) -> None:
    """Delete what was fetched of addresses that are not in a corpus any more; what a link leads to is not ours."""
    kept = {_own(address) for address in corpus}
    if cache.is_symlink() or cache.parent.is_symlink():
        return
    for folder in cache.glob("[0-9a-f]" * 16):
        if folder.name not in kept and not folder.is_symlink() and (folder / _NOTES).is_file():
            shutil.rmtree(folder, ignore_errors=True)


def _on_this_machine(address: str) -> str | None:
    """Return the path that an address stands for, if it names files here: they are read where they lie, as all are."""
    return str(_system(address)[1]) if address.startswith(("file://", "local://")) else None


def name_of(address: str) -> str:
    """Return what a run on an address is called: the last folder in it."""
    parts = [part for part in address.partition("://")[2].split("/") if part.strip(".") and not has_magic(part)]
    last = PurePosixPath(parts[-1]) if parts else PurePosixPath("corpus")
    return last.stem if format_of(Path(last)) else last.name


def _system(address: str) -> tuple[Any, str]:
    import fsspec  # noqa: PLC0415  it takes time

    protocol = address.partition("://")[0]
    try:
        if "::" in protocol:
            raise ValueError(f"take {protocol.rpartition('::')[0]}:: away, raft keeps what it fetches by itself")
        if web.is_web(address):  # taken as it is: to fsspec "::", as in a host of IPv6, chains two addresses
            return fsspec.filesystem(protocol, **web.options()), address
        system, path = fsspec.url_to_fs(address)
    except ImportError as error:
        found = re.search(r"[Ii]nstall\s+[\"'`]?(?:pip install )?([\w-]+)", str(error))
        package = _PACKAGES.get(protocol) or (found[1] if found else "")
        what = f"Documents at {protocol}:// need a package that is not installed: {error}."
        hint = f"pip install {package}" if package else "raft build .   (a folder that they were copied to)"
        raise UsageError(what, where=f"corpus: {address}", hint=hint) from None
    except ValueError as error:
        what = f"Documents cannot be read from {address}: {error}."
        hint = "addresses begin with s3://, gs://, https:// or whatever fsspec knows; a folder has none: raft build ."
        raise UsageError(what, where=f"corpus: {address}", hint=hint) from None
    except Exception as error:
        raise _unreadable(address, error) from error
    return system, path


def _place(address: str, cache: Path) -> _Place:
    system, path = _system(address)
    parts = path.split("/")
    host = 3 if web.is_web(address) else 0  # [::1] is no pattern
    fixed = next((number for number, part in enumerate(parts) if number >= host and has_magic(part)), len(parts))
    root, pattern = "/".join(parts[:fixed]).rstrip("/"), "/".join(parts[fixed:])
    if not pattern and format_of(Path(root)) and _is_file(system, root):  # on the web folders are files, too
        root, _, pattern = root.rpartition("/")
    safe = [part for part in root.split("/") if part not in ("", ".", "..")]
    own = cache / _own(address)
    local = own.joinpath(address.partition("://")[0], *safe)
    if web.is_web(address) and not local.exists():
        local = own.joinpath(address.partition("://")[0], *map(web.decoded, safe))
    return _Place(address, system, root, pattern, local, own / _NOTES)


def _own(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def _is_file(system: Any, path: str) -> bool:
    try:
        return bool(system.info(path).get("type") == "file")
    except FileNotFoundError:
        return False


def _fetched(place: _Place) -> tuple[list[str], list[tuple[str, str]]]:
    """Fetch what is not here; return the names of what is, and (address, reason) for each file left out."""
    wanted, skipped = _wanted(place)
    if not wanted:
        raise _nothing(place, skipped)
    now = {name: {one: str(value) for one, value in sorted(facts.items()) if not _PASSES.search(one)}
           for name, (_, facts) in wanted.items()}  # fmt: skip
    _clear(place, wanted)
    here = {one: one.stat().st_size for one in map(place.local.joinpath, wanted) if one.is_file()}
    known = {
        name: (facts, size)  # less than came is here after a loss of power
        for name, (facts, size) in _known(place).items()
        if facts == now.get(name) and _tells(facts) and here.get(place.local / name) == size
    }
    place.index.parent.mkdir(parents=True, exist_ok=True)
    draft = place.index.with_suffix(".draft")
    draft.write_text("".join(json.dumps([name, *noted]) + "\n" for name, noted in known.items()), encoding="utf-8")
    draft.replace(place.index)
    lost = dict[str, str]()

    def land(got: tuple[str, Path, str]) -> None:
        name, draft, why = got
        path = place.local / name
        if why:
            lost[name] = why
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(path)
            noted = json.dumps([name, now[name], path.stat().st_size])
            notes.write(f"{noted}\n")  # as it lands: what comes after it may fail
            notes.flush()

    def get(name: str, given_up: Event) -> tuple[str, Path, str]:
        return name, *_got(place, *wanted[name], name, given_up)

    with place.index.open("a", encoding="utf-8") as notes:
        _some_at_once(get, [name for name in wanted if name not in known], land)
    skipped += [(_shown(place, wanted[name][0]), why) for name, why in lost.items()]
    if len(lost) == len(wanted):
        raise _nothing(place, skipped)
    return [name for name in wanted if name not in lost], skipped


def _some_at_once(
    work: Callable[[_Item, Event], _Result], items: Sequence[_Item], land: Callable[[_Result], object] = id
) -> list[_Result]:
    """Do it for each item, some at once; where one fails, or somebody interrupts, the event tells the others.

    They are not waited for: a server may be silent. `land` is called here with what comes, one after another.
    """
    todo, done, over = deque(enumerate(items)), SimpleQueue[tuple[int, Any, BaseException | None]](), Event()

    def run() -> None:
        with suppress(IndexError):
            while True:
                place, item = todo.popleft()
                try:
                    done.put((place, work(item, over), None))
                except BaseException as error:
                    todo.clear()
                    done.put((place, None, error))

    found: dict[int, _Result] = {}
    try:
        for _ in range(min(_AT_ONCE, len(items))):
            Thread(target=run, daemon=True).start()
        while len(found) < len(items):
            with suppress(Empty):
                place, result, error = done.get(timeout=_HEARS)
                if error is not None:
                    raise error
                found[place] = result
                land(result)
    finally:
        todo.clear()
        over.set()
    return [found[place] for place in range(len(items))]


def _nothing(place: _Place, skipped: Iterable[tuple[str, str]]) -> UsageError:
    told = "".join(f" Left out: {name} ({reason})." for name, reason in list(skipped)[:3])
    what = f"There are no documents at {place.address}.{told}"
    return UsageError(what, where="corpus", hint=_listing(place.address))


def _wanted(place: _Place) -> tuple[dict[str, tuple[str, Mapping[str, Any]]], list[tuple[str, str]]]:
    """Return by name where each document lies and what is said of it, and what is left out."""
    wanted: dict[str, tuple[str, Mapping[str, Any]]] = {}
    skipped: list[tuple[str, str]] = []
    listed = sorted(_listed(place).items())
    names = _named(place, [path for path, _ in listed])
    for path, facts in sorted(listed, key=lambda one: names[one[0]]):  # a file before what is to lie in it
        name = names[path]
        reason = "its name leads out of the corpus" if not path.startswith(place.root) else _unfit(place, name)
        if not reason and (above := next((str(one) for one in PurePosixPath(name).parents if str(one) in wanted), "")):
            reason = f"{above} is a file, and cannot be its folder here"
        if reason:
            skipped.append((_shown(place, path), reason))
        else:
            wanted[name] = path, facts
    told = _some_at_once(lambda one, _: _told(place, *one), list(wanted.values()))
    wanted = dict(zip(wanted, told, strict=True))
    for name, (path, facts) in list(wanted.items()):
        size = facts.get("size")
        if isinstance(size, int) and size > MAX_FILE:
            most = f"{size // MEGABYTE} MB; the most is {MAX_FILE // MEGABYTE}"
            skipped.append((_shown(place, path), f"it is too large: {most}"))
            del wanted[name]
    return wanted, skipped


def _named(place: _Place, paths: Sequence[str]) -> dict[str, str]:
    """Return what documents are called: on the web decoded, but for two that would be one, and what is here already."""
    names = {path: path.removeprefix(place.root).removeprefix("/") if path != place.root else path.rpartition("/")[2]
             for path in paths}  # fmt: skip
    if not web.is_web(place.address):
        return names
    known = _known(place)  # and what is here was fetched, though a later fetch that failed says so no more
    return web.named(names, lambda name: name in known or os.path.isfile(place.local / name))  # noqa: PTH113  any name


def _listed(place: _Place) -> dict[str, Mapping[str, Any]]:
    system, pattern = place.system, place.pattern
    system.invalidate_cache()
    if pattern and not has_magic(pattern):
        found = {path: system.info(path) for path in [f"{place.root}/{pattern}"]}
    elif web.is_web(place.address):
        found = _linked(place)
    elif _leaves_out(system):
        found = _walked(place, place.root)
        found = web.fitting(found, place.root, pattern) if pattern else found
    else:
        found = system.glob(f"{place.root}/{pattern}", detail=True) if pattern else system.find(place.root, detail=True)
    return {path: facts for path, facts in found.items() if facts.get("type") != "directory"}


def _linked(place: _Place) -> dict[str, Mapping[str, Any]]:
    """Return the files that pages at an address link to which list a folder, as web servers make them."""
    deep = None if not place.pattern or "**" in place.pattern else place.pattern.count("/") + 1
    root = place.root + "/" if place.pattern or place.address.endswith("/") else place.root
    found = _walked(place, root, deep, _MOST_FOLDERS)
    if not place.pattern:
        return found or ({place.root: {}} if _is_file(place.system, place.root) else {})
    return web.fitting(found, place.root, place.pattern)


def _leaves_out(system: Any) -> bool:
    """Tell whether a system lists as fsspec itself does, which leaves out each folder that it cannot list."""
    from fsspec import AbstractFileSystem  # noqa: PLC0415  it takes time

    return type(system).find is AbstractFileSystem.find


def _walked(place: _Place, root: str, deep: int | None = None, most: float = math.inf) -> dict[str, Mapping[str, Any]]:
    """Return the files below `root`, so many folders deep, by their paths; a folder that cannot be listed raises.

    Links to folders are not followed.

    Raises:
        UsageError: there are more folders than `most`.
    """
    found, is_web = dict[str, Mapping[str, Any]](), web.is_web(place.address)
    seen, folders = {root.rstrip("/")}, [(root, 1)]
    while folders:
        if len(seen) > most or (is_web and len(found) > _MOST_FILES):  # pages link to one another without an end
            raise web.endless(f"{place.address} has more than {most:,} folders, or pages that are none.")
        path, depth = folders.pop()
        with suppress(FileNotFoundError):
            for facts in web.listed(place.system, path) if is_web else place.system.ls(path, detail=True):
                below = facts["name"].rstrip("/")
                if facts["type"] != "directory":
                    found[facts["name"]] = facts
                elif below not in seen and not facts.get("islink") and (deep is None or depth < deep):
                    seen.add(below)
                    folders.append((facts["name"] if is_web else below, depth + 1))  # as it is linked to
    return found


def _told(place: _Place, path: str, facts: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return what is said of a file, also when it is asked for by itself where a listing says too little."""
    if not _tells(facts):
        with suppress(FileNotFoundError):  # fetching it will tell
            return path, {**facts, **place.system.info(path)}
    return path, facts


def _tells(facts: Mapping[str, Any]) -> bool:
    said = (one for one, value in facts.items() if value not in (None, "", "None"))
    return any(_TELLS.search(one) and not _PASSES.search(one) for one in said)


def _unfit(place: _Place, name: str) -> str | None:
    path = PurePosixPath(name)
    if web.is_web(place.address) and bears_key(name):  # it would be what the document is called
        return "its address has a password or a key in it"
    if any(part in (".", "..") for part in path.parts):
        return "its name leads out of the corpus"
    if str(path) != name or path.is_absolute():
        return "a folder in its name has no name"
    if any(part.startswith((".", "~$")) for part in path.parts):
        return "it is hidden"
    if format_of(Path(name)) is None:
        return f"there is no reader for {path.suffix or 'files without a suffix'}"
    return _unnameable(place.local.absolute(), path)


def _unnameable(folder: Path, name: PurePosixPath) -> str | None:
    try:
        longest, whole = max(len(part.encode()) for part in name.parts), len(os.fsencode(folder / name))
    except UnicodeEncodeError:
        return "no file here can have its name"
    if longest > _LONGEST_NAME or whole > _LONGEST_PATH:
        return "its name is too long for a file here"
    return "no file here can have its name" if "\0" in str(name) else None


def _shown(place: _Place, path: str) -> str:
    above = place.address.removesuffix(place.pattern).rstrip("/")
    if not is_address(path) and path.startswith(place.root):
        path = f"{above}/{path.removeprefix(place.root).lstrip('/')}".rstrip("/")
    return shown(path)  # a page may link to what its own reader may read


def _got(place: _Place, at: str, facts: Mapping[str, Any], name: str, given_up: Event) -> tuple[Path, str]:
    """Fetch a file into a draft of its own, and do nothing else: a fetch that was given up may end after a later one.

    Return the draft, and why the file cannot be had, "" where it was.
    """
    draft, why = place.index.with_name(f"{token_hex(8)}.draft"), ""
    with ExitStack() as undone:
        undone.callback(draft.unlink, missing_ok=True)
        try:
            place.system.get_file(at, str(draft), callback=_bound(given_up))
            if web.is_web(place.address):
                why = web.instead(draft, name, facts)
        except FileNotFoundError:
            why = "it is listed, and not there"
        except _TooLarge:
            why = f"it is too large: the most is {MAX_FILE // MEGABYTE} MB"
        if not why and not given_up.is_set():
            undone.pop_all()
    return draft, why


class _TooLarge(Exception):
    """A file has more bytes than raft reads, whatever was said of its size."""


def _bound(given_up: Event) -> Any:
    """Return what hears of each piece of a file while it is fetched, and ends that where there are too many."""
    from fsspec import Callback  # noqa: PLC0415  it takes time

    class _Bound(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            self.value += inc
            if given_up.is_set():
                raise InterruptedError
            if self.value > MAX_FILE:
                raise _TooLarge

    return _Bound()


def _clear(place: _Place, wanted: Iterable[str]) -> None:
    """Delete what was fetched of this address and is not wanted, by what lies there and not by what is noted."""
    keep = {place.index, *(place.local / name for name in wanted)}
    for own in (place.index.parent.parent, place.index.parent):
        if own.is_symlink():  # what it leads to is not ours
            own.unlink()
    for folder, folders, files in os.walk(place.index.parent, topdown=False):
        for path in map(Path(folder).joinpath, (*files, *folders)):
            if path.is_symlink() or (path not in keep and not path.is_dir()):
                path.unlink(missing_ok=True)
            elif path.is_dir():
                with suppress(OSError):  # it is not empty
                    path.rmdir()


def _known(place: _Place) -> dict[str, tuple[Mapping[str, Any], int]]:
    """Return what was said of each file when it was fetched, and its bytes; a line that was cut short says nothing."""
    known: dict[str, tuple[Mapping[str, Any], int]] = {}
    with suppress(OSError):
        for line in place.index.read_bytes().splitlines():
            with suppress(ValueError, TypeError, RecursionError):
                name, facts, size = json.loads(line)
                known |= {name: (facts, size)} if isinstance(facts, dict) else {}
    return known


def _listing(address: str) -> str:
    protocol, _, path = address.partition("://")
    host, *parts = path.split("/")
    fixed = "/".join([host, *(part for part in parts if not has_magic(part))])
    if protocol in _LIST:
        return f"{_LIST[protocol]} {typed(f'{protocol}://{fixed}')}   (shows what is there, and may be read)"
    return f"name a file, a folder or a glob that is there: what was asked is {typed(address)}"


def _unreadable(address: str, error: Exception, cache: Path | None = None) -> RaftError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"There is nothing at {address}.", where="corpus", hint=_listing(address))
    if cache and isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return of_system(error, where=cache)
    silent = "it does not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    words = " ".join(shown(str(error)).split())[:300] or silent
    notes = cache and cache / _own(address) / _NOTES
    what = f"Documents cannot be read from {address}: {type(error).__name__}: {words}."
    what += " What was fetched is kept." if notes and notes.is_file() and notes.stat().st_size else ""
    return RaftError(what, where="corpus", hint=_listing(address))
