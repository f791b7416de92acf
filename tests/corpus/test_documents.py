"""Promises of the corpus: which files are found, what becomes of each, which chunks come of them."""

import errno
import os
import re
import sys
import unicodedata
from pathlib import Path

import polars as pl
import pytest

from raft.corpus import readers
from raft.corpus.blocks import is_boilerplate, repeated_lines
from raft.corpus.chunking import chunk_documents, document_sha256
from raft.corpus.documents import doc_id, find_sources, read_documents
from raft.corpus.readers import ReadingProcess, Unreadable, read
from raft.errors import UsageError
from raft.pipeline import read as reading
from raft.settings import Settings
from raft.store import tables
from raft.store.run import Run


class Words:
    """Counts words and marks, and how often it was asked."""

    identity = "words"
    asked = 0

    def count(self, texts):
        """Count each text."""
        self.asked += len(texts)
        return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]

    def count_chat(self, messages):
        """Count all that is said."""
        return sum(self.count([message["content"] for message in messages]))


@pytest.fixture
def folder(tmp_path):
    """A folder of documents: `write(name, content)` adds one."""
    root = tmp_path / "docs"
    root.mkdir()

    def write(name, content="Some text."):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    write.root = root
    return write


def read_all(*corpus, **settings):
    """Read a corpus into one frame."""
    sources, _ = find_sources([str(entry) for entry in corpus])
    return pl.concat(read_documents(sources, text_field="text", **settings))


def chunk_all(documents, tokenizer=None, **settings):
    """Cut documents into one frame of chunks."""
    sizes = {"tokens": 40, "overlap": 0, "max_tokens": 60} | settings
    frames = list(chunk_documents([documents], tokenizer or Words(), **sizes))
    return pl.concat(frames) if frames else tables.frame(tables.CHUNKS, [])


def names(*corpus):
    """Return the names of the files found."""
    return [source.name for source in find_sources([str(entry) for entry in corpus])[0]]


def test_a_folder_is_searched_through_and_sorted_by_name(folder):
    """Names are relative to the folder, with slashes."""
    for name in ("b.md", "a/z.txt", "a/b/c.json", "A.md"):
        folder(name)
    assert names(folder.root) == ["A.md", "a/b/c.json", "a/z.txt", "b.md"]


def test_a_glob_is_relative_to_its_fixed_beginning(folder):
    """`docs/**/*.md` names files below docs."""
    folder("a/b.md")
    folder("a/b.txt")
    assert names(f"{folder.root}/**/*.md") == ["a/b.md"]


def test_a_glob_that_matches_folders_takes_what_is_in_them(folder):
    """`docs/*` of folders is all files in these folders."""
    folder("a/b.md")
    assert names(f"{folder.root}/*") == ["a/b.md"]


def test_a_name_with_magic_characters_that_exists_is_that_file(folder):
    """`a[1].md` is a file, not a pattern, when there is one."""
    assert names(folder("a[1].md")) == ["a[1].md"]


def test_with_several_entries_every_name_begins_with_its_folder(folder):
    """Two entries cannot collide, and the names do not depend on whether they would."""
    one, other = folder("x/a.md"), folder("y/a.md", "Other.")
    assert names(one.parent, other.parent) == names(one, other) == ["x/a.md", "y/a.md"]


def test_folders_of_one_name_are_told_apart_by_their_parents(folder):
    """As much of the path is used as is needed."""
    one, other = folder("x/docs/a.md"), folder("y/docs/a.md", "Other.")
    assert names(one.parent, other.parent) == ["x/docs/a.md", "y/docs/a.md"]


def test_a_file_found_twice_is_read_once(folder):
    """Overlapping entries do not double a document."""
    path = folder("a.md")
    sources, skipped = find_sources([str(folder.root), str(path)])
    assert [source.name for source in sources] == ["docs/a.md"]
    assert "in the corpus already" in skipped[0][1]


def test_what_is_left_out_is_told_with_its_reason(folder):
    """Pictures and hidden files are no documents, and no secret."""
    for name in ("a.md", "b.png", ".git/config.md", ".hidden.md", "~$lock.docx", "README"):
        folder(name)
    sources, skipped = find_sources([str(folder.root)])
    assert [source.name for source in sources] == ["a.md"]
    assert dict(skipped) == {
        "b.png": "there is no reader for .png",
        "README": "there is no reader for files without a suffix",
        ".git": "it is hidden",
        ".hidden.md": "it is hidden",
        "~$lock.docx": "it is hidden",
    }


def test_links_out_of_the_corpus_are_not_followed(folder, tmp_path):
    """Neither a file nor a folder elsewhere is drawn in by a link, nor a folder that holds itself."""
    folder("a.md")
    (tmp_path / "secret.md").write_text("secret")
    (folder.root / "out.md").symlink_to(tmp_path / "secret.md")
    (folder.root / "loop").symlink_to(folder.root)
    for corpus in (folder.root, f"{folder.root}/**/*.md", f"{folder.root}/*"):
        sources, skipped = find_sources([str(corpus)])
        assert [source.name for source in sources] == ["a.md"]
        assert ("out.md", "it is a link that leads out of the corpus") in skipped


def test_a_missing_entry_is_named(tmp_path):
    """What was typed wrong is in the message, and what to type."""
    with pytest.raises(UsageError, match=r"(?s)no-such-folder.*next:"):
        find_sources([str(tmp_path / "no-such-folder")])


@pytest.mark.parametrize("files", [[], ["a.png"]])
def test_an_empty_corpus_is_an_error_that_says_what_was_tried(folder, files):
    """No documents is never success."""
    for name in files:
        folder(name)
    with pytest.raises(UsageError, match=r"(?s)no documents.*docs" + (r".*a\.png" if files else "")):
        find_sources([str(folder.root)])
    with pytest.raises(UsageError, match="no corpus is given"):
        find_sources([])


def test_names_are_the_same_however_a_file_system_writes_them(folder):
    """A name in decomposed Unicode has the id of the composed one; bytes that are no text do not break it."""
    folder("u\u0308.md")
    assert names(folder.root) == ["ü.md"]
    (folder.root / os.fsdecode(b"\xff.md")).write_text("Text.")
    documents = read_all(folder.root)
    assert documents["path"].to_list() == ["\\xff.md", "ü.md"]


def test_a_document_has_its_id_digest_and_text(folder):
    """Rows follow the schema; ids come of names, digests of bytes."""
    folder("a.md", "# Pump\n\nIt runs.")
    row = read_all(folder.root).row(0, named=True)
    assert row["doc_id"] == doc_id("a.md") and len(row["doc_id"]) == 16
    assert (row["path"], row["title"], row["format"], row["error"]) == ("a.md", "Pump", "md", None)
    assert row["characters"] == len(row["text"]) and len(row["sha256"]) == 64


def test_one_frame_a_file_with_one_row_a_record(folder):
    """Records of a file are documents of their own names."""
    folder("a.jsonl", '{"text": "One."}\nbroken\n{"text": "Two."}')
    frames = list(read_documents(find_sources([str(folder.root)])[0], text_field="text"))
    assert [frame.schema for frame in frames] == [tables.DOCUMENTS]
    assert frames[0]["path"].to_list() == ["a.jsonl#0", "a.jsonl#1", "a.jsonl#2"]
    assert frames[0]["error"].is_null().to_list() == [True, False, True]


def test_a_file_that_cannot_be_read_is_a_row_with_a_reason(folder):
    """One bad file does not stop the others, and is not forgotten."""
    folder("a.md")
    folder("b.md", b"\0\1\2")
    folder("c.pdf", b"%PDF-1.4 nonsense")
    folder("d.txt", "")
    documents = read_all(folder.root)
    assert documents["error"].is_null().to_list() == [True, False, False, False]
    assert chunk_all(documents)["doc_id"].unique().to_list() == [doc_id("a.md")]


def test_a_file_that_vanishes_is_a_row_with_a_reason(folder):
    """Between finding and reading anything may happen."""
    path = folder("a.md")
    sources, _ = find_sources([str(folder.root)])
    path.unlink()
    assert "cannot be opened" in next(read_documents(sources, text_field="text"))["error"][0]


def test_a_file_without_permission_says_so(folder, monkeypatch):
    """A file that may not be read says so (the refusal is simulated: an administrator may read everything)."""

    def refuse(self, *args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(Unreadable, match="Permission denied"):
        read(folder("a.md"), text_field="text")


def test_unchanged_files_are_not_read_again(folder):
    """What was read from the same bytes is handed back as it is; a changed file is read."""
    folder("a.md")
    before = read_all(folder.root)
    known = {(before["path"][0], before["sha256"][0]): before.with_columns(title=pl.lit("from before"))}
    again = read_all(folder.root, previous=lambda name, digest: known.get((name, digest)))
    assert again["title"][0] == "from before"
    folder("a.md", "Changed.")
    changed = read_all(folder.root, previous=lambda name, digest: known.get((name, digest)))
    assert changed["text"][0] == "Changed."


def test_chunks_point_back_into_their_document(folder):
    """Each chunk's text stands in its document at its offsets, and its id is its own."""
    folder("a.md", "# A\n\n" + "The pump runs. " * 80)
    folder("b.md", "Same line.\n\n" * 60)
    documents = read_all(folder.root)
    chunks = chunk_all(documents)
    texts = dict(documents.select("doc_id", "text").iter_rows())
    for row in chunks.iter_rows(named=True):
        assert texts[row["doc_id"]][row["start"] : row["end"]] == row["text"]
    assert chunks.schema == tables.CHUNKS and chunks["chunk_id"].n_unique() == len(chunks) > 10


def test_ids_do_not_change_when_another_part_of_the_document_does(folder):
    """An edit at the end keeps the ids of the chunks before it."""
    parts = [f"## Part {n}\n\n" + f"Number {n} is about pumps and hoses. " * 4 for n in range(5)]
    folder("a.md", "\n\n".join(parts))
    before = chunk_all(read_all(folder.root))
    folder("a.md", "\n\n".join([*parts[:4], "## Part 4\n\nQuite another text stands here now, and it is shorter."]))
    after = chunk_all(read_all(folder.root))
    assert before["chunk_id"][:4].to_list() == after["chunk_id"][:4].to_list()
    assert before["chunk_id"][4] != after["chunk_id"][4]


def test_a_chunk_knows_the_page_it_begins_on():
    """Pages count from 1; a document without pages has none."""
    row = {"doc_id": "d", "path": "a.pdf", "title": "T", "format": "pdf", "pages": [0, 200, 200, 400]}
    text = "\n\n".join(("Sentence of the page. " * 9).strip() + "." for _ in range(3))
    chunks = chunk_all(tables.frame(tables.DOCUMENTS, [row | {"text": text}]))
    assert chunks["page"].to_list() == [1, 3, 4]
    assert (
        chunk_all(tables.frame(tables.DOCUMENTS, [row | {"text": text, "pages": []}]))["page"].to_list() == [None] * 3
    )


def test_unchanged_documents_are_not_cut_again_but_flagged_afresh(folder):
    """Chunks of the same text come back without a count; whether they are boilerplate is asked again."""
    folder("a.md", "The notice of our company.")
    documents = read_all(folder.root)
    before = chunk_all(documents)
    digest = document_sha256(*documents.select("title", "format", "text").row(0))
    assert before["document_sha256"].to_list() == [digest]
    tokenizer = Words()
    again = chunk_all(
        documents,
        tokenizer,
        repeated=repeated_lines([documents] * 3),
        previous=lambda identity, key: before if (identity, key) == (doc_id("a.md"), digest) else None,
    )
    assert tokenizer.asked == 0
    assert again["boilerplate"].all() and not before["boilerplate"].any()


def documents_of(texts):
    """Return one frame of documents with these texts."""
    return tables.frame(tables.DOCUMENTS, [{"doc_id": str(n), "text": text} for n, text in enumerate(texts)])


def test_a_notice_on_many_documents_is_boilerplate():
    """Case and outer spaces do not matter; the rest of the document stays."""
    notice = "This page is confidential and belongs to the company."
    lines = repeated_lines([documents_of(f"Only document {n} says this.\n  {notice.upper()}" for n in range(8))])
    assert is_boilerplate(notice, lines) and not is_boilerplate(
        f"Only document 3 says this, and more.\n{notice}", set()
    )
    assert not is_boilerplate("Only document 3 says this.", lines)


def test_a_common_heading_does_not_make_its_section_boilerplate():
    """`## Overview` on every page says nothing about what stands below it."""
    lines = repeated_lines([documents_of(f"## Overview of all that there is\n\nIt is {n}." for n in range(8))])
    assert not is_boilerplate("## Overview of all that there is\n\nIt is 3.", lines)
    assert not is_boilerplate("## Overview of all that there is", lines)


@pytest.mark.parametrize(("number", "share", "found"), [(2, 2, False), (3, 3, True), (20, 4, False), (20, 5, True)])
def test_a_few_editions_of_one_manual_are_not_boilerplate(number, share, found):
    """A line must stand in a fifth of the documents and in five of them; in a tiny corpus in all."""
    texts = [f"Line of {n}." + ("\nA line of the manual." if n < share else "") for n in range(number)]
    assert bool(repeated_lines([documents_of(texts)])) is found


def test_counting_lines_keeps_to_its_memory(monkeypatch):
    """With room for a hundred lines only, the notice on every document is still found, and nothing else."""
    monkeypatch.setattr("raft.corpus.blocks._LINES_IN_MEMORY", 100)
    frames = (documents_of(["\n".join([f"line {n} {m}" for m in range(40)] + ["The notice."])]) for n in range(60))
    lines = repeated_lines(frames)
    assert len(lines) == 1 and is_boilerplate("the notice.", lines)


# in a run -------------------------------------------------------------------------------------------------------------


def read_into(run, root, **chunking):
    """Read a folder into a run; return the errors by path."""
    with run.writing():
        reading.read_documents(run, Settings(chunking=chunking), find_sources([str(root)])[0])
    return dict(reading.documents_listed(run).select("path", "error").iter_rows())


def test_a_file_is_read_once_its_package_is_there(folder, tmp_path, monkeypatch):
    """What lacked a package is read by the build after it was installed, and nothing else is read again."""
    folder("a.html", "<p>Words of the page.</p>")
    folder("b.txt")
    run = Run(tmp_path / "run")
    (tmp_path / "without").mkdir()
    (tmp_path / "without/markdownify.py").write_text("raise ImportError")  # for the process that reads
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "without")
        patch.setitem(sys.modules, "markdownify", None)
        assert "raft-pipeline[docs]" in read_into(run, folder.root)["a.html"]
    key = run.manifest["steps"]["documents"]["key"]
    opened, asked = [], ReadingProcess.read
    monkeypatch.setattr(
        ReadingProcess, "read", lambda self, path, **how: opened.append(path.name) or asked(self, path, **how)
    )
    for _ in range(2):
        assert read_into(run, folder.root) == {"a.html": None, "b.txt": None}
    assert opened == ["a.html"]
    assert run.manifest["steps"]["documents"]["key"] != key


def test_what_failed_is_read_again_with_every_change(folder, tmp_path):
    """A row with an error is never taken over; one without is."""
    folder("a.json", '[{"text": "one"}, {"text": 2}]')
    folder("b.txt")
    asked = []

    def previous(name, sha256):
        asked.append(name)
        failed = "it was so last time" if name == "a.json" else None
        return tables.frame(tables.DOCUMENTS, [{"path": name, "text": "as before", "error": failed}])

    texts = read_all(folder.root, previous=previous)["text"].to_list()
    assert asked == ["a.json", "b.txt"]
    assert texts[0] == "one"
    assert texts[-1] == "as before"


def test_documents_of_earlier_runs_keep_their_key(folder, tmp_path, monkeypatch):
    """A corpus that every raft reads alike is not read again by a newer one."""
    monkeypatch.setitem(readers._FORMATS, "txt", readers._FORMATS["txt"]._replace(version=None))
    folder("a.txt")
    run = Run(tmp_path / "run")
    read_into(run, folder.root)
    read_into(run, folder.root, templates="drop")
    assert (
        run.manifest["steps"]["documents"]["key"] == "f778d7884464579622e4d5af6eb0f808d645708b2ca93260c7020259bf0a2ba2"
    )


def test_what_is_left_out_of_a_file_is_noted_and_stays_so(folder, tmp_path):
    """Counts stand in the notes by file: of files that were read, and of those whose rows are used again."""
    folder("a.html", "<p hidden>gone</p><p>kept")
    folder("b.jsonl", '{"text": "x"}')
    run = Run(tmp_path / "run")
    read_into(run, folder.root)
    assert run.manifest["steps"]["documents"]["notes"]["left_out"] == {"a.html": {"hidden parts": 1}}
    folder("c.html", "<nav>gone</nav><nav>gone</nav><p>kept")
    read_into(run, folder.root)
    noted = {"a.html": {"hidden parts": 1}, "c.html": {"menus and banners": 2}}
    assert run.manifest["steps"]["documents"]["notes"]["left_out"] == noted
    (folder.root / "a.html").unlink()
    folder("c.html", "<p>kept")
    read_into(run, folder.root)
    assert run.manifest["steps"]["documents"]["notes"]["left_out"] == {}


def test_dropping_templates_reads_again(folder, tmp_path):
    """What is made of template syntax belongs to the key of the documents."""
    folder("a.md", "Hello {{ site.name }} there.")
    run = Run(tmp_path / "run")
    read_into(run, folder.root)
    assert run.read("documents.parquet")["text"].to_list() == ["Hello {{ site.name }} there."]
    read_into(run, folder.root, templates="drop")
    assert run.read("documents.parquet")["text"].to_list() == ["Hello  there."]


def test_two_spellings_of_one_name_are_two_documents(tmp_path):
    """A name with é and one with e and an accent are two files and two documents; alone, either has the name of old."""
    composed, apart = (unicodedata.normalize(form, "café.md") for form in ("NFC", "NFD"))
    for name in (composed, apart):
        (tmp_path / name).write_text(f"# {name}\n\nText.\n", encoding="utf-8")
    sources, _ = find_sources([str(tmp_path)])
    assert {source.name for source in sources} == {composed, apart}
    (tmp_path / composed).unlink()
    (alone,), _ = find_sources([str(tmp_path)])
    assert alone.name == composed


def test_two_names_that_look_alike_are_two_documents(tmp_path):
    """A name with a byte that is no text and one that spells it out are two documents; a line end in a name is seen."""
    for name in (b"\xff.md", rb"\xff.md", b"a\nb.md"):
        (tmp_path / os.fsdecode(name)).write_text("Text.")
    assert len(names(tmp_path)) == len(set(names(tmp_path))) == 3
    assert r"a\nb.md" in names(tmp_path)
