"""Whether the files of a Chroma index are whole: it serves damaged ones as if nothing were wrong, or dies of them."""

import pickle
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

_VECTORS = "SELECT id FROM segments JOIN max_seq_id ON id = segment_id WHERE scope = 'VECTOR'"
"""Segments of vectors that Chroma has written to files; where they are gone, it finds only the newest chunks."""
_HEADER = struct.Struct("<i6QiI3QdQ")  # of hnswlib's index, as Chroma writes it
_BLOCK, _MOST = 1 << 16, 1 << 18  # rows looked at in one go, and in all
_NEAR = 1e-2


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} has no place in an index")


def damage(database: Path) -> str | None:
    """Return what is wrong with the index of this database, in words; None where nothing is.

    A journal that a process left when it was killed is rolled back. Of very many vectors an even share is looked at.

    Raises:
        BlockingIOError: another process writes to it.
    """
    address = f"{database.resolve().as_uri()}?mode=rw"  # to be read alone, a journal would have to be gone already
    try:
        with closing(sqlite3.connect(address, uri=True)) as opened:
            (state,) = opened.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master")}
            written = opened.execute(_VECTORS).fetchall() if {"segments", "max_seq_id"} <= tables else []
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise BlockingIOError from None
        return f"The index cannot be read: {error}"
    if state != "ok":
        return f"The index cannot be read: {state}"
    for (segment,) in written:
        folder = database.parent / segment
        if not (folder / "data_level0.bin").is_file():
            return "The index has lost its vectors."
        try:
            _read(folder)
        except Exception as error:  # a damaged pickle raises whatever it likes
            return f"The index's vectors are damaged: {error}."
    return None


def _read(folder: Path) -> None:
    fields = _HEADER.unpack((folder / "header.bin").read_bytes())
    version, _, room, count, size, label, begin, _, entry, upper, width, *_ = fields
    must(
        version == 1 and begin == 4 + 4 * width and label + 8 == size and begin < label and count <= room, "the header"
    )
    must((folder / "data_level0.bin").stat().st_size == room * size, "the size of the vectors")
    if not count:
        return
    must(entry < count, "the header")
    rows = np.memmap(folder / "data_level0.bin", dtype=np.uint8, mode="r", shape=(room, size))
    for start in range(0, count, _BLOCK * max(1, count // _MOST)):
        part = np.array(rows[start : min(count, start + _BLOCK)])
        links = part[:, :begin].copy().view("<u4")
        used = links[:, :1] & 0xFFFF
        linked = links[:, 1:][np.arange(width) < used]
        must(bool((used <= width).all()) and bool((linked < count).all()), "the graph")
        lengths = np.linalg.norm(part[:, begin:label].copy().view("<f4"), axis=1)
        must(bool((np.abs(lengths - 1) < _NEAR).all()), "a vector")
    _read_upper(folder / "link_lists.bin", count, upper)
    with (folder / "index_metadata.pickle").open("rb") as file:
        names = _Plain(file).load()
    must(isinstance(names, dict) and len(names.get("id_to_label", ())) <= room, "the names")


def _read_upper(path: Path, count: int, width: int) -> None:
    content, place = path.read_bytes(), 0
    for _ in range(count):
        (length,) = struct.unpack_from("<I", content, place)
        linked = np.frombuffer(content, "<u4", length // 4, place + 4)
        place += 4 + length
        must(length % (4 * width + 4) == 0, "the graph")
        for level in linked.reshape(-1, width + 1) if length else ():
            must(bool(level[0] <= width) and bool((level[1 : 1 + level[0]] < count).all()), "the graph")
    must(place == len(content), "the size of the graph")


def must(holds: bool, what: str) -> None:
    """Refuse a file; `what` is the part of it that is not as it was written.

    Raises:
        ValueError: it does not hold.
    """
    if not holds:
        raise ValueError(f"{what} is not as it was written")
