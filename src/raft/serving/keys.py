"""Keys of a server: who may ask is in a file, one name a line with the SHA-256 of their key; no key is kept."""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from raft.errors import UsageError, regular, typed

_LINE = re.compile(r"(?P<name>[\w.@-]{1,64})[ \t]+(?P<digest>[0-9a-f]{64})")
_EXAMPLE = "raft serve --new-key ada --keys keys.txt"


def new_key(path: Path, name: str) -> str:
    """Return a new key for somebody, whose digest is added to the file; it is made, for its owner alone, if missing.

    Raises:
        UsageError: the name is none, has a key already, or the file is not one of keys.
    """
    if not _LINE.fullmatch(f"{name} {'0' * 64}"):
        raise UsageError(
            f"{name!r} is no name of a key: letters, digits, '.', '@', '_' and '-', at most 64.",
            where="--new-key",
            hint=_EXAMPLE,
        )
    if path.exists() and path.read_bytes().strip() and name in read(path).values():
        hint = f"delete its line in {typed(path)}, which ends the old key; then the same command again"
        raise UsageError(f"{name} has a key already.", where=path, hint=hint)
    key = f"raft-{secrets.token_urlsafe(32)}"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
        file.write(f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n".encode())
    return key


def read(path: Path) -> Mapping[str, str]:
    """Return the names in a file of keys by the digests of their keys.

    Raises:
        UsageError: the file is not there, has no key, or a line that is none.
    """
    try:
        lines = regular(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        hint = f"raft serve --new-key NAME --keys {typed(path)}   (makes it, and prints a key)"
        raise UsageError(f"The file of keys cannot be read: {why}.", where=path, hint=hint) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:  # the line is not shown: it may hold a key
            hint = f"{_EXAMPLE}   (a name and the SHA-256 of a key, in hexadecimal digits)"
            raise UsageError("A line of the file is no key's.", where=f"{path}, line {number}", hint=hint)
        found[match["digest"]] = match["name"]
    if not found:
        hint = f"raft serve --new-key NAME --keys {typed(path)}"
        raise UsageError("The file of keys has none.", where=path, hint=hint)
    return found


def owner(keys: Mapping[str, str], given: str) -> str | None:
    """Return the name that a key was made for; None: for nobody. How long it takes does not tell how near it was."""
    digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).hexdigest()
    found = [name for known, name in keys.items() if hmac.compare_digest(known, digest)]
    return found[0] if found else None
