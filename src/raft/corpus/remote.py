"""Documents at an address (s3://, gs:// and what else fsspec knows): fetched beside the run, and anew when they change.

From then on they are files like any other: names are relative to the address, as they are to a folder.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path, PurePosixPath
from typing import Any

from raft.corpus.readers import format_of
from raft.errors import RaftError, UsageError, typed
from raft.text import is_address
from raft.text.secrets import shown, shown_address

_HERE = ("file", "local", "memory")
_TELLS = (
    "etag",
    "checksum",
    "md5",
    "md5hash",
    "crc32c",
    "content_md5",
    "size",
    "mtime",
    "lastmodified",
    "last_modified",
)
_TELLS_TOO = ("updated", "created", "generation", "versionid")
"""What a file system says of a file that another file of the same name would not have, in small letters."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "adl": "adlfs"}
_LIST = {"s3": "aws s3 ls", "s3a": "aws s3 ls", "gs": "gcloud storage ls", "gcs": "gcloud storage ls"}
"""What shows with the same keys whether they are right."""
_AT_ONCE = 16


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
        if shown_address(address) != address:
            hint = "take it out: keys come from the environment, or from the provider's own files"
            raise UsageError(
                "An address of documents has a password or key in it.", where=shown_address(address), hint=hint
            )
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
        if is_address(entry):
            try:
                place = _place(entry, cache)
                skipped += _fetched(place)
            except RaftError:
                raise
            except Exception as error:  # each file system has its own
                raise _unreadable(entry, error) from error
            entries.append(str(place.local / place.pattern))
        else:
            entries.append(entry)
    return entries, skipped


def name_of(address: str) -> str:
    """Return what a run on an address is called: the last folder in it."""
    parts = [part for part in address.partition("://")[2].split("/") if part and not has_magic(part)]
    last = PurePosixPath(parts[-1]) if parts else PurePosixPath("corpus")
    return last.stem if format_of(Path(last)) else last.name


def _system(address: str) -> tuple[Any, str]:
    import fsspec  # noqa: PLC0415  it takes time

    protocol = address.partition("://")[0]
    try:
        system, path = fsspec.url_to_fs(address)
    except ImportError as error:
        found = re.search(r"[Ii]nstall\s+[\"'`]?(?:pip install )?([\w-]+)", str(error))
        package = _PACKAGES.get(protocol) or (found[1] if found else protocol)
        what = f"Documents at {protocol}:// need a package that is not installed: {error}."
        raise UsageError(what, where=f"corpus: {address}", hint=f"pip install {package}") from None
    except ValueError as error:
        near = ", ".join(f"{one}://" for one in ("s3", "gs", "az", "https", "sftp", "file"))
        raise UsageError(
            f"Documents cannot be read from {address}: {error}.",
            where=f"corpus: {address}",
            hint=f"addresses begin with {near} or another protocol of fsspec; a folder has none: raft build .",
        ) from None
    except Exception as error:
        raise _unreadable(address, error) from error
    return system, path


def _place(address: str, cache: Path) -> _Place:
    system, path = _system(address)
    parts = path.split("/")
    fixed = next((number for number, part in enumerate(parts) if has_magic(part)), len(parts))
    root, pattern = "/".join(parts[:fixed]).rstrip("/"), "/".join(parts[fixed:])
    if not pattern and system.isfile(root):
        root, _, pattern = root.rpartition("/")
    safe = [part for part in root.split("/") if part not in ("", ".", "..")]
    own = cache / hashlib.sha256(address.encode()).hexdigest()[:16]
    local = own.joinpath(address.partition("://")[0], *safe)
    return _Place(address, system, root, pattern, local, own / "fetched.json")


def _fetched(place: _Place) -> list[tuple[str, str]]:
    listed = _listed(place)
    wanted: dict[str, Mapping[str, Any]] = {}
    skipped: list[tuple[str, str]] = []
    for path, facts in sorted(listed.items()):
        name = path.removeprefix(place.root).lstrip("/")
        reason = _unfit(PurePosixPath(name))
        if reason:
            skipped.append((f"{place.address.partition('://')[0]}://{path.lstrip('/')}", reason))
        else:
            wanted[name] = facts
    if not wanted:
        told = "".join(f" Left out: {name} ({reason})." for name, reason in skipped[:3])
        raise UsageError(
            f"There are no documents at {place.address}.{told}", where="corpus", hint=_listing(place.address)
        )
    known = _known(place)
    now = {name: {one: str(value) for one, value in facts.items() if one.lower() in (*_TELLS, *_TELLS_TOO)}
           for name, facts in wanted.items()}  # fmt: skip
    missing = [name for name in wanted if known.get(name) != now[name] or not (place.local / name).is_file()]
    for gone in known.keys() - wanted.keys():
        (place.local / gone).unlink(missing_ok=True)
    _note(place, {name: facts for name, facts in now.items() if name not in missing})
    with ThreadPoolExecutor(_AT_ONCE) as workers:
        list(workers.map(lambda name: _get(place, name), missing))
    _note(place, now)
    return skipped


def _listed(place: _Place) -> dict[str, Mapping[str, Any]]:
    place.system.invalidate_cache()
    if place.pattern:
        found = place.system.glob(f"{place.root}/{place.pattern}", detail=True)
    else:
        found = place.system.find(place.root, detail=True)
    return {path: facts for path, facts in found.items() if facts.get("type") != "directory"}


def _unfit(name: PurePosixPath) -> str | None:
    if any(part in (".", "..") for part in name.parts) or name.is_absolute():
        return "its name leads out of the corpus"
    if any(part.startswith((".", "~$")) for part in name.parts):
        return "it is hidden"
    if format_of(Path(name)) is None:
        return f"there is no reader for {name.suffix or 'files without a suffix'}"
    return None


def _get(place: _Place, name: str) -> None:
    path = place.local / name
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = place.index.with_name(f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.draft")
    place.system.get_file(f"{place.root}/{name}" if place.root else name, str(draft))
    draft.replace(path)


def _known(place: _Place) -> dict[str, Any]:
    try:
        found = json.loads(place.index.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _note(place: _Place, facts: Mapping[str, Any]) -> None:
    place.index.parent.mkdir(parents=True, exist_ok=True)
    draft = place.index.with_suffix(".draft")
    draft.write_text(json.dumps(facts), encoding="utf-8")
    draft.replace(place.index)


def _listing(address: str) -> str:
    protocol, _, path = address.partition("://")
    fixed = "/".join(part for part in path.split("/") if not has_magic(part))
    if protocol in _LIST:
        return f"{_LIST[protocol]} {typed(f'{protocol}://{fixed}')}   (shows what is there, with the same keys)"
    return f"name a file, a folder or a glob that is there: what was asked is {typed(address)}"


def _unreadable(address: str, error: Exception) -> RaftError:
    words = " ".join(shown(str(error)).split())[:300] or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return UsageError(f"There is nothing at {address}.", where="corpus", hint=_listing(address))
    what = f"Documents cannot be read from {address}: {type(error).__name__}: {words}. What was fetched is kept."
    return RaftError(what, where="corpus", hint=_listing(address))
