"""Personal data and secrets: what the rules find, what they leave, and what becomes of it in a run."""

import re
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Fakes
from raft import api
from raft.cli.messages import privacy_lines
from raft.corpus import pii
from raft.errors import RaftError
from raft.pipeline.read import redacted
from raft.store import tables
from raft.store.run import Run

KEY = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEAx7Yq3\n" * 6 + "-----END RSA PRIVATE KEY-----"

FOUND = [
    ("email", "jane.doe@gsa.gov"),
    ("email", "Jürgen.Groß+x@büro.example.de"),
    ("email", "o'neil_1@mail-2.co.uk"),
    ("email", r"daily\_check\_in@gsa.gov"),
    ("email", "team%40group.calendar.google.com"),
    ("phone", "(415) 844-9759"),
    ("phone", "(415)844-9759"),
    ("phone", "877-472-6716"),
    ("phone", "1-800-222-0364"),
    ("phone", "415.844.9759"),
    ("phone", "+1 415 844 9759"),
    ("phone", "+14158449759"),
    ("phone", "+49 30 1234567"),
    ("phone", "+49 (0)30 1234567"),
    ("phone", "+33 1 42 68 53 00"),
    ("phone", "0049 30 123 4567"),
    ("phone", "01 42 68 53 00"),
    ("phone", "020 7946 0958"),
    ("phone", "(020) 7946 0958"),
    ("phone", "030/1234567"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432"),
    ("iban", "NO93 8601 1117 947"),
    ("card", "4111 1111 1111 1111"),
    ("card", "5555-5555-5555-4444"),
    ("card", "378282246310005"),
    ("card", "3782 822463 10005"),
    ("ssn", "123-45-6789"),
    ("ip", "52.14.201.7"),
    ("ip", "2a00:1450:4001:81b::200e"),
    ("secret", "sk-proj-Ab3dEf6hIj9kLm2nOp5qRs8tUv1w"),
    ("secret", "sk-ant-api03-Ab3dEf6hIj9kLm2nOp5qRs8tUv1w"),
    ("secret", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", "ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6"),
    ("secret", "xoxb-123456789012-abcDEFghiJKL"),
    ("secret", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"),
    ("secret", KEY),
    ("secret", KEY.replace("\n", "\\n")),
]

BEHIND_A_NAME = [
    ("phone", "Tel.: ", "12345-678"),
    ("phone", "Phone | ", "0171 2345678"),
    ("phone", "Fax (", "0 30) 12 34 56"),
    ("phone", "mobile ", "0171-2345678"),
    ("ssn", "SSN: ", "123456789"),
    ("ssn", "Social Security number ", "123 45 6789"),
    ("secret", "password=", "hunter22"),
    ("secret", "DB_PASSWORD: ", "tr0ub4dor&3"[:9]),
    ("secret", '"api_key": "', "9f8e7d6c5b4a"),
    ("secret", "https://host/page?a=b:c&access_token=", "a1b2c3d4e5"),
    ("secret", "Authorization: Bearer ", "mF_9.B5f-4.1JqM0aaaa"),
    ("secret", "postgres://raft:", "s3cr3t!x"),
]

LEFT = """
Order 4111111111111112 of 2024-05-01 (01.05.2024, 5/1/2024 14:30:00) came to $1,250.00 or 1.250,00 EUR.
Order numbers: 123-4567-890123, 800123456789, 2013137748, 900-12-3456, RH-77-2024-0815, 0815-4711, 0123-456789.
Ticket 115003498363, parcel 00340434161094021501, IMEI 356938035643809, time 1700000000, 1700000000000000000.
ISBN 978-3-16-148410-0, 9780306406157, 0-306-40615-2. DOI 10.1000/182. RFC 2822. EAN 4006381333931.
Parts 0721-3938, 02876-01017, 08232 379325, 111-222-3333, 0426 949 019, offsets +36.1694 3.0931, +98 000 802.
Version 10.20.30.40, v52.14.201.7, section 2.4.1.3, hosts 192.168.0.1, 127.0.0.1, 10.0.0.5, 203.0.113.7, fe80::1.
From 2019-2020 to 2021-2022, pages 100-200, 08:15-16:30, 250 300 4000 pieces, +20.5 30.2 44.1 percent, +20 000 000.
UUID 123e4567-e89b-12d3-a456-426614174000, sha 5d41402abc4b2a76b9719d911017c592, colour #415555, +1000000000.
linter==1.7.12.24.
react@18.2.0, name@1.2.3-beta.rc, logo@2x.png, git@github.com:org/repo.git, @handle, a @b.c, std::face::bad.
Password: required, at least 12 characters. password=<your password>, token: str.
token=request.token2(), max_tokens=2048.
secret: ${SECRET_1234}, password=********, API_KEY=xxxxxxxxxxxx, sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxx.
tokens: 123456 in 12 s.
-----BEGIN RSA PRIVATE KEY----- is its first line, and behind its last one stands -----END RSA PRIVATE KEY-----.
DE89 3704 0044 0532 0130 01 has a wrong check digit, AB12 CDEF GHIJ KLMN is no country's, Phone 12 costs 1,199.00.
Call between 08.00 - 16.30. Phone 2024-05-01. Mobile 3000000 users. postgres://user:password@localhost/db. 000-12-3456
| 2012 | 2013 | 2014 | 2015 | 415 555 2671 | 1.23 4.56 7.89 | 01 02 03 04 05 06 07 08 09 10 11 12 | 12 345 678 901 |
"""

SOUP = st.lists(
    st.one_of(
        st.sampled_from([text for _, text in FOUND] + [a + b for _, a, b in BEHIND_A_NAME]),
        st.sampled_from(["password=", "@", "://", "+1", "[EMAIL]", " ", "\n", "Tel. ", "a", "-", ".", "0", "=", "("]),
        st.text("ab1 2.@-+(=", max_size=12),
    ),
    max_size=12,
).map("".join)


def kinds(text):
    """Return what is found, as (kind, the text found)."""
    return [(found.kind, text[found.start : found.end]) for found in pii.scan(text)]


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_what_tells_of_a_person_or_opens_a_door_is_found(kind, text):
    """Each is found whole, between words, in quotes, in brackets, in a table and at the end of a sentence."""
    for frame in ("{}", "see {} there", "({})", '"{}"', "| {} |", "so it is {}.", "{}, or", "line\n{}\nline"):
        assert kinds(frame.format(text)) == [(kind, text)], frame


@pytest.mark.parametrize(("kind", "name", "value"), BEHIND_A_NAME)
def test_what_a_name_announces_is_found(kind, name, value):
    """A number or secret without a form of its own is found behind the word that says what it is."""
    found = kinds(f"{name}{value}@db.example.com/x" if name.startswith("postgres") else f"{name}{value} or so")
    assert len(found) == 1
    assert found[0][0] == kind
    assert found[0][1].lstrip("(").startswith(value) or value in found[0][1]


def test_what_stands_beside_a_number_is_no_part_of_it():
    """Emphasis, words in capitals and a second number end it."""
    assert kinds("Call _(877) 472-6716_ now") == [("phone", "(877) 472-6716")]
    assert kinds("IBAN GB82 WEST 1234 5698 7654 32 AND SO ON") == [("iban", "GB82 WEST 1234 5698 7654 32")]
    assert kinds("030/1234567 +49 89 12 34 56 78") == [("phone", "030/1234567"), ("phone", "+49 89 12 34 56 78")]


@pytest.mark.parametrize("line", LEFT.strip().splitlines())
def test_what_only_looks_so_is_left(line):
    """Dates, prices, order numbers, versions, ISBNs, private addresses, placeholders and code stay as they are."""
    assert kinds(line) == []


def test_findings_are_in_order_and_apart():
    """What overlaps is one finding, of the more dangerous kind."""
    text = "mail password=jane.doe1@gsa.gov, then call 877-472-6716"
    assert kinds(text) == [("secret", "jane.doe1@gsa.gov"), ("phone", "877-472-6716")]


def test_redacted_text_says_what_stood_there():
    """Each finding becomes a placeholder of its kind, and all other text stays."""
    text = "[Jane](mailto:jane@gsa.gov), 877-472-6716 (or 415.844.9759), until 2024-05-01."
    assert pii.redact(text, pii.scan(text)) == "[Jane](mailto:[EMAIL]), [PHONE] (or [PHONE]), until 2024-05-01."


@given(SOUP, st.lists(st.integers(0, 400), max_size=5).map(sorted))
def test_nothing_is_found_twice(text, offsets):
    """Cleaned text holds nothing more to find, and the offsets stay in order and inside it."""
    offsets = [offset for offset in offsets if offset <= len(text)]
    cleaned, places = pii.cleaned(text, offsets)
    assert pii.scan(cleaned) == []
    assert len(places) == len(offsets)
    assert places == sorted(places)
    assert all(0 <= place <= len(cleaned) for place in places)


@given(SOUP)
def test_findings_lie_inside_the_text(text):
    """Findings are in order, apart, not empty, and redacting keeps every character between them."""
    found = pii.scan(text)
    assert all(one.start < one.end <= len(text) for one in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    kept = re.split("|".join(map(re.escape, pii.PLACEHOLDERS.values())), pii.redact(text, found))
    ends = [0, *(end for one in found for end in (one.start, one.end)), len(text)]
    between = "".join(text[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True))
    assert "".join(kept) == re.sub("|".join(map(re.escape, pii.PLACEHOLDERS.values())), "", between)


@given(st.text(max_size=30), st.text(max_size=30))
def test_an_offset_stays_with_its_text(before, after):
    """An offset outside of findings points at the same character after redaction."""
    text = f"{before}\n jane@gsa.gov \n§{after}"
    place = len(before) + len("\n jane@gsa.gov \n")
    cleaned, (moved,) = pii.cleaned(text, [place])
    assert cleaned[moved] == "§"


def test_an_offset_within_a_finding_goes_to_its_placeholder():
    """A page that begins within a number begins with the placeholder."""
    text = "call 877-472-6716 now"
    assert pii.cleaned(text, [0, 5, 9, 17, 18]) == ("call [PHONE] now", [0, 5, 5, 12, 13])


def test_documents_are_redacted_with_their_title_length_and_pages():
    """A redacted row has its own length and pages, and a file that could not be read stays a row that says why."""
    text = "Ask jane@gsa.gov.\nPage two."
    row = {"doc_id": "1", "path": "a.pdf", "title": "Of jane@gsa.gov", "format": "pdf", "sha256": "", "text": text}
    rows = [
        {**row, "characters": len(text), "pages": [0, 18]},
        {**row, "text": "", "characters": 0, "pages": [], "error": "no"},
    ]
    (frame,) = redacted([tables.frame(tables.DOCUMENTS, rows)])
    assert frame.schema == tables.DOCUMENTS
    read, failed = frame.to_dicts()
    assert read["text"] == "Ask [EMAIL].\nPage two."
    assert read["title"] == "Of [EMAIL]"
    assert read["characters"] == len(read["text"])
    assert read["text"][read["pages"][1] :] == "Page two."
    assert failed["error"] == "no"
    assert (failed["text"], failed["characters"], failed["pages"]) == ("", 0, [])


@pytest.mark.slow
def test_an_embedder_s_error_names_no_key():
    """What a provider says of a wrong key is passed on without the key."""
    from openai import OpenAIError

    from raft.backends.embedding import _refusal

    said = str(_refusal("openai/embedder", OpenAIError("Incorrect key: sk-proj-Ab3dEf6hIj9kLm2nOp5qRs8tUv1w"), None))
    assert "Incorrect key: ***" in said and "Ab3dEf6" not in said


# in a run -------------------------------------------------------------------------------------------------------------

PERSON = """# The desk

The service desk answers calls from 08:15 on working days. Complaints are sent to ines.varga@orlin.example within
36 months, or told to the desk at 877-472-6716 before 16:30. The service desk was founded with 5 employees.
"""
PLAIN = """# The pump

The Delta pump lifts water over 18 metres and weighs 7.5 kg. The motor of the Delta pump runs at 230 V and draws
900 W under full load. The seal kit of the Delta pump costs 35 euros, and its dealer keeps 120 pieces.
"""


@pytest.fixture
def corpus(tmp_path):
    """Two documents, one of which names a person's address and number."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "desk.md").write_text(PERSON, encoding="utf-8")
    (folder / "pump.md").write_text(PLAIN, encoding="utf-8")
    return folder


@pytest.fixture
def fakes(monkeypatch):
    """Models by rule."""
    fakes = Fakes()
    fakes.install(monkeypatch.setattr)
    return fakes


def build(corpus, out, found=None, **options):
    """Build with a mode of `privacy.found`."""
    settings = {"chunking.tokens": 60, "questions.per_chunk": 8, "generator.attempts": 2, "split.unseen": 0}
    return api.build(corpus, out=out, settings={**settings, "privacy.found": found, **options})


def lines(built):
    """Return what the summary says."""
    return privacy_lines({name: line["notes"] for name, line in built.manifest["steps"].items()})


def test_documents_with_findings_are_named(corpus, fakes, tmp_path):
    """By default a build names documents and kinds, never what was found, and changes nothing."""
    built = build(corpus, tmp_path / "run")
    assert lines(built)[:2] == [
        "1 e-mail address, 1 phone number in 1 document, left as they are:",
        "desk.md: 1 e-mail address, 1 phone number",
    ]
    assert "ines.varga@orlin.example" in "".join(built.documents["text"])
    assert "ines.varga" not in (tmp_path / "run" / "manifest.json").read_text(encoding="utf-8")


def test_redaction_reaches_everything_that_is_made(corpus, fakes, tmp_path):
    """With "redact" no table, index or model sees what was found; quotes stand verbatim in the redacted chunks."""
    built = build(corpus, tmp_path / "run", "redact")
    assert lines(built) == [
        "1 e-mail address, 1 phone number replaced in 1 document:",
        "desk.md: 1 e-mail address, 1 phone number",
    ]
    documents = {row["path"]: row for row in built.documents.to_dicts()}
    assert "sent to [EMAIL] within" in documents["desk.md"]["text"]
    assert documents["desk.md"]["characters"] == len(documents["desk.md"]["text"])
    assert documents["pump.md"]["text"] == PLAIN.strip("\n") or documents["pump.md"]["text"] == PLAIN
    texts = dict(built.chunks.select("chunk_id", "text").iter_rows())
    for row in built.questions.iter_rows(named=True):
        for quote in row["quotes"]:
            assert texts[quote["chunk_id"]][quote["start"] : quote["end"]] == quote["text"]
    said = "\n".join([*fakes.prompts, *fakes.embedded])
    assert "[EMAIL]" in said
    for path in (tmp_path / "run").rglob("*"):
        if path.suffix in (".json", ".jsonl", ".sqlite", ".sqlite3"):
            assert b"ines.varga" not in path.read_bytes(), path
    assert "ines.varga" not in said
    assert "877-472-6716" not in said


def test_refusal_stops_before_any_model_is_asked(corpus, fakes, tmp_path):
    """With "refuse" a build stops with the documents and the kinds, before anything is embedded or asked."""
    with pytest.raises(RaftError) as stopped:
        build(corpus, tmp_path / "run", "refuse")
    assert "desk.md: 1 e-mail address, 1 phone number" in str(stopped.value)
    assert "ines.varga" not in str(stopped.value)
    assert "privacy.found=redact" in str(stopped.value)
    assert fakes.asked == fakes.embedded == []


def test_refusal_holds_for_a_run_that_was_built_before(corpus, fakes, tmp_path):
    """What was read under another mode is refused all the same, and again with each build."""
    build(corpus, tmp_path / "run", "ignore")
    for _ in range(2):
        with pytest.raises(RaftError, match=r"desk\.md"):
            build(corpus, tmp_path / "run", "refuse")


def test_ignored_findings_are_not_looked_for(corpus, fakes, tmp_path):
    """With "ignore" nothing is said, whatever an earlier build said."""
    build(corpus, tmp_path / "run")
    assert lines(build(corpus, tmp_path / "run", "ignore")) == []


def test_a_mode_that_changes_nothing_rebuilds_nothing(corpus, fakes, tmp_path):
    """Going from "ignore" to "warn" reads no file again and asks nothing again."""
    before = build(corpus, tmp_path / "run", "ignore").manifest["steps"]
    fakes.forget()
    after = build(corpus, tmp_path / "run", "warn").manifest["steps"]
    assert {name: line["key"] for name, line in before.items() if name != "privacy"} == {
        name: line["key"] for name, line in after.items() if name != "privacy"
    }
    assert fakes.asked == fakes.embedded == []


def test_redaction_can_be_taken_back(corpus, fakes, tmp_path):
    """From "redact" to "warn" documents are read from their files again; nothing redacted is left."""
    build(corpus, tmp_path / "run", "redact")
    built = build(corpus, tmp_path / "run", "warn")
    assert "ines.varga@orlin.example" in "".join(built.documents["text"])
    assert "[EMAIL]" not in "".join(built.chunks["text"])


def test_what_was_redacted_before_is_still_counted(corpus, fakes, tmp_path):
    """A document taken over from the last build is counted like the new one beside it."""
    build(corpus, tmp_path / "run", "redact")
    (corpus / "new.md").write_text("# New\n\nThe new desk has 3 rooms; ask otto.lind@orlin.example about 12 keys.\n")
    built = build(corpus, tmp_path / "run", "redact")
    assert lines(built)[0] == "2 e-mail addresses, 1 phone number replaced in 2 documents:"
    assert "".join(built.documents["text"]).count("[EMAIL]") == 2


def held(folder, words=b"ines.varga"):
    """Return the files that hold these words, in whatever form they are kept."""
    # the library of vectors writes memory that it has not cleared, this process's own, to its .bin files
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".bin"]
    found = [path.name for path in files if words in path.read_bytes()]
    tables = [path for path in folder.rglob("*.parquet") if words.decode() in str(pl.read_parquet(path).to_dicts())]
    return found + [path.name for path in tables]


def test_redaction_that_comes_late_says_what_is_left(corpus, fakes, tmp_path):
    """What was sent before stays in ledger and index; each build says so, with the command that leaves nothing."""
    run, other = tmp_path / "run", tmp_path / "run-redacted"
    build(corpus, run)
    for _ in range(2):
        built = build(corpus, run, "redact")
        said = "\n".join(privacy_lines({"privacy": built.manifest["steps"]["privacy"]["notes"]}, str(run)))
        assert f"--out {other} --set ledger={other}/ledger.sqlite,\nthen rm -r {run}" in said
        (corpus / "new.md").write_text("# New\n\nThe new desk has 3 rooms and 12 keys, made in 2019.\n")
    assert {"ledger.sqlite", "chroma.sqlite3"} & set(held(run))
    anew = build(corpus, other, "redact", ledger=other / "ledger.sqlite")
    assert "sent" not in anew.manifest["steps"]["privacy"]["notes"]
    assert held(other) == []


def test_redaction_from_the_beginning_has_nothing_to_say_of_earlier(corpus, fakes, tmp_path):
    """Nothing was sent before where redaction was on, or where nothing was found."""
    build(corpus, tmp_path / "run", "redact")
    assert "sent" not in build(corpus, tmp_path / "run", "redact").manifest["steps"]["privacy"]["notes"]
    (corpus / "desk.md").unlink()
    build(corpus, tmp_path / "plain")
    assert "sent" not in build(corpus, tmp_path / "plain", "redact").manifest["steps"]["privacy"]["notes"]


def test_names_of_files_are_looked_through(corpus, fakes, tmp_path):
    """A file that is named after a person's address is named in the summary, and refused where that is asked for."""
    (corpus / "pump.md").rename(corpus / "otto.lind@orlin.example.md")
    said = lines(build(corpus, tmp_path / "run", "redact"))
    assert "otto.lind@orlin.example.md: 1 e-mail address" in said
    (corpus / "desk.md").unlink()
    with pytest.raises(RaftError, match="1 e-mail address"):
        build(corpus, tmp_path / "refused", "refuse")


def test_own_questions_are_looked_through(corpus, fakes, tmp_path):
    """What stands in a user's own questions is counted, replaced or refused as in documents."""
    own = tmp_path / "own.jsonl"
    own.write_text('{"question": "Who is ines.varga@orlin.example?", "answers": ["Call 877-472-6716"]}\n')
    (corpus / "desk.md").write_text("# Desk\n\nThe service desk has 5 rooms and was opened in 2011 with 7 people.\n")
    built = build(corpus, tmp_path / "run", evaluation=own)
    assert lines(built)[0] == "1 e-mail address, 1 phone number in your own questions, left as they are"
    assert built.evaluation.filter(pl.col("split") == "user")["answers"].to_list() == [["Call 877-472-6716"]]
    built = build(corpus, tmp_path / "redacted", "redact", evaluation=own)
    assert lines(built) == ["1 e-mail address, 1 phone number in your own questions, replaced"]
    (row,) = built.evaluation.filter(pl.col("split") == "user").to_dicts()
    assert (row["question"], row["answers"]) == ("Who is [EMAIL]?", ["Call [PHONE]"])
    assert held(tmp_path / "redacted") == []
    with pytest.raises(RaftError, match="The questions hold") as stopped:
        build(corpus, tmp_path / "refused", "refuse", evaluation=own)
    assert "877" not in str(stopped.value)


def test_many_documents_are_counted_and_some_named():
    """The summary names those with most findings, and says how many there are more."""
    documents = {f"{number}.md": {"email": number} for number in range(1, 9)}
    noted = {"found": {"email": 36, "ip": 1}, "in": 8, "documents": documents, "redacted": False}
    said = privacy_lines({"privacy": noted})
    assert said[0] == "36 e-mail addresses, 1 IP address in 8 documents, left as they are:"
    assert said[1] == "8.md: 8 e-mail addresses"
    assert "and 3 more" in said


def test_the_step_leaves_no_file(corpus, fakes, tmp_path):
    """Looking through the documents is a step without an artifact: reused while documents and rules are the same."""
    events = []
    build(corpus, tmp_path / "run")
    settings = {"chunking.tokens": 60, "questions.per_chunk": 8, "generator.attempts": 2, "split.unseen": 0}
    api.build(
        corpus, out=tmp_path / "run", settings=settings, on_event=lambda event, facts: events.append((event, facts))
    )
    assert ("reused", "privacy") in [(event, facts.get("step")) for event, facts in events]
    assert Run(tmp_path / "run").manifest["steps"]["privacy"]["artifacts"] == {}
    assert pl.read_parquet(tmp_path / "run" / "documents.parquet").height == 2
