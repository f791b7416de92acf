"""Files to documents; personal data and secrets in them are named, replaced or refused before all else sees them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from raft.corpus import documents, pii, readers
from raft.curation.user_questions import personal_data, refused
from raft.errors import DamagedArtifact, RaftError, typed
from raft.evaluation.lengths import unlike_examples
from raft.generation import plan
from raft.protocols import OnEvent, Workers
from raft.settings import Settings
from raft.store.artifacts import Output
from raft.store.run import Run, Step
from raft.text import from_json
from raft.text.languages import BEGUN, of_documents
from raft.text.languages import VERSION as LANGUAGES
from raft.text.records import VERSION, records

_RECORD = r"#\d+$"
"""What a document's name has behind its file's, where the file has several."""
_BEGINNINGS = ["doc_id", "text", "error"]
_NAMED = 1_000
"""Most documents with findings that are named in the manifest; the others are counted."""
_SHOWN = 20
"""Most documents that are named in an error."""


def read_documents(
    run: Run, settings: Settings, sources: Sequence[documents.Source], workers: Workers | None = None
) -> None:
    """Files to `documents.parquet`, looked through; a file that cannot be read is a row that says why.

    Raises:
        RaftError: nothing can be read, or something was found and `privacy.found` is "refuse".
    """
    replace, drop = settings.privacy.found == "redact", settings.chunking.templates == "drop"
    noted = run.manifest["steps"].get("documents", {}).get("notes", {})
    failed = noted.get("unreadable", [])
    newer = readers.versions(source.path for source in sources)

    def work(step: Step) -> Mapping[str, Output]:
        known = step.previous("documents.parquet", _file_and_digest)
        previous = None if known is None else (lambda name, sha256: known((name, sha256)))
        names = {source.name for source in sources}  # what is said of rows that are used again holds on
        left_out = {name: dict(counts) for name, counts in noted.get("left_out", {}).items() if name in names}
        frames = documents.read_documents(
            sources,
            text_field=settings.chunking.text_field,
            drop_templates=drop,
            previous=previous,
            left_out=left_out,
            workers=workers,
        )
        step.stats["left_out"] = left_out
        kept = redacted(frames) if replace else frames
        return {"documents.parquet": tallied(kept, partial(count_documents, step.stats))}

    run.step(
        "documents",
        work,
        version=1,
        outputs=["documents.parquet"],
        using={
            "text_field": settings.chunking.text_field,
            **({"redacted": pii.RULES} if replace else {}),
            **({"readers": newer} if newer else {}),
            **({"templates": "drop"} if drop and newer else {}),
        },
        # a package that is missing is named with its file, so that the file is read once the package is there
        given=[[source.name, source.sha256, *filter(None, [readers.missing(source.path)])] for source in sources],
        again=any(readers.may_pass(error) for _, error in failed),
    )
    listed = documents_listed(run)
    if listed.filter(pl.col("error").is_null()).is_empty():
        tried = [f"{row['path']}: {row['error']}" for row in listed.head(10).iter_rows(named=True)]
        raise RaftError(
            "No document of the corpus can be read.",
            where="; ".join(tried),
            hint="pip install 'raft-pipeline[docs]'   (brings the readers of PDF, DOCX, XLSX, EPUB and HTML)",
        )
    look_through(run, settings)


def changes(run: Run, sources: Sequence[documents.Source]) -> dict[str, list[str]]:
    """Return the names of files that are "changed", "new" or "gone" since the run was built; none for a new run."""
    if "documents" not in run.manifest["steps"]:
        return {}
    try:
        read = pl.concat(list(run.stream("documents.parquet", ["path", "sha256"])))
    except RaftError:  # damaged, and read anew whatever has changed
        return {}
    before = dict(read.with_columns(pl.col("path").str.replace(_RECORD, "")).iter_rows())
    now = {source.name: source.sha256 for source in sources}
    found = {
        "changed": [name for name in now if before.get(name, now[name]) != now[name]],
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
    }
    return {state: names for state, names in found.items() if names}


def documents_listed(run: Run) -> pl.DataFrame:
    """Return all documents of a run without their text."""
    columns = ["doc_id", "path", "title", "format", "characters", "error", "pages"]
    return pl.concat(list(run.stream("documents.parquet", columns)))


def questions_in(file: Path, *, hint: str, least: int = 0) -> list[dict[str, str]]:
    """Return the questions (`question_id`, `question`) that something was trained on; none where there is no such file.

    Raises:
        DamagedArtifact: they cannot be read, or are not `least` so many; `hint` mends that.
    """
    try:
        rows = [from_json(line) for line in file.read_bytes().splitlines()] if file.is_file() else []
        found = [{name: str(row[name]) for name in ("question_id", "question")} for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        found, least = [], 1
    if len(found) < least:
        what = "The questions that this was trained on are not all there: others could not be told from them."
        raise DamagedArtifact(what, where=file, hint=hint)
    return found


def languages(run: Run) -> dict[str, str]:
    """Return the language of each document that is not in English, by doc_id (ISO 639-1); told once for a corpus."""
    digest = run.manifest["steps"]["documents"]["artifacts"]["documents.parquet"]["digest"]
    known = run.manifest.get("languages", {})
    if known.get("documents") != digest or known.get("version") != LANGUAGES:
        frames = (one.filter(pl.col("error").is_null()) for one in run.stream("documents.parquet", _BEGINNINGS))
        begun = (frame.select("doc_id", pl.col("text").str.head(BEGUN)) for frame in frames)
        found = of_documents(pair for frame in begun for pair in frame.iter_rows())
        known = {"documents": digest, "version": LANGUAGES, "found": found}
        run.describe(languages=known)
    return dict(known["found"])


def tell_languages(run: Run, settings: Settings, *, strategy: str, aside: frozenset[str], on_event: OnEvent) -> None:
    """Tell what is not asked for want of rules of a language ("left out"), before anything is cut, embedded or asked.

    So is told that no kind asked for has answers as long as those of `answer_style.examples`.

    Raises:
        RaftError: nothing can be asked of any document.
    """
    listed = documents_listed(run).filter(pl.col("error").is_null(), ~pl.col("doc_id").is_in(list(aside)))
    asked, spoken = settings.questions, languages(run)
    kinds = asked.kinds if asked.limit != 0 else []  # without them it is told of the embedder alone
    sizes = dict.fromkeys(listed["doc_id"], 1)
    if line := unlike_examples([one.answer for one in settings.answer_style.examples], kinds):
        on_event("left out", {"left_out": [line]})
    known = plan.Survey(sizes=sizes, languages={doc: code for doc, code in spoken.items() if doc in sizes})
    if not known.languages:
        return
    if lines := plan.left_out(strategy, kinds, known, settings.index.embedder):
        on_event("left out", {"left_out": lines})
    found = sorted({known.language(doc).name for doc in sizes})
    if asked.qa or any(plan.askable(strategy, kinds, known.language(doc)) for doc in sizes):
        return
    again = f"raft build {' '.join(map(typed, settings.corpus))}"
    raise RaftError(
        f"Nothing can be asked of these documents: they are in {', '.join(found)}, and {_LACKS[strategy]}.",
        where=f"questions.way={strategy}, questions.kinds=[{', '.join(kinds)}]",
        hint=f"{again} --pipeline local   (a capable model on a server of yours; or multilingual: a hosted one;"
        " or, with a generator on this machine of at least half a billion parameters, --set questions.way=spans)",
    )


_LACKS = {
    **dict.fromkeys(
        ("rules", "rules_first", "answer_first"), "the way for the smallest models knows the rules of English alone"
    ),
    **dict.fromkeys(("spans", "items"), "the kinds that are asked for need rules that are not known of their language"),
}


def records_told(run: Run) -> dict[str, int]:
    """Return what a step's key has where chunks hold records (`raft.text.records`): else nothing depends on them."""
    digest = run.manifest["steps"]["chunks"]["artifacts"]["chunks.parquet"]["digest"]
    known = run.manifest.get("records", {})
    if known.get("chunks") != digest or known.get("version") != VERSION:
        texts = (text for frame in run.stream("chunks.parquet", ["text"]) for text in frame["text"])
        known = {"chunks": digest, "found": any(map(records, texts)), "version": VERSION}
        run.describe(records=known)
    return {"records": VERSION} if known["found"] else {}


def redacted(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield frames of `tables.DOCUMENTS` with placeholders for what the rules find in titles and texts."""
    for frame in frames:
        rows = []
        for row in frame.iter_rows(named=True):
            text, pages = pii.cleaned(row["text"] or "", row["pages"] or [])
            title, _ = pii.cleaned(row["title"] or "")
            if text != row["text"] or title != row["title"]:
                row |= {"title": title, "text": text, "characters": len(text), "pages": pages}
            rows.append(row)
        yield pl.DataFrame(rows, schema=frame.schema)


def look_through(run: Run, settings: Settings) -> None:
    """Note in the manifest what documents, their names and own questions hold: kinds and places, never what was found.

    Raises:
        RaftError: something was found, and `privacy.found` is "refuse".
    """
    mode = settings.privacy.found
    before = run.manifest["steps"].get("privacy", {}).get("notes", {})
    # without a count nobody has looked: what was sent then may have held anything
    held = before.get("in") != 0 or "questions" in before
    sent = "chunks" in run.manifest["steps"] and not before.get("redacted") and held
    files = settings.evaluation, *settings.questions.qa, settings.questions.like
    own = [file for file in files if file and mode != "ignore"]
    questions = dict(sum((Counter(personal_data(file)) for file in own), Counter()))
    line = run.make(
        "privacy",
        _look_through,
        version=pii.RULES,
        outputs=[],
        inputs=["documents.parquet"],
        using={
            "found": mode if mode in ("ignore", "redact") else "named",
            **({"questions": questions} if questions else {}),
        },
        beside={"sent": mode == "redact" and bool(sent or before.get("sent"))},
    )
    noted = line["notes"]
    places = [(path, kinds) for part in ("documents", "names") for path, kinds in noted.get(part, {}).items()]
    if mode == "refuse" and places:
        shown = [f"{path}: {pii.counted(kinds)}" for path, kinds in places[:_SHOWN]]
        more = max(noted["in"], len(places)) - len(shown)
        raise refused("documents", [*shown, *([f"and {more:,} more documents"] if more else [])])


def _look_through(
    step: Step, *, found: str, sent: bool, questions: Mapping[str, int] | None = None
) -> dict[str, Output]:
    if found != "ignore":
        rows = (row for frame in step.run.stream("documents.parquet") for row in frame.iter_rows(named=True))
        step.stats.update(_noted(rows, redacted=found == "redact"))
        step.stats.update({"questions": questions} if questions else {})
    if sent:
        step.stats["sent"] = True
    return {}


def _file_and_digest(table: pl.DataFrame) -> pl.Series:
    named = table.with_columns(path=pl.col("path").str.replace(_RECORD, ""))
    return named.select(pl.struct("path", "sha256")).to_series()


def _noted(rows: Iterable[Mapping[str, Any]], *, redacted: bool) -> dict[str, Any]:
    """Count findings (in redacted documents: placeholders) by kind, in all and for each document."""
    total: Counter[str] = Counter()
    listed: dict[str, dict[str, int]] = {}
    names: dict[str, dict[str, int]] = {}
    several = 0
    for row in rows:
        # a suffix would make a file's name of an address at its end
        named = _kinds("", "\n".join(PurePosixPath(row["path"]).with_suffix("").parts))
        if named and len(names) < _NAMED:
            names[row["path"]] = named
        kinds = _kinds(row["title"] or "", row["text"] or "", redacted=redacted)
        several += bool(kinds)
        total.update(kinds)
        if kinds and len(listed) < _NAMED:
            listed[row["path"]] = kinds
    ordered = {kind: total[kind] for kind in pii.PLACEHOLDERS if kind in total}
    noted = {"found": ordered, "in": several, "documents": listed, "redacted": redacted}
    return {**noted, **({"names": names} if names else {})}


def _kinds(title: str, text: str, *, redacted: bool = False) -> dict[str, int]:
    counts: Counter[pii.Kind] = Counter()
    # a title is mostly the first heading of the text, where it is counted already
    for part in [text] if title in text else [title, text]:
        counts += pii.placeholders(part) if redacted else Counter(found.kind for found in pii.scan(part))
    return {kind: counts[kind] for kind in pii.PLACEHOLDERS if kind in counts}


Stats = dict[str, Any]


def tallied(frames: Iterable[pl.DataFrame], count: Callable[[pl.DataFrame], None]) -> Iterator[pl.DataFrame]:
    """Yield the frames, each after `count` has seen it."""
    for frame in frames:
        count(frame)
        yield frame


def count_documents(stats: Stats, frame: pl.DataFrame) -> None:
    """Count characters, and list what could not be read."""
    stats["characters"] = stats.get("characters", 0) + int(frame["characters"].sum() or 0)
    stats.setdefault("unreadable", []).extend(
        [row["path"], row["error"]] for row in frame.filter(pl.col("error").is_not_null()).iter_rows(named=True)
    )


def count_chunks(stats: Stats, frame: pl.DataFrame) -> None:
    """Count tokens and boilerplate."""
    stats["tokens"] = stats.get("tokens", 0) + int(frame["tokens"].sum() or 0)
    stats["boilerplate"] = stats.get("boilerplate", 0) + int(frame["boilerplate"].sum() or 0)


def count_questions(stats: Stats, frame: pl.DataFrame) -> None:
    """Count questions by kind."""
    kinds = stats.setdefault("kinds", {})
    for kind, count in sorted(Counter(frame["kind"].to_list()).items()):
        kinds[kind] = kinds.get(kind, 0) + count
