"""Languages: one table of what differs between them, and which of them a text is written in.

To add one is a row in `LANGUAGES`. What a row leaves out is not known of its language: kinds of question that need it
are left out (`raft.generation.plan.left_out`), everything else works.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import repeat
from typing import Any

from raft.text.grammar import ENGLISH, Grammar

VERSION = 1
"""Raised when texts in other languages than English are treated otherwise: what was made of them is made anew."""
BEGUN, _LETTERS, _LEAST = 2000, 1000, 80
"""Characters at the beginning of a document that tell its language, those that the library looks at, and fewest letters
by which it may decide."""
_PLAINLY, _PROSE, _FEW = 0.25, 0.1, 0.05
"""Shares of its common words in a text that is plainly English, in one that is where no other language has as many, and
least share in one that is in a language at all."""
_SURE = 0.8
"""Least probability of the library's."""


@dataclass(frozen=True)
class Language:
    """What is known of a language.

    Attributes:
        code: ISO 639-1.
        name: in English, as prompts name it.
        words: articles, question words, auxiliaries and the like: no content, and the language is known by them.
        decided: its words for yes, no and maybe; empty: nothing is asked for them.
        abstention: "The documents do not answer this question."; empty: nothing unanswerable is asked for.
        refusals: what else says no more than that, as "I do not know", with | between.
        articles: a pattern of what scoring leaves out.
        points: a pattern of what points at a text that the reader doesn't see.
        unmarked: a pattern of questions that are asked without a question mark.
        stemmer: its name in `snowballstemmer`.
        marks: what ends a question.
        shortest: words of the shortest question, where it says in fewer what English says in four.
        grammar: how it speaks of figures; none: rules that need such words are not asked.
    """

    code: str
    name: str
    words: frozenset[str]
    decided: tuple[str, ...] = ()
    abstention: str = ""
    refusals: str = ""
    articles: str = ""
    points: str = ""
    unmarked: str = ""
    stemmer: str = ""
    marks: tuple[str, ...] = ("?", "？", "؟")
    shortest: int = 100
    grammar: Grammar | None = None

    def asks(self, text: str) -> bool:
        """Tell whether a text is a question, though it ends with no mark."""
        return bool(self.unmarked and re.search(self.unmarked, text, re.IGNORECASE))

    def leans(self, text: str) -> bool:
        """Tell whether a text points at one that the reader doesn't see."""
        return bool(self.points and re.search(self.points, text, re.IGNORECASE))

    def decides(self, answer: str) -> bool:
        """Tell whether an answer begins with the language's word for yes, no or maybe."""
        return bool(self.decided) and bool(re.match(rf"\W*(?:{'|'.join(self.decided)})(?!\w)", answer, re.IGNORECASE))


def _row(code: str, name: str, words: str, decided: str = "", **rest: Any) -> Language:
    return Language(code, name, frozenset(words.split()), tuple(decided.split()), **rest)


def _points(these: str, by: str, texts: str, of: str) -> str:
    """Return the pattern of "this text", or "according to the text" where not "of" something follows."""
    return rf"\b(?:{these})\s(?:{texts})\b|\b(?:{by})\s?(?:{texts})\b(?!\s(?:{of}|\d))"


_ROWS = (
    _row(
        "en",
        "English",
        "a an the of in on at to for from by with and or is are was were be been do does did how what which who whom "
        "whose when where why many much can may must should will would there it its this that these those as",
        "yes no maybe",
        abstention="The documents do not answer this question.",
        articles=r"\b(?:a|an|the)\b",
        grammar=ENGLISH,
    ),
    _row(
        "de",
        "German",
        "der die das den dem des ein eine einen einem eines einer und oder ist sind war waren wird werden "
        "wurde wurden "
        "hat haben kann muss soll in im an am auf aus bei beim mit nach von vom vor zu zum zur für über unter "
        "durch um "
        "als wie was wer wen wem wann wo warum welche welcher welches welchen welchem viel viele sich es nicht auch",
        "ja nein vielleicht",
        abstention="Die Dokumente beantworten diese Frage nicht.",
        refusals="Ich weiß es nicht|Das weiß ich nicht|Nicht bekannt|Unbekannt|Keine Angabe",
        articles=r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
        points=_points(
            "diese[mrsn]?|obige[mrsn]?|vorliegende[mrsn]?",
            r"laut|laut\s(?:dem|der)|(?:gemäß|nach|in)\s(?:dem|der)|im",
            r"text\w*|abschnitt\w*|absatz\w*|passage|artikels?|dokuments?|auszug\w*",
            "de[sr]|von|über|zu[mr]?",
        ),
        stemmer="german",
    ),
    _row(
        "fr",
        "French",
        "le la les l un une des du de d et ou est sont était étaient a ont être avoir peut doit dans en sur sous par "
        "pour avec sans au aux à ce cet cette ces que qui quoi qu dont où quand comment pourquoi combien quel quelle "
        "quels quelles il elle ils elles on se s n ne pas plus c",
        "oui non peut-être",
        abstention="Les documents ne répondent pas à cette question.",
        refusals="Je ne sais pas|Inconnu|Non précisé|Aucune information",
        articles=r"\b(?:le|la|les|un|une|des|du|au|aux)\b",
        points=_points(
            "ce|cet|cette|ces",
            r"(?:selon|d['’]après|dans)\s(?:le|la|l['’])",
            "textes?|passages?|extraits?|paragraphes?|sections?|articles?|documents?",
            "de|du|des|d|sur",
        ),
        stemmer="french",
    ),
    _row(
        "es",
        "Spanish",
        "el la los las lo un una unos unas de del al y o e es son era eran fue fueron ser está están ha han "
        "puede debe "
        "en con por para sin sobre entre desde hasta a que qué quién quiénes cuál cuáles cuándo dónde cómo cuánto "
        "cuánta cuántos cuántas como se su sus no más este esta",
        "sí no quizás",
        abstention="Los documentos no responden a esta pregunta.",
        refusals="No lo sé|No sé|Desconocido|No se especifica|No hay información",
        articles=r"\b(?:un|una|unos|unas|el|la|los|las)\b",
        points=_points(
            "est[eao]s?|es[ea]s?|dich[oa]s?",
            r"(?:según|en)\s(?:el|la)\s",
            "textos?|pasajes?|fragmentos?|párrafos?|sección|artículos?|documentos?",
            "de|del|sobre",
        ),
        stemmer="spanish",
    ),
    _row(
        "pt",
        "Portuguese",
        "o a os as um uma uns umas de do da dos das e ou é são era eram foi foram ser está estão tem têm pode "
        "deve em "
        "no na nos nas ao à aos às por pelo pela para com sem sobre entre que quem qual quais quando onde "
        "como quanto "
        "quanta quantos quantas porque se seu sua não mais este esta",
        "sim não talvez",
        abstention="Os documentos não respondem a esta pergunta.",
        refusals="Não sei|Eu não sei|Desconhecido|Não especificado|Não há informação",
        articles=r"\b(?:o|a|os|as|um|uma|uns|umas)\b",
        points=_points(
            "n?est[ea]s?|n?ess[ea]s?|dest[ea]s?|dess[ea]s?",
            r"(?:segundo\s|conforme\s|de\sacordo\scom\s|n)[oa]\s",
            "textos?|passagem|trechos?|parágrafos?|seção|secção|artigos?|documentos?",
            "de|do|da|sobre",
        ),
        stemmer="portuguese",
    ),
    _row(
        "it",
        "Italian",
        "il lo la i gli le l un uno una di del dello della dei degli delle d e o è sono era erano fu furono "
        "essere ha "
        "hanno può deve in nel nella nei nelle a al alla ai alle da dal dalla con su sul sulla per tra fra che chi "
        "quale quali quando dove come perché quanto quanta quanti quante cosa si non più questo questa",
        "sì no forse",
        abstention="I documenti non rispondono a questa domanda.",
        refusals="Non lo so|Sconosciuto|Non specificato|Nessuna informazione",
        articles=r"\b(?:il|lo|la|i|gli|le|un|uno|una)\b",
        points=_points(
            "quest[oaie]",
            r"secondo\s(?:il|la|l['’])\s?|nel(?:la)?\s",
            "test[oi]|passaggi?o?|bran[oi]|paragraf[oi]|sezione|articol[oi]|document[oi]",
            "di|del|della|su|sul|sulla",
        ),
        stemmer="italian",
    ),
    _row(
        "nl",
        "Dutch",
        "de het een en of is zijn was waren wordt worden werd werden heeft hebben kan moet mag in op aan uit bij met "
        "naar van voor door over onder om te tot als dat die dit deze wat wie wiens welke welk wanneer waar "
        "waarom hoe "
        "veel hoeveel er zich niet ook",
        "ja nee misschien",
        abstention="De documenten beantwoorden deze vraag niet.",
        refusals="Ik weet het niet|Onbekend|Niet vermeld|Geen informatie",
        articles=r"\b(?:de|het|een)\b",
        points=_points(
            "dit|deze|die|dat|bovenstaande",
            r"(?:volgens|in)\s(?:de|het)\s",
            "tekst|passage|fragment|alinea|paragraaf|sectie|artikel|document",
            "van|over",
        ),
        stemmer="dutch",
    ),
    _row(
        "pl",
        "Polish",
        "i w we z ze na do od po o u za przez przy dla bez nad pod jest są był była było były być może się "
        "nie to ten "
        "ta te tego tej tych jako jak co kto kogo komu kim czym czego kiedy gdzie dlaczego ile jaki jaka "
        "jakie jakich "
        "jakiego jakim który która które którego której których którym czy oraz lub a że",
        "tak nie może",
        abstention="Dokumenty nie odpowiadają na to pytanie.",
        refusals="Nie wiem|Nieznane|Nie podano|Brak informacji",
        points=_points(
            r"t(?:ym|ego|en|ej|ych)|powyższ\w+",
            r"(?:według|zgodnie\sz|w)\s",
            r"tekst\w*|fragmen\w+|akapi\w+|sekcj\w+|artykul\w+|dokumen\w+",
            "o|z|dla",
        ),
        stemmer="polish",
        shortest=3,
    ),
    _row(
        "ru",
        "Russian",
        "и в во на с со к ко по о об от до из у за для при без над под через между был была было были быть есть это "
        "этот эта эти тот как что чего чем кто кого кому кем когда где куда почему зачем сколько какой какая какое "
        "какие каком каких какого какую который которая которое которые ли или не а но же он она они его её их",
        "да нет возможно",
        abstention="Документы не отвечают на этот вопрос.",
        refusals="Я не знаю|Не знаю|Неизвестно|Не указано|Нет информации",
        points=_points(
            r"эт(?:ом|ого|от|ой|у|им)|данн\w+|приведённ\w+|приведенн\w+",
            r"(?:согласно|в|по)\s",
            r"текст\w*|отрывк\w*|абзац\w*|раздел\w*|стать\w+|документ\w*|фрагмент\w*",
            "о|об|про|для",
        ),
        stemmer="russian",
        shortest=3,
    ),
    _row(
        "zh",
        "Chinese",
        "的 了 是 在 和 与 及 或 把 被 对 从 向 于 之 吗 呢 什么 甚麼 谁 誰 哪 哪个 哪個 哪些 哪里 哪裡 何时 何 几 幾 "
        "多少 怎么 怎麼 怎样 如何 为什么 為什麼 这 這 那 个 個",
        "是 否 可能",
        abstention="这些文档没有回答这个问题。",
        refusals="我不知道|不知道|未知|未提及|没有相关信息",
        points=r"(?:本|这篇?|这段|該|该|上述|上面的?|根据)(?:文章?|段落?|文本|文档|章节|材料|文件)(?:中|里|的|，|,|所|$)",
        shortest=3,
        unmarked=r"什么|甚麼|谁|誰|哪|何时|何人|如何|几|幾|多[少长長大久远遠高重快]|怎|为何|為何|吗|呢[。.]?$",
    ),
    _row(
        "ja",
        "Japanese",
        "の は が を に へ と で も や から まで より か です ます でした ました だ た て いる ある する した された "
        "何 なに なん 誰 だれ いつ どこ どの どれ どう なぜ どのように いくつ いくら この その あの これ それ",
        "はい いいえ おそらく",
        abstention="文書はこの質問に答えていません。",
        refusals="わかりません|分かりません|不明|不明です|記載されていません",
        points=r"(?:この|上記の|本|次の)(?:文章|文書|文|段落|節|記事|資料|テキスト)|本文(?:中|に|で|の)|(?:文章|テキスト)によると",
        shortest=3,
        unmarked=r"(?:か|かな|の|何|誰|いつ|どこ|いくつ|いくら)[。．.]?$|何|誰|どこ|いつ|どの|どれ|どう|なぜ|いくつ|いくら",
    ),
    _row(
        "ko",
        "Korean",
        "은 는 이 가 을 를 의 에 에서 로 으로 와 과 도 및 또는 그 저 것 수 등 무엇 무엇인가요 무엇입니까 누구 "
        "누구입니까 누가 언제 어디 어디서 어디에 어느 어떤 어떻게 왜 몇 얼마 얼마나 있는 있습니까 합니까 입니까",
        "예 아니요 아마도",
        abstention="문서는 이 질문에 답하지 않습니다.",
        refusals="모르겠습니다|알 수 없습니다|알 수 없음|정보가 없습니다",
        points=r"(?:이|위|본|해당|다음)\s?(?:글|본문|지문|문단|단락|문서|구절|기사)(?:에|의|은|는|에서|\s)|본문에",
        shortest=2,
        unmarked=r"(?:까|나요|가요|니|은가|는가|인가)[.]?$|무엇|누구|누가|언제|어디|어느|어떤|어떻게|몇\s|얼마",
    ),
    _row(
        "ar",
        "Arabic",
        "في من إلى على عن مع أن إن أو و هو هي هم هذا هذه ذلك تلك التي الذي الذين كان كانت يكون تم قد لا لم لن "
        "ما ماذا متى "
        "أين كيف لماذا كم أي أية هل منذ حتى بين بعد قبل عند كل كما",
        "نعم لا ربما",
        abstention="لا تجيب المستندات عن هذا السؤال.",
        refusals="لا أعرف|لا أعلم|غير معروف|غير مذكور|لا توجد معلومات",
        articles="ال",
        points=r"(?:هذا|هذه|في|وفقا|وفقاً|حسب)\s(?:ل?ل?ال)?(?:ل)?(?:نص|فقرة|مقطع|مقال|قسم|مستند|وثيقة)(?:\s|؟|$|،)",
        stemmer="arabic",
        shortest=3,
    ),
    _row(
        "hi",
        "Hindi",
        "का के की को में से पर ने और या है हैं था थे थी हो होता होती होते हुआ हुई हुए कर करता करते किया गया "
        "गई गए जो यह "
        "वह ये वे इस उस इन उन तक लिए साथ भी ही तो नहीं एक क्या कौन किस किसने किसे किसका किसके किसकी कब कहाँ "
        "कहां क्यों "
        "कैसे कितना कितने कितनी कौनसा कौनसी",
        "हाँ नहीं शायद",
        abstention="दस्तावेज़ इस प्रश्न का उत्तर नहीं देते।",
        refusals="मुझे नहीं पता|पता नहीं|अज्ञात|उल्लेख नहीं है|कोई जानकारी नहीं है",
        points=r"(?:इस|उपरोक्त|ऊपर\sदिए\sगए|दिए\sगए)\s(?:पाठ|अनुच्छेद|गद्यांश|लेख|अंश|दस्तावेज़?|खंड)(?:\s|$)",
        unmarked=r"क्या|कौन|किस|किन|कब|कहाँ|कहां|क्यों|कैसे|कितन|बताइए|बताएँ|बताएं|बताओ",
        stemmer="hindi",
        shortest=3,
    ),
    _row(
        "th",
        "Thai",
        "ที่ ซึ่ง อัน ของ และ หรือ เป็น คือ อยู่ ใน จาก กับ โดย เพื่อ ให้ ได้ ไป มา ว่า ถูก มี จะ แล้ว ก็ นี้ นั้น "
        "อะไร ใคร ที่ไหน เมื่อไร เมื่อใด ทำไม อย่างไร เท่าไร เท่าใด กี่ ไหน ใด ไหม",
        "ใช่ ไม่ อาจจะ",
        abstention="เอกสารไม่ได้ตอบคำถามนี้",
        refusals="ไม่ทราบ|ฉันไม่รู้|ไม่มีข้อมูล|ไม่ได้ระบุ",
        points=r"(?:ข้อความ|บทความ|ย่อหน้า|เอกสาร|เนื้อหา)(?:นี้|ข้างต้น|ดังกล่าว)",
        shortest=3,
        unmarked=r"อะไร|ใคร|ไหน|เมื่อ(?:ไร|ใด)|ทำไม|อย่างไร|เท่า(?:ไร|ใด|ไหร่)|กี่|ใด|หรือไม่|ไหม",
    ),
)
LANGUAGES: dict[str, Language] = {row.code: row for row in _ROWS}
"""The languages that raft knows, by code."""
EN = LANGUAGES["en"]

_TOKEN = re.compile(r"[^\W\d_]+")
_LONG = re.compile(r"[^\W\d_]{2,}|(?<!\S)[^\W\d_](?!\S)")
"""Words, but for single letters that no space surrounds: they stand in codes and addresses."""
_LIKELY = (
    "af ar bg bn ca cs cy da de el en eo es et eu fa fi fr ga gl gu he hi hr hu hy id is it ja ka kk km kn ko lo lt lv "  # noqa: SIM905
    "mk ml mn mr ms mt my nb ne nl pa pl ps pt ro ru si sk sl sq sr sv sw ta te th tl tr uk ur uz vi zh".split()
)


@cache
def known(code: str) -> Language:
    """Return a language's row; one that is not in the table has a row in which nothing is known."""
    return LANGUAGES.get(code) or Language(code, "the language of the documents", frozenset(), marks=(*EN.marks, ";"))


@lru_cache(maxsize=4096)
def _script_of(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ", 1)[0]
    return "KANA" if name in ("HIRAGANA", "KATAKANA") else name


def _script(text: str) -> str:
    """Return the script that most letters of a text are of; one with kana in it is not of Han characters alone."""
    counts: Counter[str] = Counter()
    for letter, count in Counter(text).items():
        if letter.isalpha():
            counts[_script_of(letter)] += count
    if counts["KANA"] * 8 > counts["CJK"]:
        counts["KANA"] += counts.pop("CJK", 0)
    return max(counts, key=lambda name: counts[name], default="LATIN")


_ROWS_OF: dict[str, list[Language]] = {}
for _one in _ROWS:
    _ROWS_OF.setdefault(_script("".join(_one.words)), []).append(_one)


_ENGLISH = EN.words - frozenset[str]().union(*(row.words for row in _ROWS_OF["LATIN"][1:]))
"""Words that no other language of the table has."""


@lru_cache(maxsize=8192)
def of_text(text: str, likely: str = "en") -> Language:
    """Return the language of a text, however short: what its script or common words say, or else the `likely` one."""
    default = known(likely)
    script = "LATIN" if text.isascii() else _script(text)
    rows = _ROWS_OF.get(script, [])
    if script != "LATIN":
        others = script == "CJK" and default.code == "ja"
        return default if default in rows or others or (default.code not in LANGUAGES) else (*rows, known("und"))[0]
    words = {*_LONG.findall(text.lower())}
    likelier = (default, *rows) if default.code in LANGUAGES else (default, EN)
    best = max(likelier, key=lambda row: len(words & row.words))
    telling = len(words & (best.words - default.words))
    if telling >= 3 and telling > 2 * len(words & (default.words - best.words)):
        return best
    return EN if default.code in LANGUAGES and default not in rows and words & EN.words else default


def of_documents(texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the code of each document that is not in English, from pairs of doc_id and the beginning of its text.

    Script and common words decide where they tell enough, otherwise `py3langid`. A document that tells too little, as
    a table of names does, is in the language that most of the others are in.
    """
    found = {name: _of_document(text[:BEGUN]) for name, text in texts}
    counts = Counter(code for code in found.values() if code)
    most = counts.most_common(1)[0][0] if counts else "en"
    return {name: code or most for name, code in found.items() if (code or most) != "en"}


@lru_cache(maxsize=1 << 14)
def _of_document(text: str) -> str | None:
    words = Counter(_TOKEN.findall(text[:_LETTERS].lower()))
    if sum(map(words.get, EN.words, repeat(0))) >= _PLAINLY * words.total() > 0:
        return "en"
    script = _script(text)
    rows = _ROWS_OF.get(script, [])
    latin = script == "LATIN"
    default = None if latin else rows[0].code if rows else "und"
    if script in ("KANA", "CJK", "HANGUL"):
        return default
    words = Counter(_TOKEN.findall(text.lower()))
    shares = {row.code: sum(map(words.get, row.words, repeat(0))) / max(1, words.total()) for row in rows}
    english = shares.get("en", 0.0)
    if latin and english >= _PROSE and english == max(shares.values()):
        return "en"
    if sum(map(str.isalpha, text)) < _LEAST:
        return default
    code, sure = _identifier().classify(text[:_LETTERS])
    listed = shares.get(code, 0.0) >= _FEW if latin else True
    foreign = code not in LANGUAGES and sum(words[word] for word in _ENGLISH) < _FEW / 2 * words.total()
    if sure >= _SURE and (listed or foreign):
        return str(code)
    best = max(shares, key=lambda one: shares[one], default=None)  # the library's second choice may be a near relative
    return best if best and shares[best] >= 2 * _PROSE and best != "en" else default


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415  it takes a second to load

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([code for code in _LIKELY if code in identifier.labels])
    return identifier


def stems(words: Iterable[str], language: Language) -> list[str]:
    """Return the words of a language without their endings; as they are where nobody knows how."""
    return [_stem(word, language.stemmer) for word in words] if language.stemmer else [*words]


@lru_cache(maxsize=1 << 16)
def _stem(word: str, stemmer: str) -> str:
    return str(_stemmer(stemmer).stemWord(word))


@cache
def _stemmer(name: str) -> Any:
    import snowballstemmer  # noqa: PLC0415  English needs none

    return snowballstemmer.stemmer(name)
