"""Files of a run directory: written as streams, read as frames, known by their digest."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from raft.errors import DamagedArtifact, UsageError, typed
from raft.store import tables
from raft.store.again import again
from raft.text import from_json

Output = pl.DataFrame | Iterable[pl.DataFrame] | Iterable[str]
_ROW_GROUP_BYTES = 4 << 20
_ROW_GROUP_ROWS = 20_000


def digest(path: Path) -> str:
    """Return the SHA-256 of a file (hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, output: Output) -> int:
    """Write a table (`.parquet`: a frame or frames; `.jsonl`: a frame, frames or lines) and return its rows.

    Frames are checked against the schema of the artifact that `path` is named after. How the rows come in does not
    change the bytes of the file.
    """
    if path.suffix == ".parquet":
        if isinstance(output, pl.DataFrame):  # it may have columns that are optional
            return _write_parquet(path, [output], tables.check(output, tables.ARTIFACTS[path.name], where=path).schema)
        return _write_parquet(path, _frames(output), tables.ARTIFACTS[path.name])
    return _write_lines(path, output)


def atomically(path: Path, text: str) -> None:
    """Replace a small text file so that at any instant the old or the new one is there, whole."""
    draft = _draft(path)
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid():08d}.draft")  # nobody else's name


def link(source: Path, target: Path) -> None:
    """Put a file at a second place, whole, sharing its bytes where the file system can do so."""
    draft = _draft(target)
    draft.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), draft)
    except OSError:
        shutil.copyfile(source, draft)
    draft.replace(target)


def read(path: Path) -> pl.DataFrame:
    """Read a table of the run directory.

    Raises:
        DamagedArtifact: the file is missing, cannot be read, or has other columns than it should.
    """
    schema = tables.ARTIFACTS[path.name]
    with _reading(path):
        table = _read_lines(path, schema) if path.suffix == ".jsonl" else pl.read_parquet(path)
    return tables.check(table, schema, where=path)


def _read_lines(path: Path, schema: pl.Schema) -> pl.DataFrame:
    more = tables.optional(schema)
    table = pl.read_ndjson(path, schema=pl.Schema({**schema, **more}))
    return table.drop(name for name in more if table[name].null_count() == table.height)


def missing(path: Path) -> DamagedArtifact:
    """Return the error for a table that is not there."""
    return DamagedArtifact(
        f"There is no {path.name} in the run directory.",
        where=path.parent,
        hint=f"raft bench {typed(path.parent)}"
        if path.name == "answers.parquet"
        else again(path.parent, remark="it continues where it stopped"),
    )


def stream(path: Path, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
    """Yield the row groups of a parquet table as frames, some megabytes each.

    Raises:
        DamagedArtifact: it is missing, cannot be read, or lacks a column.
    """
    with _reading(path), pq.ParquetFile(path) as file:
        _check_columns(file, path)
        for group in range(file.num_row_groups):
            table = pl.from_arrow(file.read_row_group(group, columns=columns))
            if isinstance(table, pl.DataFrame) and table.height:
                yield table


def lookup(path: Path, key: Callable[[pl.DataFrame], pl.Series]) -> Callable[[Any], pl.DataFrame | None]:
    """Return a function from a key to the rows of a parquet table that have it, or None.

    Rows with one key must lie next to each other. Only keys and one row group are held in memory; asking in the
    order of the file reads it once.

    Raises:
        DamagedArtifact: it is missing, cannot be read, or lacks a column; the function raises it too.
    """
    with _reading(path), pq.ParquetFile(path) as file:
        _check_columns(file, path)
        names = file.schema_arrow.names
        small = [name for name in names if name not in ("text", "pages")]
        places: dict[Any, list[tuple[int, int]]] = {}
        for group in range(file.num_row_groups):
            table = pl.from_arrow(file.read_row_group(group, columns=small))
            for row, value in enumerate(key(table).to_list()):  # type: ignore[arg-type]
                places.setdefault(_hashable(value), []).append((group, row))
    cache: dict[int, pl.DataFrame] = {}

    def group_rows(group: int) -> pl.DataFrame:
        if group not in cache:
            cache.clear()
            with _reading(path), pq.ParquetFile(path) as file:
                cache[group] = pl.from_arrow(file.read_row_group(group))  # type: ignore[assignment]
        return cache[group]

    def find(wanted: Any) -> pl.DataFrame | None:
        found = places.get(_hashable(wanted))
        if not found:
            return None
        parts = [group_rows(group)[[row for g, row in found if g == group]] for group in sorted({g for g, _ in found})]
        return pl.concat(parts)

    return find


def finder(path: Path, column: str) -> Callable[[Collection[str]], pl.DataFrame]:
    """Return a function from values of a text column to the rows of a parquet table that have one of them.

    Of the table that column alone is held in memory, and the row groups that hold the rows are read, each once a call.

    Raises:
        DamagedArtifact: it is missing, cannot be read, or lacks a column; the function raises it too.
    """
    with _reading(path), pq.ParquetFile(path) as file:
        _check_columns(file, path)
        groups = [pl.from_arrow(file.read_row_group(group, columns=[column])) for group in range(file.num_row_groups)]
    held = pl.concat(
        frame.with_columns(group=pl.lit(group), row=pl.int_range(pl.len()))  # type: ignore[union-attr]
        for group, frame in enumerate(groups)
    )

    def find(wanted: Collection[str]) -> pl.DataFrame:
        places = held.filter(pl.col(column).is_in([*wanted])).select("group", "row").rows()
        parts = []
        with _reading(path), pq.ParquetFile(path) as file:
            for group, rows in groupby(places, key=itemgetter(0)):
                parts.append(pl.from_arrow(file.read_row_group(group))[[row for _, row in rows]])
            return pl.concat(parts) if parts else pl.from_arrow(file.schema_arrow.empty_table())  # type: ignore[return-value,arg-type,type-var]

    return find


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise missing(path) from None
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise DamagedArtifact(
            f"A table cannot be read: {str(error).rstrip('.')}.",
            where=path,
            hint=f"raft bench {typed(path.parent)}   (asks what is not in the ledger)"
            if path.name == "answers.parquet"
            else "run the same raft build again: what is damaged is built anew",
        ) from None


def _check_columns(file: pq.ParquetFile, path: Path) -> None:
    schema = tables.ARTIFACTS[path.name]
    names = [name for name in file.schema_arrow.names if name in schema or name not in tables.OPTIONAL]
    if names != schema.names():
        tables.check(pl.DataFrame(schema=names), schema, where=path)


def _hashable(value: Any) -> Any:
    return tuple(value.values()) if isinstance(value, dict) else value


def _frames(output: Output) -> Iterable[pl.DataFrame]:
    return [output] if isinstance(output, pl.DataFrame) else output  # type: ignore[return-value]


def _write_parquet(path: Path, frames: Iterable[pl.DataFrame], schema: pl.Schema) -> int:
    arrow = _arrow(schema.to_frame()).schema
    rows = 0
    with pq.ParquetWriter(path, arrow, compression="zstd", store_schema=True) as writer:
        for group in _row_groups(frames, schema, path):
            # pages break where arrow's chunks do, so a group is written as one
            writer.write_table(_arrow(group).cast(arrow).combine_chunks())
            rows += group.height
        if not rows:
            writer.write_table(arrow.empty_table())
    return rows


def _row_groups(frames: Iterable[pl.DataFrame], schema: pl.Schema, where: Path) -> Iterator[pl.DataFrame]:
    # Groups end after the row that fills them, whatever frames the rows came in: resumed work, which comes in
    # other frames, writes the same bytes.
    waiting: list[pl.DataFrame] = []
    size = rows = 0
    for frame in frames:
        tables.check(frame, schema, where=where)
        begin = 0
        for row, row_size in enumerate(_row_sizes(frame)):
            size, rows = size + row_size, rows + 1
            if size >= _ROW_GROUP_BYTES or rows >= _ROW_GROUP_ROWS:
                yield pl.concat([*waiting, frame[begin : row + 1]])
                waiting, begin, size, rows = [], row + 1, 0, 0
        if begin < frame.height:
            waiting.append(frame[begin:])
    if waiting:
        yield pl.concat(waiting)


def _row_sizes(frame: pl.DataFrame) -> list[int]:
    # in plain Python: most frames of questions have one row, for which a query of polars costs twenty times as much
    texts = [column.to_list() for column in frame.get_columns() if column.dtype == pl.String]
    return [sum(len(text.encode()) for text in row if text) for row in zip(*texts, strict=True)]


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _write_lines(path: Path, output: Output) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for item in _frames(output):
            for row in [item] if isinstance(item, str) else item.iter_rows(named=True):
                file.write(f"{row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)}\n")
                rows += 1
    return rows


def read_objects(path: Path, hint: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of a file of JSON lines in UTF-8 with where it stands, in words; blank lines are passed over.

    Raises:
        UsageError: the file cannot be read, or a line is no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError("There is no such file.", where=path, hint=f"ls {typed(path.parent)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The file cannot be read: {error}.", where=path, hint=hint) from None
    yield from parse_objects(text, path, hint)


def parse_objects(text: str, source: object, hint: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of JSON lines as `read_objects` does; `source` is what the text came from."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            value = from_json(line)
        except ValueError as error:
            raise UsageError(f"The line is no JSON: {error}.", where=where, hint=hint) from None
        if not isinstance(value, dict):
            raise UsageError("The line is no JSON object.", where=where, hint=hint)
        yield where, value
