"""Files of a run of so many chunks, as raft, Chroma and bm25s lay them out, without the work: to time their opening.

    python benchmarks/scale_files.py runs/scale/2000/run OUT 1000000

A small run is there over and over under other ids, with three words of its own for each chunk. Vectors and the lowest
level of their graph are drawn, so that what is found means nothing. As many chunks are in Chroma's log as builds left
there. Chroma's table of trigrams is left out. A million takes some 3 GB and half a minute.
"""

import argparse
import hashlib
import json
import pickle
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl

from raft.backends.index.hybrid import Indexes
from raft.store import artifacts

WIDTH, LINKS, LOG, BLOCK = 384, 16, 1024, 20_000
OWN = ("ba-{:09}x", "{:09}x", "h{}x")
HEADER = struct.Struct("<i6QiI3QdQ")
ROW = np.dtype([("count", "<u4"), ("links", "<u4", 32), ("vector", "<f4", WIDTH), ("label", "<u8")])
DRAW = np.random.default_rng(0)


class Named:
    """The embedder that the small run was made with, as far as its index asks for it."""

    identity = "given-384"


def renamed(frame: pl.DataFrame, copy: int) -> pl.DataFrame:
    """Return a copy of chunks or documents under other ids."""
    names = [name for name in ("doc_id", "chunk_id") if name in frame.columns]
    return frame.with_columns(pl.col(name).str.slice(0, 11) + pl.lit(f"{copy:05x}") for name in names)


def unit(count: int) -> np.ndarray:
    """Return drawn vectors of length 1."""
    drawn = DRAW.standard_normal((count, WIDTH), dtype=np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def write_words(base: Path, folder: Path, copies: int, count: int) -> pl.DataFrame:
    """Write the index of words; return its chunks, in the order of their ids."""
    small = pl.read_ipc(base / "chunks.arrow")
    assert small["chunk_id"].str.slice(0, 11).n_unique() == small.height
    data, rows, ends = (np.load(base / f"{part}.csc.index.npy") for part in ("data", "indices", "indptr"))
    numbers = np.arange(count, dtype=np.int32)
    spread = (rows[:, None] * np.int32(copies) + np.arange(copies, dtype=np.int32)).ravel()
    own = np.full(len(OWN) * count, 9, np.float32)
    np.save(folder / "data.csc.index.npy", np.concatenate([np.repeat(data, copies), own]))
    np.save(folder / "indices.csc.index.npy", np.concatenate([spread, *[numbers] * len(OWN)]))
    last = len(spread) + np.arange(1, len(own) + 1)
    np.save(folder / "indptr.csc.index.npy", np.concatenate([ends * copies, last]).astype(ends.dtype))
    words = json.loads((base / "vocab.index.json").read_bytes())
    for place, form in enumerate(OWN):
        words.update((form.format(number), len(ends) - 1 + place * count + number) for number in range(count))
    (folder / "vocab.index.json").write_text(json.dumps(words, separators=(",", ":")), encoding="utf-8")
    for name, key in (("params.index.json", "num_docs"), ("about.json", "chunks")):
        told = json.loads((base / name).read_bytes())
        (folder / name).write_text(json.dumps({**told, key: count}), encoding="utf-8")
    which, copy = np.repeat(np.arange(small.height), copies), np.tile(np.arange(copies), small.height)
    ends_of = pl.Series([f"{number:05x}" for number in range(copies)])[copy]
    names = {name: small[name].str.slice(0, 11)[which] + ends_of for name in ("chunk_id", "doc_id")}
    chunks = pl.DataFrame({**names, "text": small["text"][which]})
    chunks.write_ipc(folder / "chunks.arrow")
    return chunks


def write_tables(database: sqlite3.Connection, chunks: pl.DataFrame, done: int) -> str:
    """Fill Chroma's tables; return the name of the folder of its vectors."""
    segments = dict(database.execute("SELECT scope, id FROM segments"))
    (topic,) = database.execute("SELECT topic FROM embeddings_queue LIMIT 1").fetchone()
    for table in ("embeddings", "embedding_metadata", "embeddings_queue"):
        database.execute(f"DELETE FROM {table}")
    (index,) = database.execute(
        "SELECT sql FROM sqlite_master WHERE name = 'embedding_metadata_string_value'"
    ).fetchone()
    database.execute("DROP INDEX embedding_metadata_string_value")

    def entries() -> Iterator[tuple[int, dict[str, str]]]:
        for number, (chunk_id, doc_id, text) in enumerate(chunks.iter_rows(), 1):
            digest = hashlib.sha256(chunk_id.encode()).hexdigest()
            yield number, {"doc_id": doc_id, "digest": digest, "chroma:document": text}

    database.executemany(
        "INSERT INTO embeddings (id, segment_id, embedding_id, seq_id) VALUES (?, ?, ?, ?)",
        ((number, segments["METADATA"], name, number) for number, name in enumerate(chunks["chunk_id"], 1)),
    )
    database.executemany(
        "INSERT INTO embedding_metadata (id, key, string_value) VALUES (?, ?, ?)",
        ((number, key, value) for number, entry in entries() for key, value in entry.items()),
    )
    database.execute(index)
    vectors = unit(chunks.height - done)
    database.executemany(
        "INSERT INTO embeddings_queue (seq_id, operation, topic, id, vector, encoding, metadata) "
        "VALUES (?, 2, ?, ?, ?, 'FLOAT32', ?)",
        (
            (number, topic, chunks["chunk_id"][number - 1], vectors[number - done - 1].tobytes(), json.dumps(entry))
            for number, entry in entries()
            if number > done
        ),
    )
    for scope, most in (("METADATA", chunks.height), ("VECTOR", done)):
        database.execute("UPDATE max_seq_id SET seq_id = ? WHERE segment_id = ?", (most, segments[scope]))
    database.commit()
    return str(segments["VECTOR"])


def write_vectors(folder: Path, names: list[str]) -> None:
    """Write the files of a graph that has its lowest level alone."""
    count = len(names)
    header = [*HEADER.unpack((folder / "header.bin").read_bytes())]
    header[2], header[3], header[7], header[8] = 1 << (count - 1).bit_length(), count, 0, 0
    (folder / "header.bin").write_bytes(HEADER.pack(*header))
    with (folder / "data_level0.bin").open("wb") as file:
        for begin in range(0, count, BLOCK):
            rows = np.zeros(min(BLOCK, count - begin), ROW)
            rows["count"], rows["vector"] = LINKS, unit(len(rows))
            rows["links"][:, :LINKS] = DRAW.integers(0, count, (len(rows), LINKS))
            rows["label"] = np.arange(begin + 1, begin + len(rows) + 1)
            rows.tofile(file)
    np.ones(header[2], "<f4").tofile(folder / "length.bin")
    np.zeros(count, "<u4").tofile(folder / "link_lists.bin")
    labels = {name: number for number, name in enumerate(names, 1)}
    kept = {"dimensionality": None, "total_elements_added": count, "max_seq_id": None, "id_to_seq_id": {}}
    kept |= {"id_to_label": labels, "label_to_id": {number: name for name, number in labels.items()}}
    (folder / "index_metadata.pickle").write_bytes(pickle.dumps(kept, protocol=3))


def main() -> None:
    """Write the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="a small run of scale.py, of at least 1,025 chunks")
    parser.add_argument("out", type=Path, help="the run directory to make")
    parser.add_argument("chunks", type=int, help="a multiple of those of the small run")
    chosen = parser.parse_args()
    base, out, count = chosen.base, chosen.out, chosen.chunks
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.jsonl", "ledger.sqlite*", "scratch"))
    copies = count // pl.read_parquet(base / "chunks.parquet", columns=["chunk_id"]).height
    for name in ("documents.parquet", "chunks.parquet"):
        table = pl.read_parquet(base / name)
        artifacts.write(out / name, (renamed(table, copy) for copy in range(copies)))
    chunks = write_words(base / "lexical", out / "lexical", copies, count)
    done = count - count % LOG
    with closing(sqlite3.connect(out / "index" / "chroma.sqlite3")) as database:
        folder = write_tables(database, chunks, done)
    write_vectors(out / "index" / folder, chunks["chunk_id"][:done].to_list())
    indexes = Indexes(out, Named(), hybrid=True, url=None, collection="scale")  # type: ignore[arg-type]
    digests = {name: artifacts.digest(out / name) for name in ("documents.parquet", "chunks.parquet")}
    digests["lexical"] = str(indexes.lexical_digest())
    text = (out / "manifest.json").read_text(encoding="utf-8")
    for line in json.loads(text)["steps"].values():
        for name, entry in line["artifacts"].items():
            text = text.replace(entry["digest"], digests.get(name, entry["digest"]))
    (out / "manifest.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
