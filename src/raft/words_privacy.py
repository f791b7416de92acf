"""What a run says to a person about personal data and secrets in its documents."""

from collections.abc import Mapping
from typing import Any

from raft.privacy import counted


def privacy_lines(notes: Mapping[str, Any]) -> list[str]:
    """Return what was found, and where, as lines of a summary; none where nothing was found or looked for.

    Args:
        notes: the notes of a build's steps by the steps' names.
    """
    noted = notes.get("privacy") or {}
    found = noted.get("found")
    if not found:
        return []
    documents, several = noted["documents"], noted["in"] > 1
    where = f"in {noted['in']:,} document{'s' if several else ''}"
    if noted["redacted"]:
        lines = [f"{counted(found)} replaced {where}:"]
    else:
        lines = [f"{counted(found)} {where}, left as they are:"]
    shown = sorted(documents, key=lambda path: (-sum(documents[path].values()), path))[:5]
    lines += [f"{path}: {counted(documents[path])}" for path in shown]
    if noted["in"] > len(shown):
        lines.append(f"and {noted['in'] - len(shown):,} more")
    if not noted["redacted"]:
        lines.append("to replace them: --set privacy.found=redact; to stop at them: refuse; to be silent: ignore")
    return lines
