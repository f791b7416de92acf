"""Near-copies of documents are found among many, and look-alikes with other facts are not taken for them."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DOCUMENTS
from raft.corpus import documents as corpus
from raft.similarity import near, near_copies

EXAMPLES = Path(__file__).parents[1] / "examples"
WORDS = [f"{one}{two}{three}" for one in "bcdfgh" for two in "aeiou" for three in ("lan", "mor", "nit", "sek", "tuv")]


def read(*folders):
    """Return path and text of all documents in these folders."""
    sources, _ = corpus.find_sources([str(folder) for folder in folders])
    frames = corpus.read_documents(sources, text_field="text", previous=None)
    return {row["path"]: row["text"] for frame in frames for row in frame.iter_rows(named=True)}


def test_look_alikes_are_no_copies():
    """Documents of one form with other facts, as in the example and among refunds, stay apart."""
    assert near_copies(read(EXAMPLES / "handbook").items()) == []
    assert near_copies(DOCUMENTS.items()) == []


def test_one_text_in_two_formats_is_found():
    """A manual as PDF or DOCX is a copy of the Markdown that it was made from."""
    groups = near_copies(read(EXAMPLES).items())
    stems = [{Path(name).stem for name in group} for group in groups]
    assert stems == [{"leave"}, {"onboarding"}, {"quillon-2-manual"}, {"quillon-3-manual"}]
    assert {len(group) for group in groups} == {2}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_changed_copy_is_found(name):
    """Another heading, other line breaks, a sentence more or a tenth less: it is the same document."""
    text = DOCUMENTS[name]
    words = text.split()
    changed = {
        "wrapped": "COPY OF THE WEBSITE\n\n" + " ".join(words).replace(".", ".\n") + "\nLast printed by the office.",
        "shortened": " ".join(words[: len(words) * 9 // 10]),
    }
    others = {other: text for other, text in DOCUMENTS.items() if other != name}
    assert near_copies({**others, **changed, name: text}.items()) == [sorted([name, *changed])]


def test_a_form_that_is_filled_in_otherwise_is_no_copy():
    """Pages with much wording in common and other figures and names are documents of their own."""
    form = " ".join(random.Random(1).choices(WORDS, k=200))
    pages = {
        town: f"{form} the branch in {town} opens at {hour}:15 and employs {hour * 7} people."
        for hour, town in enumerate(["Halden", "Orlin", "Varga", "Berg"], 6)
    }
    assert near_copies(pages.items()) == []
    copied = pages["Orlin"] + " see also the map"
    assert near_copies({**pages, "map": copied}.items()) == [["Orlin", "map"]]


def test_what_quotes_a_document_is_no_copy():
    """A short text that stands in many long ones, such as a notice, does not make them one."""
    chance = random.Random(2)
    notice = " ".join(chance.choices(WORDS, k=40))
    long = {f"d{n}": " ".join(chance.choices(WORDS, k=300)) + " " + notice for n in range(5)}
    assert near_copies({**long, "notice": notice}.items()) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_documents_changes_nothing(numbers, chance):
    """Whatever order documents come in, equal texts are in one group, and only those."""
    texts = [" ".join(random.Random(number).choices(WORDS, k=30 + number)) for number in range(8)]
    documents = [(f"d{place:02}", texts[number]) for place, number in enumerate(numbers)]
    expected = [[name for name, text in documents if text == one] for one in texts]
    found = near_copies(chance.sample(documents, len(documents)))
    assert found == sorted(group for group in expected if len(group) > 1)


def test_texts_without_words_are_passed_over():
    """Empty texts, and texts of signs alone, are copies of nothing; very short ones of their equals."""
    assert near_copies([("a", ""), ("b", "--- !"), ("c", "Yes."), ("d", "yes"), ("e", "No")]) == [["c", "d"]]
    assert near_copies([]) == []


def test_many_documents_are_not_compared_pair_by_pair(monkeypatch):
    """Of three thousand pages of one form, a few comparisons a page find the copies."""
    chance, compared = random.Random(3), []
    form = chance.choices(WORDS, k=120)
    pages = {}
    for number in range(3000):
        words = list(form)
        words[10::20] = [str(chance.randrange(10**6)) for _ in words[10::20]]
        pages[f"p{number:04}"] = " ".join(words)
    copies = {f"q{number:04}": f"printed {pages[f'p{number:04}']}" for number in range(0, 3000, 300)}
    from raft import similarity as module

    share = module._share
    monkeypatch.setattr(module, "_share", lambda few, many: compared.append(1) or share(few, many))
    found = near_copies({**pages, **copies}.items())
    assert found == [[f"p{name[1:]}", name] for name in copies]
    assert len(compared) < 100 * len(pages)


def test_look_alike_documents_keep_their_questions_apart():
    """Digits behind a letter tell documents apart, however alike the questions are."""
    asked = "According to {}, within how many kilometres are travel costs covered?"
    assert not near(asked.format("warranty-2023"), asked.format("warranty-2025"))
    assert not near(asked.format("form_b2"), asked.format("form_b3"))
