"""The ledger: what was paid for is kept, whole, under a key that says what was asked."""

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raft.errors import RaftError
from raft.protocols import Request
from raft.store.ledger import CachedEmbedder, Entry, Ledger, request_key
from raft.testing import HashEmbedder

MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=8)}),
    min_size=1,
    max_size=3,
).map(tuple)
PARTS = {
    "messages": MESSAGES,
    "max_tokens": st.integers(1, 500),
    "temperature": st.floats(0, 2, allow_nan=False),
    "sample": st.integers(0, 9),
    "schema": st.none() | st.dictionaries(st.text(max_size=4), st.booleans(), max_size=2),
}
REQUESTS = st.builds(Request, **PARTS)


def entry(key, **changes):
    """Return an entry of the ledger; what is not given is invented from the key."""
    whole = Entry(
        key=key,
        model="openai/test",
        attempt=0,
        request='{"messages": []}',
        reply=f"reply to {key} ❄\n",
        finish_reason="stop",
        input_tokens=10,
        output_tokens=3,
        cost=0.25,
        seconds=0.5,
    )
    return replace(whole, **changes)


@pytest.fixture
def ledger(tmp_path):
    """Return an open ledger."""
    with closing(Ledger(tmp_path / "ledger.sqlite")) as made:
        yield made


def test_entries_come_back_as_they_were_stored(tmp_path, ledger):
    """Every field of a reply is kept, also by another process later; unknown keys bring nothing."""
    entries = {key: entry(key, cost=cost) for key, cost in (("a", 0.25), ("b", None), ("c", 0.0))}
    ledger.add(entries.values())
    assert ledger.find(["a", "b", "c", "d"]) == entries
    ledger.close()
    with closing(Ledger(tmp_path / "ledger.sqlite")) as again:
        assert again.find(["c", "a"]) == {key: entries[key] for key in "ac"}


def test_any_number_of_keys_can_be_looked_up(ledger):
    """More keys than fit into one query are found all the same, and none at all is no query."""
    entries = [entry(f"k{i}") for i in range(1203)]
    ledger.add(entries)
    assert len(ledger.find([one.key for one in entries])) == 1203
    assert ledger.find([]) == {}


def test_the_first_reply_stays(ledger):
    """A reply that is there already is not replaced: what was built from it can be built again."""
    ledger.add([entry("a")])
    ledger.add([entry("a", reply="another"), entry("b")])
    assert ledger.find(["a"])["a"].reply == entry("a").reply
    assert ledger.find(["b"])


def test_adding_is_all_or_nothing(ledger):
    """Where one entry cannot be stored, none of its batch is, and the next batch can be."""
    with pytest.raises(RaftError):
        ledger.add([entry("a"), entry("b", reply=object()), entry("c")])
    assert ledger.find(["a", "b", "c"]) == {}
    ledger.add([entry("a")])
    assert set(ledger.find(["a"])) == {"a"}


def test_an_entry_without_a_reply_is_no_entry(ledger):
    """Leaving known entries as they are does not mean that a broken one is passed over in silence."""
    with pytest.raises(RaftError):
        ledger.add([entry("a"), entry("b", reply=None)])


@given(request=REQUESTS, identity=st.text(max_size=6), attempt=st.integers(0, 4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_key_changes_with_everything_that_can_change_the_reply(request, identity, attempt, data):
    """Another message, limit, temperature, schema, sample, model or attempt is another key."""
    key = request_key(request, identity, attempt)
    part = data.draw(st.sampled_from(sorted(PARTS)))
    value = data.draw(PARTS[part])
    assume(value != getattr(request, part))
    assert request_key(replace(request, **{part: value}), identity, attempt) != key
    assert request_key(request, identity + "x", attempt) != key
    assert request_key(request, identity, attempt + 1) != key


@given(request=REQUESTS)
@settings(max_examples=20, deadline=None)
def test_a_key_does_not_change_with_the_check(request):
    """What a reply is used for is no part of what was asked, nor is the order of a schema's words."""
    key = request_key(request, "m", 0)
    assert request_key(replace(request, check=len), "m", 0) == key
    schema = {"a": 1, "b": {"c": 2, "d": 3}}
    turned = {"b": {"d": 3, "c": 2}, "a": 1}
    first, second = (request_key(replace(request, schema=one), "m", 0) for one in (schema, turned))
    assert first == second


@pytest.fixture(scope="module")
def wal(tmp_path_factory):
    """Return the files of a ledger that was never closed, and its batches in the order of their commits."""
    path = tmp_path_factory.mktemp("wal") / "ledger.sqlite"
    batches = [[f"{batch}-{i}" for i in range(batch % 3 + 1)] for batch in range(12)]
    ledger = Ledger(path)
    for batch in batches:
        ledger.add([entry(key, reply=f"{key} " * 200) for key in batch])
    files = {end: path.with_name(path.name + end).read_bytes() for end in ("", "-wal")}
    yield files, batches
    ledger.close()


@given(share=st.floats(0, 1), junk=st.binary(max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_torn_write_leaves_whole_batches_from_the_beginning(wal, share, junk):
    """Cut off at any byte, the ledger holds the batches up to some commit, each entry whole, and none of the rest."""
    files, batches = wal
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        path.write_bytes(files[""])
        kept = files["-wal"][: round(share * len(files["-wal"]))]
        path.with_name("ledger.sqlite-wal").write_bytes(kept + junk)
        with closing(Ledger(path)) as ledger:
            found = ledger.find([key for batch in batches for key in batch])
            assert any(
                set(found) == {key for batch in batches[:end] for key in batch} for end in range(len(batches) + 1)
            )
            assert all(one == entry(key, reply=f"{key} " * 200) for key, one in found.items())
            ledger.add([entry("new")])
            assert ledger.find(["new"])


def test_an_open_ledger_can_be_copied_with_its_log(wal, tmp_path):
    """Nothing that was added waits for the file to be closed."""
    files, batches = wal
    for end, data in files.items():
        (tmp_path / f"ledger.sqlite{end}").write_bytes(data)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        assert len(ledger.find([key for batch in batches for key in batch])) == sum(map(len, batches))


def test_a_file_that_is_no_ledger_is_an_error_with_a_next_step(tmp_path):
    """Garbage in the ledger's place is named, with the command that moves it aside; it is not overwritten."""
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is no database, " * 100)
    with pytest.raises(RaftError, match="cannot be used") as caught:
        Ledger(path)
    assert f"mv {path}" in caught.value.hint
    assert path.read_bytes() == b"this is no database, " * 100


def test_a_damaged_page_is_an_error_with_a_next_step(tmp_path):
    """Damage inside the file shows as a RaftError when the entry is wanted, not as a wrong reply."""
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.add([entry(f"k{i}", reply="x" * 500) for i in range(200)])
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    with pytest.raises(RaftError) as caught, closing(Ledger(path)) as ledger:
        ledger.find([f"k{i}" for i in range(200)])
    assert caught.value.hint


def test_a_ledger_of_another_format_is_an_error_with_a_next_step(tmp_path):
    """A ledger that a newer raft wrote is left alone."""
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)), closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version=2")
    with pytest.raises(RaftError, match="format 2") as caught:
        Ledger(path)
    assert "upgrade" in caught.value.hint


def test_a_ledger_below_a_file_is_an_error(tmp_path):
    """A ledger that cannot be made is a RaftError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RaftError, match="cannot be used"):
        Ledger(tmp_path / "file" / "ledger.sqlite")


WRITER = """
import sys
from pathlib import Path
from raft.store.ledger import Entry, Ledger
ledger = Ledger(Path(sys.argv[1]))
for i in range(60):
    keys = [f"{sys.argv[2]}-{i}", f"common-{i}"]
    ledger.add([Entry(key, "m", 0, "{}", f"reply to {key}", "stop", 1, 1, 0.0, 0.0) for key in keys])
ledger.close()
"""


def test_two_processes_share_one_ledger(tmp_path):
    """Two processes that write at once lose nothing, and each finds what the other wrote."""
    path = tmp_path / "shared" / "ledger.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("one", "two")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    with closing(Ledger(path)) as ledger:
        keys = [f"{name}-{i}" for name in ("one", "two", "common") for i in range(60)]
        assert {key: one.reply for key, one in ledger.find(keys).items()} == {key: f"reply to {key}" for key in keys}


def test_spending_is_summed_by_model(ledger):
    """Calls, tokens and dollars are totals over the ledger's life; replies without a price are counted apart."""
    ledger.add([entry("a"), entry("b", cost=None), entry("c", cost=1.0, input_tokens=5)])
    ledger.add([entry("d", model="local", cost=0.0), entry("a", cost=100.0)])
    local, hosted = ledger.spent()
    assert local == {
        "model": "local",
        "calls": 1,
        "input_tokens": 10,
        "output_tokens": 3,
        "cost": 0.0,
        "calls_without_price": 0,
        "seconds": 0.5,
    }
    assert (hosted["model"], hosted["calls"], hosted["input_tokens"], hosted["cost"]) == ("openai/test", 3, 25, 1.25)
    assert hosted["calls_without_price"] == 1


def test_an_unused_ledger_has_spent_nothing(ledger):
    """Nothing asked, nothing spent."""
    assert ledger.spent() == []


class CountingEmbedder(HashEmbedder):
    """An embedder that remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def embed(self, texts):
        """Embed, and take note."""
        self.batches.append(list(texts))
        return super().embed(texts)


def test_each_text_is_embedded_once(tmp_path, ledger):
    """Vectors are those of the embedder, in order; a text seen before, in this call or another, is not embedded."""
    embedder, plain = CountingEmbedder(), HashEmbedder()
    cached = CachedEmbedder(embedder, ledger)
    assert (cached.identity, cached.max_tokens, cached.tokenizer) == (plain.identity, 256, embedder.tokenizer)
    first = ["a heater", "a pump", "a heater", ""]
    assert np.array_equal(cached.embed(first), plain.embed(first))
    assert embedder.batches == [["a heater", "a pump", ""]]
    second = ["a fan", "a pump"]
    vectors = CachedEmbedder(embedder, ledger).embed(second)
    assert np.array_equal(vectors, plain.embed(second))
    assert vectors.dtype == np.float32
    assert embedder.batches[1:] == [["a fan"]]


def test_windows_of_texts_are_stored_as_they_are_done(ledger, monkeypatch):
    """An embedder that dies in its third window has not embedded the first two in vain."""
    monkeypatch.setattr(CachedEmbedder, "WINDOW", 2)
    embedder = CountingEmbedder()
    texts = [f"text {i}" for i in range(6)]
    healthy = embedder.embed

    def dying(part):
        if len(embedder.batches) == 2:
            raise KeyboardInterrupt
        return healthy(part)

    embedder.embed = dying
    with pytest.raises(KeyboardInterrupt):
        CachedEmbedder(embedder, ledger).embed(texts)
    embedder.embed = healthy
    assert np.array_equal(CachedEmbedder(embedder, ledger).embed(texts), HashEmbedder().embed(texts))
    assert embedder.batches == [texts[:2], texts[2:4], texts[4:]]


def test_vectors_of_another_embedder_are_not_mixed_in(ledger):
    """The same text under another embedder is another vector."""
    one, two = CountingEmbedder(), CountingEmbedder()
    two.identity = "another"
    CachedEmbedder(one, ledger).embed(["text"])
    CachedEmbedder(two, ledger).embed(["text"])
    assert two.batches == [["text"]]


def test_no_texts_give_no_vectors(ledger):
    """Embedding nothing asks nothing."""
    embedder = CountingEmbedder()
    assert len(CachedEmbedder(embedder, ledger).embed([])) == 0
    assert embedder.batches == []


def test_a_reply_with_half_a_character_is_stored(ledger):
    """A reply whose last emoji was cut in two by the token limit is kept like any other."""
    ledger.add([entry("a", reply="good \ud83d")])
    assert ledger.find(["a"])["a"].reply.startswith("good")


def test_a_ledger_can_be_copied_to_another_machine(tmp_path, ledger):
    """A closed ledger is one file."""
    ledger.add([entry("a")])
    ledger.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"]
    with closing(Ledger(Path(shutil.copy(tmp_path / "ledger.sqlite", tmp_path / "copy.sqlite")))) as copy:
        assert copy.find(["a"]) == {"a": entry("a")}


def test_statements_are_carried_out_together_or_not_at_all(ledger):
    """Modules of the ground floor keep tables of their own, in transactions of several statements."""
    ledger.write_all([("CREATE TABLE notes (name TEXT PRIMARY KEY)", [()])])
    assert ledger.write_all([("INSERT INTO notes VALUES (?)", [("a",), ("b",)])]) == 2
    with pytest.raises(RaftError):
        ledger.write_all([("INSERT INTO notes VALUES (?)", [("c",)]), ("INSERT INTO notes VALUES (?)", [("a",)])])
    assert ledger.read("SELECT name FROM notes ORDER BY name") == [("a",), ("b",)]
    ledger.write("DELETE FROM notes WHERE name = ?", [("a",)])
    assert ledger.read("SELECT name FROM notes WHERE name > ?", ("",)) == [("b",)]


def test_spending_is_told_by_step_and_model(ledger):
    """Each step and model of a run has a row, in the order in which they first asked; other runs are not in it."""
    row = (
        "INSERT INTO calls (run, purpose, model, key, worst, cost, input_tokens, state, created)"
        " VALUES (?,?,?,'k',?,?,?,?,0)"
    )
    calls = [
        ("one", "questions", "m", 0.5, 0.2, 100, "paid"),
        ("one", "questions", "m", 0.5, 0.3, 50, "paid"),
        ("one", "questions", "m", 0.5, None, 0, "lost"),
        ("one", "cleaned", "m", 0.25, None, 0, "open"),
        ("one", "cleaned", "m", 0.25, None, 0, "batch"),
        ("one", "cleaned", "n", None, None, 7, "paid"),
        ("two", "questions", "m", 9.0, 9.0, 9, "paid"),
    ]
    ledger.write(row, calls)
    questions, cleaned, unpriced = ledger.spending("one")
    assert (questions["purpose"], questions["calls"], questions["input_tokens"]) == ("questions", 2, 150)
    assert (questions["cost"], questions["lost"], questions["lost_cost"]) == (0.5, 1, 0.5)
    assert (cleaned["calls"], cleaned["open"], cleaned["open_cost"], cleaned["cost"]) == (0, 1, 0.25, 0.0)
    assert (cleaned["batch"], cleaned["batch_cost"]) == (1, 0.25)
    assert (unpriced["model"], unpriced["calls"], unpriced["calls_without_price"]) == ("n", 1, 1)
    assert questions["calls_without_price"] == 0


def test_a_ledger_of_an_older_raft_is_used_on(tmp_path):
    """A ledger without calls gets a place for them; what it holds is kept."""
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.add([entry("a")])
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE calls")
    with closing(Ledger(path)) as ledger:
        assert ledger.find(["a"]) == {"a": entry("a")}
        assert ledger.spending("one") == []


def test_which_texts_have_vectors_is_told_without_the_model(ledger):
    """An embedder with a ledger knows which texts it need not ask for."""
    cached = CachedEmbedder(HashEmbedder(), ledger)
    cached.embed(["one", "two"])
    assert cached.known(["two", "three", "one"]) == [True, False, True]


def test_what_was_paid_for_survives_the_loss_of_power(ledger):
    """Each transaction waits until the disk has it: SQLite's level of synchronisation is FULL."""
    assert ledger.read("PRAGMA synchronous") == [(2,)]
    assert ledger.read("PRAGMA journal_mode") == [("wal",)]


class BeginningEmbedder(HashEmbedder):
    """An embedder that begins some lots ahead, and remembers each of them."""

    ahead = 3

    def __init__(self):
        super().__init__()
        self.lots = []

    def begin(self, texts):
        """Begin a lot of texts."""
        self.lots.append(list(texts))
        return lambda: self.embed(texts)


def test_lots_that_are_begun_ahead_are_those_of_one_after_the_other(tmp_path):
    """Each text is embedded once, in the same company, whether lots are begun ahead of each other or not."""
    lots = [["a pump", "a valve"], ["a valve", "a hose"], ["a pump", "a valve"], ["a belt", "a hose"]]
    asked, vectors = [], []
    for name, ahead in (("ahead", True), ("after", False)):
        embedder = BeginningEmbedder()
        with closing(Ledger(tmp_path / f"{name}.sqlite")) as ledger:
            cached = CachedEmbedder(embedder, ledger)
            begun = [cached.begin(lot) for lot in lots] if ahead else (cached.begin(lot) for lot in lots)
            vectors.append(np.stack([wait() for wait in begun]))
        asked.append(embedder.lots)
    assert asked[0] == asked[1] == [["a pump", "a valve"], ["a hose"], ["a belt"]]
    assert np.array_equal(*vectors)
