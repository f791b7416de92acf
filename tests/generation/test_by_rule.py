"""Questions that are made from a sentence by rule."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.generation import generate
from raft.generation import plan as planning
from raft.generation.by_rule import rule_targets
from raft.testing import make_chunks
from raft.text import contains

KINDS = ("fact", "number", "date", "name")
MADE = [
    (
        "A boat is held for 9 days after 4 missed payments.",
        [
            ("For how many days is a boat held after 4 missed payments?", "9 days"),
            ("After how many missed payments is a boat held for 9 days?", "4"),
        ],
    ),
    (
        "During the summer, a skipper earns 1.5 hours of leave per full week.",
        [("How many hours of leave does a skipper earn per full week during the summer?", "1.5 hours")],
    ),
    (
        "Up to 6 guests of a member may be brought along on Sundays.",
        [("How many guests of a member may be brought along on Sundays?", "Up to 6")],
    ),
    (
        "The winch of the Sula has the part number WN-88 and costs 310 euros.",
        [("Which part number does the winch of the Sula have?", "WN-88")],
    ),
    (
        "Requests for a berth must reach the office at least 3 weeks before the season.",
        [("How many weeks before the season must requests for a berth reach the office?", "at least 3 weeks")],
    ),
    (
        "The Tornby office answers calls from members between 8:15 and 16:45.",
        [("Between what times does the Tornby office answer calls from members?", "between 8:15 and 16:45")],
    ),
    (
        "Edition 4 of the harbour rules was published on 30 June 2021 by Ada Lindt.",
        [
            ("On which date was Edition 4 of the harbour rules published by Ada Lindt?", "30 June 2021"),
            ("By whom was Edition 4 of the harbour rules published on 30 June 2021?", "Ada Lindt"),
        ],
    ),
    (
        "The mooring fee rises to 18 percent of the rent when a boat stays over winter.",
        [("To what percentage of the rent does the mooring fee rise when a boat stays over winter?", "18 percent")],
    ),
    (
        "A new member pays an entry fee of 40 euros within the first month, which covers the key.",
        [("What entry fee does a new member pay within the first month?", "40 euros")],
    ),
    ("You must keep the key for 9 days.", [("For how many days must you keep the key?", "9 days")]),
    ("Skippers use 3 kinds of rope in the bay.", [("How many kinds of rope do skippers use in the bay?", "3")]),
]
REFUSED = [
    "It is held for 9 days after the last missed payment of the owner.",
    "A boat is not held for 9 days after a missed payment.",
    "Boats that were left for 9 days by their owners are towed to Tornby.",
    "If a boat lies still for more than 9 days, the harbour master tows it.",
    "The harbour has a written charter enacted in 1975 by the council.",
    "The council designed and constructed the new pier of Tornby in 1975.",
    "Berth 4 costs 60 euros, berth 5 costs 70 euros and berth 6 costs 90 euros.",
    "The pier of Tornby was extended, was it not, by 40 metres in all directions?",
    "Two lines of the harbour railway have 760 mm narrow gauge rails.",
    "The Sula carries 40 sacks of flour and 12 barrels.",
    "Spare sails ordered before 14:00 on a working day leave the loft on the same day.",
    "Owners must register boats by 1 March of the year.",
    "Unless the owner pays within 9 days, the boat is sold by the harbour.",
    "In 2013, a fourth basin–Tornby West–was formally opened.",
    "The gate to the harbour of Tornby is on Mill Street by Lindt Brothers.",
    "The harbour rules were often published by Tornby University press.",
    "In May 1990 to June 1994, all boats of members were kept in Tornby.",
    "The harbour of Tornby was surveyed on old boats of members from January 2000 to January 2006.",
    "A member may use the berth from 30 days before the season to 60 days after the season.",
    "Members will get the keys of the loft within 3 days of the deposit and any other papers of the office.",
    "The growth of the Tornby harbour continued after the death of Ada Lindt in 1927.",
    "In 1975, Ada Lindt signed a plan on the harbour pier of Tornby in which the rent was named.",
    "The office sends 9 keys to a skipper, the person who does the mooring in Tornby.",
    "The winter survey of the north group versus the south group was 32 weeks in Tornby.",
    "The rate of repairs of Tornby boats was 93% compared to 94% of guests in the spring race.",
    "The survey of all ropes was done in 39 boats with broken masts of Tornby.",
    "In winter, 10 or more bags of salt were given in Tornby.",
    "Rust of old hulls was seen in 66% boats which lay in Tornby.",
    "A member must have to attend the harbour meeting in Tornby 2 weeks later.",
    "Members can receive 3 days of harbour leave to plan or attend races of the club.",
    "Members can receive 3 days of harbour leave to plan and attend races of the club.",
    "You can use up to 13 days per year of leave for repairs, hull cleaning, and/or going to races of the club.",
    "In total, 19 boats were kept in the harbour of Tornby.",
    "The last 20 years have seen a marked rise of the Tornby harbour.",
    "You need to have been a sailor for 12 months in order to use the pier of Tornby.",
    "Few members estimated costs within 25% of true cost of a berth.",
]
LEANING = [
    "Our targets for the harbour:\n\n- At least 85 percent of boats are moored on time in Tornby.",
    "# Objectives\n\nUp to 6 guests of a member may be brought along on Sundays.",
    "Owners may take up to 12 days per season for repairs. Single owners may take up to 20 days for repairs of boats.",
    "Ropes are due within 10 days of the deposit. Fire drills of the harbour are due within 20 days.",
    "The meeting is held in Tornby. The fee is paid within 9 days of the season in Tornby.",
    "Boats are sold once. The new owner reports the sale of a boat with form WN-88 within 60 days.",
    "The verdict of the board is final. A member may turn to the court of Tornby within 12 months of the verdict.",
    "Boats lie in Tornby. Their fee is paid within 9 days by each skipper of the harbour.",
]


def made(sentence):
    """Return questions and answers that are made of a sentence."""
    return [(target.opening, target.answer) for target in rule_targets(sentence, KINDS)]


@pytest.mark.parametrize(("sentence", "pairs"), MADE, ids=[sentence[:30] for sentence, _ in MADE])
def test_a_question_is_the_sentence_turned_round(sentence, pairs):
    """The figure becomes the question word, and what it is said under stays in the question."""
    assert made(sentence) == pairs


@pytest.mark.parametrize("sentence", REFUSED, ids=[sentence[:30] for sentence in REFUSED])
def test_nothing_is_asked_of_a_sentence_that_is_not_understood(sentence):
    """Where it is not plain what the figure belongs to, there is no question rather than a wrong one."""
    assert made(sentence) == []


@pytest.mark.parametrize("text", LEANING, ids=[text[:30] for text in LEANING])
def test_nothing_is_asked_of_a_sentence_that_leans_on_its_neighbours(text):
    """A target is no fact; what the sentence before says for both, and of what a thing is, no question may lack."""
    heading, _, body = text.removeprefix("# ").rpartition("\n\n") if text.startswith("#") else ("", "", text)
    last = body.rpartition(". ")[2]
    assert [one.answer for one in rule_targets(body, KINDS, heading=heading) if one.statement in last] == []


def test_a_sentence_that_stands_alone_is_asked_about_behind_any_other():
    """The same sentences are asked about where nothing is a target, the figure is complete, or a heading names it."""
    answers = [
        [target.answer for target in rule_targets(text, KINDS, heading=heading)]
        for text, heading in (
            (LEANING[0].replace("targets", "figures"), ""),
            (LEANING[1].rpartition("\n\n")[2], "Guests"),
            (LEANING[2].replace("20 days for", "20 days per season for"), ""),
            (LEANING[4], "Terms > Fee"),
            (LEANING[4].replace("The fee is paid", "The skipper pays"), ""),
        )
    ]
    asked = [["At least 85 percent"], ["Up to 6"], ["up to 20 days", "up to 12 days"], ["9 days"], ["9 days"]]
    assert answers == asked


def test_a_first_word_is_no_name_for_its_capital():
    """Nothing else names what such a question is about, so that its document is named; a real name is enough."""
    texts = ["Sails and ropes of members are sold after 9 days.", "Tornby keeps ropes of members for 9 days."]
    texts[1] += " All members know of Tornby by now."
    chunks = make_chunks({"a": texts}).with_columns(heading=pl.lit("Terms of the club"))
    used, known = generate.read_prompts(None), planning.survey([chunks], (), frozenset())
    frames = generate.ask(
        iter([chunks]),
        known,
        Never(),
        used,
        strategy="rules",
        kinds=KINDS,
        per_chunk=9.0,
        limit=None,
        model="",
        failures=[],
    )
    assert pl.concat(frames)["question"].to_list() == [
        "According to Terms of the club, after how many days are sails and ropes of members sold?",
        "For how many days does Tornby keep ropes of members?",
    ]


SPOKEN = """
    the a boat boats harbour is are was must may has have holds costs pays for within up to at least 9 days 40 euros of
    per month and or which if after before in 1975 on 3 May 2021 between 7:00 16:45 , Ada Lindt by WN-88 percent not
"""
WORDS = st.sampled_from(SPOKEN.split())


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, min_size=4, max_size=18))
def test_whatever_the_sentence_an_answer_stands_in_it_and_not_in_the_question(words):
    """Each question is one question that does not hold its answer, and each answer stands in the sentence."""
    sentence = " ".join(words).capitalize() + "."
    for question, answer in made(sentence):
        assert answer in sentence
        assert question.endswith("?") and question.count("?") == 1
        assert not contains(question, answer)


class Never:
    """A generator that must not be asked."""

    def complete(self, requests):
        """Fail if there is anything to ask, or anybody asks whether there is."""
        raise AssertionError("a model was asked")


class Scripted:
    """A generator that completes each opening in the same way."""

    def __init__(self):
        self.asked = []

    def complete(self, requests):
        """Answer two requests at a time, as a local model does."""
        waiting = []
        for request in requests:
            waiting.append(request)
            if len(waiting) == 2:
                yield from map(self.reply, waiting)
                waiting.clear()
        yield from map(self.reply, waiting)

    def reply(self, request):
        """Give a reply of no use."""
        self.asked.append(request)
        return generate.Failure("malformed", "it is of no use", "", 1)


PLAIN = "A boat is held for 9 days after the owner has missed a payment."
HARD = "Boats that lie still for 5 weeks are, whoever owns them, towed to Tornby by the master."
CHUNKS = make_chunks({"a": [PLAIN, HARD], "b": [HARD.replace("5", "7")], "c": [PLAIN.replace("9", "8")]}).with_columns(
    heading=pl.format("Terms of {}", pl.col("doc_id").str.to_uppercase())
)


def asked(way, generator, failures):
    """Ask about the chunks in a way."""
    used = generate.read_prompts(None)
    known = planning.survey([CHUNKS], used.prefixes, planning.needed(way, KINDS))
    frames = generate.ask(
        iter([CHUNKS]),
        known,
        generator,
        used,
        strategy=way,
        kinds=KINDS,
        per_chunk=1.0,
        limit=None,
        model="scripted",
        failures=failures,
    )
    return pl.concat(frames)


def test_rules_ask_no_model():
    """With `rules` no model is asked, and rows say that a rule has made them."""
    rows = asked("rules", Never(), []).to_dicts()
    assert [row["answer"] for row in rows] == ["9 days", "8 days"]
    assert {row["model"] for row in rows} == {"rules"}
    assert {row["prompt"].partition("@")[0] for row in rows} == {"by_rule"}
    assert all(row["quotes"][0]["text"] == PLAIN.replace("9", row["answer"][0]) for row in rows)


def test_a_model_is_asked_for_what_rules_leave():
    """With `rules_first` a model is asked for facts of which rules make no question; rows keep the chunks' order."""
    generator, failures = Scripted(), []
    rows = asked("rules_first", generator, failures).to_dicts()
    assert [row["answer"] for row in rows] == ["9 days", "8 days"]
    assert len(generator.asked) == len(failures) == 2


def test_look_alike_documents_are_named():
    """A question that several documents answer otherwise says which document it means."""
    rows = asked("rules", Never(), []).to_dicts()
    assert [row["question"].partition(",")[0] for row in rows] == ["According to Terms of A", "According to Terms of C"]
