"""What a run says to a person about personal data and secrets in its documents."""

from collections.abc import Mapping
from typing import Any

from raft.privacy import counted


def privacy_lines(notes: Mapping[str, Any], run: str = "RUN") -> list[str]:
    """Return what was found, and where, as lines of a summary; none where nothing was found or looked for.

    Args:
        notes: the notes of a build's steps by the steps' names.
        run: the run directory.
    """
    noted = notes.get("privacy") or {}
    redacted, lines = noted.get("redacted"), []
    if noted.get("found"):
        where = f"in {noted['in']:,} document{'s' if noted['in'] > 1 else ''}"
        done = f"replaced {where}:" if redacted else f"{where}, left as they are:"
        lines = [f"{counted(noted['found'])} {done}", *_most(noted["documents"], noted["in"])]
    if names := noted.get("names"):
        lines += ["names of files hold them too, and stay as they are: rename the files", *_most(names, len(names))]
    if questions := noted.get("questions"):
        lines.append(f"{counted(questions)} in your own questions, {'replaced' if redacted else 'left as they are'}")
    if lines and not redacted:
        lines.append("to replace them: --set privacy.found=redact; to stop at them: refuse; to be silent: ignore")
    if noted.get("sent"):
        lines += [
            "what was made before they were replaced may hold them still: replies and vectors in the ledger, deleted",
            "rows in the files of the index, adapters, reports. To be rid of it, make the run anew, delete this one:",
            f"the same raft build with --out {run}-redacted --set ledger={run}-redacted/ledger.sqlite,",
            f"then rm -r {run}",
            "(and delete the old ledger, if it lies elsewhere, and the old collection on a Chroma server)",
        ]
    return lines


def _most(places: Mapping[str, Mapping[str, int]], count: int) -> list[str]:
    shown = sorted(places, key=lambda path: (-sum(places[path].values()), path))[:5]
    more = [f"and {count - len(shown):,} more"] if count > len(shown) else []
    return [*(f"{path}: {counted(places[path])}" for path in shown), *more]
