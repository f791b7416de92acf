"""Languages: which one a text is in, and what the table of them is used for."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.backends.index import bm25
from raft.corpus.blocks import units_of
from raft.curation.clean import RULES, Candidate
from raft.rag.format import abstention, is_abstention, is_no_answer, render_prompt, spoken
from raft.rag.grounding import find_verbatim
from raft.report import measures
from raft.text import contains, content_words, normalise, sentences, word_count
from raft.text.languages import EN, LANGUAGES, known, of_documents, of_text
from raft.text.values import fact_values, figures

ROOT = Path(__file__).parents[2]


def dropped(code, question, answer="14", source="", kind="fact"):
    """Return why a question in a language is dropped, or None."""
    one = Candidate(kind, question, answer, True, source or f"{answer} {question}", 4, 40, 60, language=known(code))
    return next((reason for reason, applies in RULES if applies(one)), None)


@pytest.mark.parametrize("row", LANGUAGES.values(), ids=LANGUAGES)
def test_each_row_says_what_a_build_needs(row):
    """Each language of the table has its words, those for yes and no, and a sentence to refuse with, in its script."""
    assert len(row.words) >= 25
    assert len(row.decided) == 3
    assert is_no_answer(row.abstention) and abstention(row) == row.abstention
    assert of_text(row.abstention, row.code) is row
    assert all(re.compile(pattern) for pattern in (row.articles, row.points, row.unmarked))


@pytest.mark.parametrize(
    ("code", "question"),
    [
        ("de", "Wofür steht die Abkürzung DIN?"),
        ("es", "¿Qué mide la sonda del depósito?"),
        ("ru", "Сколько длится гарантия?"),
        ("zh", "保修期是多长时间？"),
        ("zh", "保修期有多长"),
        ("ja", "保証期間はどのくらいですか。"),
        ("ko", "보증 기간은 얼마입니까?"),
        ("ar", "ما مدة الضمان على المضخة؟"),
        ("hi", "पंप की वारंटी कितने समय की है?"),
        ("tr", "Pompanın garantisi ne kadar sürer?"),
    ],
)
def test_a_question_is_kept_in_any_language(code, question):
    """A plain question is one in each language, in those too that the table doesn't have."""
    assert dropped(code, question, source=f"{question} 14") is None


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        ("de", "Die Garantie gilt zwei Jahre.", "not a question"),
        ("zh", "保修期为两年，从购买之日起计算。", "not a question"),
        ("ja", "保証期間は購入日から二年間です。", "not a question"),
        ("hi", "पंप की वारंटी दो साल तक चलती है।", "not a question"),
        ("de", "Wie lang?", "too short"),
        ("zh", "谁？", "too short"),
        ("de", "Was wird in diesem Abschnitt über die Garantie gesagt?", "does not stand alone"),
        ("fr", "Que dit ce passage de la garantie ?", "does not stand alone"),
        ("zh", "根据本文，保修期是多长时间？", "does not stand alone"),
        ("ru", "Что говорится в этом тексте о гарантии?", "does not stand alone"),
        ("ar", "ما مدة الضمان؟ وما هو السعر؟", "malformed"),
        ("zh", "保修期是多长时间？价格是多少？", "malformed"),
        ("de", "Frage 1: Wie lange gilt die Garantie?", "malformed"),
    ],
)
def test_what_is_no_good_question_is_dropped_in_its_language(code, text, reason):
    """Statements, fragments, two questions at once, and what leans on a text nobody sees are told in each language."""
    assert dropped(code, text) == reason


def test_answers_of_yes_and_no_are_known_in_each_language():
    """A decision may be answered with the language's own word, which stands in no text."""
    for row in LANGUAGES.values():
        asked = "Is the pump covered for two years?" if row is EN else "ABC DEF GHI JKL MNO?"
        assert [dropped(row.code, asked, word, "Nothing of it.", "decision") for word in row.decided] == [None] * 3


def test_letters_keep_the_marks_that_carry_them():
    """Vowel signs stay with their letters; where a script has no spaces each character is a word of its own."""
    assert normalise("पैंथर्स ने कितने अंक दिए?") == "पैंथर्स ने कितने अंक दिए"
    assert normalise("《水泵》的重量") == "水 泵 的 重 量"
    assert contains("这台水泵的重量为14公斤。", "14公斤") and not contains("这台水泵", "这水泵")
    assert content_words("水泵的重量是多少？") == {"水泵", "重量"}
    assert word_count("水泵的重量是多少？") == 4 and word_count("How heavy is it?") == 4


@given(st.text(alphabet=st.characters(max_codepoint=0x24F, exclude_categories=["No"])))
def test_latin_text_is_cut_into_words_as_ever(text):
    """What is written in Latin letters, exponents apart, is normalised as it always was."""
    import unicodedata

    folded = unicodedata.normalize("NFKC", text).casefold()
    assert normalise(text) == " ".join(re.findall(r"\w+(?:[.,'’-]\w+)*", folded))


@given(st.text())
def test_normal_forms_are_stable(text):
    """To normalise twice is to normalise once, whatever the script."""
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    "text",
    [
        "这是水泵。|它重14公斤！|“真的吗？”|是的。",
        "यह पंप है। |इसका वजन 14 किलो है। |क्या यह भारी है?",
        "هذه مضخة جديدة. |هل وزنها كبير؟ |نعم، هي ثقيلة.",
        "Die Pumpe ist in der Halle. |Über ihr Gewicht ist z. B. nichts bekannt. |Es ist so.",
        "Насос стоит в цехе. |Он весит 14 кг, т. е. немного.",
    ],
)
def test_sentences_end_as_their_script_ends_them(text):
    """Chunks and statements are cut behind the full stops of each script, and not behind abbreviations."""
    whole = text.replace("|", "")
    found = [whole[start:end] for start, end in sentences(whole)]
    assert [one.strip("“” ") for one in found] == [one.strip("“” ") for one in text.split("|")]
    if whole[0] != "D" and whole[0] != "Н":
        assert len(units_of(whole, "", "txt")[0]) == text.count("|") + 1


def test_numbers_are_read_where_words_touch_them():
    """A number is one before a character that needs no space: an answer agrees with its text."""
    assert fact_values("全长5公里") == fact_values("5") == fact_values("무게는 5킬로그램")
    assert figures("管道全长14公里，2008年建成") >= figures("14公里") | figures("2008年")


@pytest.mark.parametrize(
    ("code", "prediction", "reference"),
    [
        ("de", "Der Hund", "ein Hund."),
        ("es", "los Alpes", "Alpes"),
        ("fr", "une pompe", "la pompe"),
        ("ar", "القاهرة", "قاهرة"),
        ("zh", "“水泵”", "水泵。"),
        ("hi", "मुंबई।", "मुंबई"),
        ("en", "the pump", "a pump"),
    ],
)
def test_scores_follow_the_articles_of_a_language(code, prediction, reference):
    """Articles and punctuation of the language count for nothing, as in MLQA."""
    assert measures.exact_match(prediction, [reference], code) == measures.f1(prediction, [reference], code) == 1
    assert measures.contains_reference(f"{prediction} x", [reference], code) == 1


def test_what_is_an_article_elsewhere_is_a_word_here():
    """German "an" is no article, and words that share characters are no equal words."""
    assert measures.f1("an der Küste", ["der Küste"], "de") == pytest.approx(2 / 3)
    assert measures.f1("北京大学", ["北京"], "zh") == pytest.approx(2 / 3)
    assert measures.rouge_l("北京大学", ["北京"]) == pytest.approx(2 / 3)


def test_a_short_text_is_in_the_language_of_what_lies_beside_it():
    """A question that tells nothing is in its document's language; one that is plainly in another is in that one."""
    assert of_text("Hydraulik Aster 200?", "de").code == "de"
    assert of_text("Hydraulik Aster 200?").code == "en"
    assert of_text("What is the weight of the pump that they use?", "de").code == "en"
    assert of_text("Wie schwer ist die Pumpe in der Halle?").code == "de"
    assert of_text("水泵多重？", "ja").code == "ja" and of_text("水泵多重？").code == "zh"
    assert spoken("Aster 200?", ["Die Pumpe steht in der Halle und wiegt nicht viel."]).code == "de"


def test_a_language_that_is_not_in_the_table_is_told_by_the_library():
    """Other languages are found too; nothing is known of them but their code."""
    swedish = "Pumpen byggdes i den gamla hallen och väger fjorton kilo. Den används fortfarande av många företag."
    assert of_documents([("a", swedish)]) == {"a": "sv"}
    assert not known("sv").words and known("sv").marks


def test_a_prompt_asks_for_the_answer_in_the_language_of_its_question():
    """The abstention that is asked for is the language's, and an English question's prompt is as it ever was."""
    from raft import prompts

    prompt = prompts.load("answer")
    german = render_prompt(prompt, question="Wie schwer ist die Pumpe in der Halle?", shown=[], style="")
    assert LANGUAGES["de"].abstention in german[0]["content"] and "Answer in German." in german[0]["content"]
    english = render_prompt(prompt, question="How heavy is the pump?", shown=[], style="")
    assert english == prompt.render(documents="", question="How heavy is the pump?", style="")


def test_a_refusal_is_one_in_each_language():
    """Who says no more than that he does not know abstains; who says more answers."""
    assert is_abstention("Ich weiß es nicht.") and is_abstention("不知道。") and is_abstention("मुझे नहीं पता।")
    assert not is_abstention("Ich weiß es nicht, aber es sind 14 kg.")


def test_words_are_searched_by_their_stems():
    """A search finds other forms of a word, and parts of a run without spaces, each in its language."""
    assert set(bm25.words("Welche Pumpen wurden in der Halle geprüft?")) & set(bm25.words("der Pumpe", "de"))
    assert set(bm25.words("насосами", "ru")) & set(bm25.words("насосов", "ru"))
    assert bm25.words("水泵重量") == ["水泵", "泵重", "重量"]
    assert bm25.words("the pumps were heavy") == ["pumps", "heavy"]


def test_a_quote_may_begin_inside_a_run_without_spaces():
    """Where nothing tells the words apart, a quote begins and ends at any character."""
    assert find_verbatim("重量为14公斤", "这台水泵的重量为14公斤。") == (5, 12)


def test_the_table_in_the_documentation_is_that_of_the_code():
    """The documentation names each language of the table, with what is known of it."""
    text = (ROOT / "docs" / "build.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \((\w\w)\) \| (.*) \|$", text, re.MULTILINE)
    assert [(name, code) for name, code, _ in rows] == [(row.name, row.code) for row in LANGUAGES.values()]
    for _, code, cells in rows:
        row = LANGUAGES[code]
        told = [row.decided and ", ".join(row.decided), row.abstention, row.stemmer and "yes", row.articles and "yes"]
        assert [cell.strip() for cell in cells.split("|")] == [one or "–" for one in told]
