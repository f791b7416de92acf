"""Builds of spreadsheets, from the file to the question."""

import openpyxl
import pytest

import raft
from raft.pipeline.read import records_told
from raft.text.records import VERSION

TOOLS = [
    ("Tool", "Order code", "Price", "Weight"),
    ("Rake Orlo", "MX-410", "19.90 €", "1.1 kg"),
    ("Saw Teal", "MX-305", "24.00 €", "0.6 kg"),
    ("Spade Brack", "MX-118", "41.00 €", "2.3 kg"),
    ("Shears Marlow", "MX-201", "32.50 €", "1.4 kg"),
]
TERMS = [("Warranty", "24 months"), ("Return within", "30 days"), ("Least order", "50 €")]


@pytest.fixture
def price_lists(tmp_path):
    """A folder with a price list in CSV, and one of two sheets in XLSX."""
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "tools.csv").write_text("\n".join(";".join(row) for row in TOOLS), encoding="utf-8")
    book = openpyxl.Workbook()
    for row in TOOLS:
        book.active.append([f"Old {row[0]}" if row[0] != "Tool" else "Tool", *row[2:]])
    terms = book.create_sheet("Terms")
    for row in TERMS:
        terms.append(row)
    book.save(folder / "old.xlsx")
    return folder


@pytest.mark.parametrize("way", ["answer_first", "spans"])
def test_a_price_list_is_asked_about_row_by_row(price_lists, tmp_path, fake_models, way):
    """Questions about a sheet name the row and the column, their answer is the cell, and their quote is its row."""
    fake_models.reply = lambda request: "?" if request.messages[-1]["role"] == "assistant" else "no"
    settings = {"questions.way": way, "questions.per_chunk": 30, "split.unseen": 0.0}
    built = raft.build(price_lists, out=tmp_path / "run", pipeline="embedded", settings=settings)
    asked = {row["question"]: (row["answer"], row["quotes"][0]["text"]) for row in built.questions.to_dicts()}
    rake = "Tool: Rake Orlo; Order code: MX-410; Price: 19.90 €; Weight: 1.1 kg"
    alike = "According to tools, what is" if way == "answer_first" else "What is"  # both files say it otherwise
    assert asked[f"{alike} the price for Rake Orlo?"] == ("19.90 €", rake)
    assert asked["What is the order code for Rake Orlo?"] == ("MX-410", rake)
    assert asked["What is the weight for Old Saw Teal?"][1] == "Tool: Old Saw Teal; Price: 24.00 €; Weight: 0.6 kg"
    assert asked["What is the warranty according to old?"] == ("24 months", "Warranty: 24 months")
    assert max(len(quote.split("\n")) for _, quote in asked.values()) == 1


def test_runs_without_records_keep_their_keys(price_lists, tmp_path, fake_models):
    """Rows are part of the key of what is asked in runs that hold some alone, and a second build asks nothing anew."""
    settings = {"questions.way": "spans", "split.unseen": 0.0}
    (tmp_path / "prose").mkdir()
    (tmp_path / "prose" / "a.md").write_text("The rake of the house Orlo weighs 1.1 kg and is made of ash.\n" * 3)
    fake_models.reply = lambda request: "?" if request.messages[-1]["role"] == "assistant" else "no"
    built = raft.build(price_lists, out=tmp_path / "run", settings=settings)
    assert records_told(built._run) == {"records": VERSION}
    fake_models.forget()
    raft.build(price_lists, out=tmp_path / "run", settings=settings)
    assert fake_models.asked == []
    fake_models.reply = lambda request: " 1.1 kg\nQuestion: What does the rake of the house Orlo weigh?"
    assert records_told(raft.build(tmp_path / "prose", out=tmp_path / "other", settings=settings)._run) == {}
