"""Other languages than English: a build asks, keeps, trains and says no in the language of its documents."""

import json
import re

import pytest

import raft
from raft.errors import RaftError
from raft.rag.format import ABSTENTION, is_abstention, parse
from raft.text.languages import LANGUAGES, of_documents

SAYINGS = {
    "en": ("The pump {} was built in the old hall and it weighs {} kilograms.", "How much does the pump {} weigh?"),
    "de": ("Die Pumpe {} wurde in der alten Halle gebaut und wiegt {} Kilogramm.", "Wie schwer ist die Pumpe {}?"),
    "fr": ("La pompe {} a été construite dans la vieille halle et pèse {} kilos.", "Combien pèse la pompe {} ?"),
    "es": ("La bomba {} se construyó en la nave antigua y pesa {} kilos.", "¿Cuánto pesa la bomba {}?"),
    "pt": ("A bomba {} foi construída na oficina antiga e pesa {} quilos.", "Quanto pesa a bomba {}?"),
    "it": ("La pompa {} è stata costruita nella vecchia officina e pesa {} chili.", "Quanto pesa la pompa {}?"),
    "nl": ("De pomp {} werd in de oude hal gebouwd en weegt {} kilo.", "Hoeveel weegt de pomp {}?"),
    "pl": ("Pompa {} nie jest nowa: została zbudowana w starej hali i waży {} kilogramów.", "Ile waży pompa {}?"),
    "ru": ("Насос {} был построен в старом цехе и весит {} килограммов.", "Сколько весит насос {}?"),
    "zh": ("水泵{}是在老厂房里制造的，重量为{}公斤。", "水泵{}的重量是多少？"),
    "ja": ("ポンプ{}は古い工場で作られ、重さは{}キログラムです。", "ポンプ{}の重さはどのくらいですか。"),
    "ko": ("펌프 {} 모델은 오래된 공장에서 만들어졌으며 무게는 {}킬로그램입니다.", "펌프 {} 모델의 무게는 얼마입니까?"),
    "ar": ("صنعت المضخة {} في القاعة القديمة ويبلغ وزنها {} كيلوغراما.", "كم يبلغ وزن المضخة {}؟"),
    "hi": ("पंप {} पुराने कारखाने में बनाया गया था और इसका वजन {} किलोग्राम है।", "पंप {} का वजन कितना है?"),
    "th": ("ปั๊ม {} สร้างขึ้นในโรงงานเก่าและมีน้ำหนัก {} กิโลกรัม", "ปั๊ม {} มีน้ำหนักเท่าไร"),
}
"""What documents of our own say, of a name and a number, and how people ask for it."""
NAMES = [
    "Aster",
    "Boreal",
    "Cirrus",
    "Delta",
    "Ember",
    "Falcon",
    "Garnet",
    "Helix",
    "Indigo",
    "Juniper",
    "Krypton",
    "Lumen",
    "Merlin",
    "Nimbus",
    "Onyx",
    "Pallas",
    "Quartz",
    "Rigel",
    "Sirius",
    "Titan",
    "Umbra",
    "Vesta",
    "Walrus",
    "Xenon",
]


def weight(name):
    """Return what a pump weighs."""
    return 11 + 7 * NAMES.index(name)


def write(folder, code):
    """Write twelve documents of two sentences in a language."""
    folder.mkdir()
    for start in range(0, len(NAMES), 2):
        said = [SAYINGS[code][0].format(name, weight(name)) for name in NAMES[start : start + 2]]
        (folder / f"{code}{start}.md").write_text(f"# {NAMES[start]}\n\n" + " ".join(said) + "\n", encoding="utf-8")
    return folder


def replies(code):
    """Return what answers as a capable model does that writes in a language."""

    def reply(request):
        passage = request.messages[-1]["content"].split('"""')[1]
        items = []
        for name in NAMES:
            quote = SAYINGS[code][0].format(name, weight(name))
            if quote in passage:
                question = SAYINGS[code][1].format(name)
                kind, answer = ("number", str(weight(name))) if NAMES.index(name) % 3 else ("decision", "yes")
                items.append({"question": question, "answer": answer, "quote": quote, "kind": kind})
        return json.dumps({"items": items})

    return reply


def build(folder, code, fakes, **more):
    """Build with an endpoint that writes in a language; return the run, what was asked, and what was told when."""
    events, said = [], replies(code)
    fakes.reply = lambda request: events.append(("request", request)) or said(request)
    settings = {"questions.per_chunk": 8, "questions.kinds": ["number", "decision"], "split.unseen": 0.0}
    settings |= {"questions.way": "items", "examples.golden_share": 0.5, "examples.per_question": 2}
    built = raft.build(
        write(folder / code, code),
        out=folder / "run",
        settings=settings | more,
        on_event=lambda event, facts: events.append((event, facts)),
    )
    return built, events


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_build_keeps_asks_and_refuses_in_the_language_of_its_documents(code, tmp_path, fake_models):
    """In each language the endpoint is told its name, its questions are kept, and students learn to say no in it."""
    built, events = build(tmp_path, code, fake_models)
    language, asked = LANGUAGES[code], [request for event, request in events if event == "request"]
    told = f"Write the questions and the answers in {language.name}"
    assert all((told in request.messages[0]["content"]) == (code != "en") for request in asked)
    assert built.cleaned.height == len(NAMES)
    assert set(built.cleaned["reason"]) <= {None, "round trip"}  # the fakes' vectors are of hashed words
    assert built.cleaned["reason"].null_count() >= 0.9 * len(NAMES)
    decisions = built.cleaned.filter(built.cleaned["kind"] == "decision")
    assert set(decisions["answer"]) == {language.decided[0]}
    chats = built.examples["messages"].to_list()
    no = [parse(chat[-1]["content"]) for chat in chats if parse(chat[-1]["content"]).abstained]
    assert {one.answer for one in no} == {language.abstention}
    assert all(language.abstention in chat[0]["content"] for chat in chats)
    assert code == "en" or not any(ABSTENTION in chat[0]["content"] for chat in chats)
    ends = (".", "。", "।")
    assert code == "th" or all(text.endswith(ends) for text in built.chunks["text"])  # Thai has no full stop


def test_what_a_language_lacks_is_said_before_the_first_call(tmp_path, fake_models):
    """Kinds whose rules a language lacks are not asked, and a sentence says so before the first paid call."""
    settings = {"questions.kinds": ["number", "comparison"]}
    built, events = build(tmp_path, "de", fake_models, **settings)
    names = [event for event, _ in events]
    said, *others = next(facts for event, facts in events if event == "planned")["left_out"]
    assert re.match(r"12 documents are in German: no comparison", said)
    assert names.index("planned") < names.index("request")
    assert built.summary()["steps"]["questions"]["notes"]["left_out"] == [said, *others]
    assert "knows English alone" in others[0]


@pytest.mark.parametrize("way", ["answer_first", "rules", "rules_first", "auto"])
def test_a_way_that_knows_english_alone_says_so_before_anything_is_embedded(way, tmp_path, fake_models):
    """Where nothing can be asked of any document a build stops after reading them, and names what to do."""
    events = []
    with pytest.raises(RaftError, match="in German, and the way for the smallest models knows") as stopped:
        raft.build(
            write(tmp_path / "de", "de"),
            out=tmp_path / "run",
            settings={"questions.way": way},
            on_event=lambda event, facts: events.append((event, facts.get("step"))),
        )
    assert ("left out", None) in events and ("begins", "chunks") not in events
    assert stopped.value.hint.startswith(f"raft build {tmp_path / 'de'} --pipeline local")
    assert "questions.way=spans" in stopped.value.hint


def test_pairs_alone_are_taken_in_any_language(tmp_path, fake_models):
    """Where no question is to be written, none is left out, whatever the generator knows."""
    (tmp_path / "qa.csv").write_text(
        f"question,answer\n{SAYINGS['de'][1].format('Aster')},{weight('Aster')} Kilogramm\n"
    )
    events, settings = [], {"questions.limit": 0, "split.unseen": 0.0, "index.embedder": "BAAI/bge-m3"}
    built = raft.build(
        write(tmp_path / "de", "de"),
        out=tmp_path / "run",
        qa=tmp_path / "qa.csv",
        settings=settings,
        on_event=lambda event, facts: events.append((event, facts)),
    )
    assert set(built.cleaned["model"]) == {"human"}
    assert not [event for event, facts in events if event == "left out" or facts.get("left_out")]


def test_the_language_of_a_corpus_is_that_of_most_of_its_documents():
    """A document that tells too little, as a table of names does, is taken to be in the language of the others."""
    table = "| Aster | Boreal |\n| --- | --- |\n| 11 | 18 |\n"
    letters = {code: " ".join(SAYINGS[code][0].format(name, 7) for name in NAMES) for code in SAYINGS}
    assert of_documents([*letters.items()]) == {code: code for code in letters if code != "en"}
    assert of_documents([("a", letters["de"]), ("b", table)]) == {"a": "de", "b": "de"}
    assert of_documents([("a", letters["en"]), ("b", table)]) == {}


def test_abstentions_are_known_in_each_language():
    """The sentence that a student learns to refuse with is an abstention, in whichever language."""
    assert all(is_abstention(row.abstention) for row in LANGUAGES.values())


def test_what_rules_make_no_question_for_is_said_of_the_way(corpus, tmp_path, fake_models):
    """Kinds that no rule makes are left out for the way's sake, not for the language's."""
    settings = {"questions.way": "rules", "questions.kinds": ["decision"]}
    with pytest.raises(RaftError, match="rules make those for fact, number, date, name alone") as stopped:
        raft.build(corpus, out=tmp_path / "run", settings=settings)
    assert "questions.way=auto" in str(stopped.value) and "multilingual" not in str(stopped.value)


def test_rows_that_rules_cannot_ask_for_are_not_said_to_state_nothing(tmp_path, fake_models):
    """Where a sheet states figures and rules alone ask, it is said that a model asks of rows."""
    (tmp_path / "fares.csv").write_text(
        "route,car,van\nLower Quay,31.00,52.00\nSark Point,44.00,70.00\n", encoding="utf-8"
    )
    with pytest.raises(RaftError, match="of rows and records a model asks"):
        raft.build(tmp_path / "fares.csv", out=tmp_path / "run", settings={"questions.way": "rules"})
