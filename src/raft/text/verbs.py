"""Verbs of English with their forms: what a question by rule needs to know of a sentence.

A table and no tagger: the taggers whose weights come in a package are large, or wrong too often about exactly the words
that are nouns as well ("costs", "leave"); of a sentence whose verb is not here, nothing is asked.
"""

_REGULAR = """
    accept achieve add address adopt allow announce answer appear apply appoint approve arrive ask assign
    attend award base borrow call carry cause celebrate change charge check claim clean collect complete
    conduct conquer consist contain continue control convert cost cover create credit decide declare decline
    defeat delete deliver demand depart deposit describe design destroy develop die discover display earn
    elect employ enable end enter escape establish evolve expand expire explore export extend fail finish
    follow force form found gain generate govern grant handle happen help hire host house identify implement
    import improve include increase inform inhabit install introduce invade invent invite involve issue join
    kill label lack land last launch learn limit listen live locate lock maintain manage mark marry measure
    move need number obtain occupy occur offer open operate order organize organise own pass pay perform
    permit play possess prepare present process produce promote propose protect provide publish purchase raise
    rank reach receive recognize recognise recommend record reduce refund register reject release remain
    remove rename replace report represent request require reside resign result retain retire return rule
    score serve settle share sign span spend start starve stay store study submit succeed suffer supply
    support surrender train transfer travel treat turn use visit vote wait weigh welcome work yield
"""
_IRREGULAR = """
    become/became/become begin/began/begun break/broke/broken bring/brought/brought build/built/built buy/bought/bought
    choose/chose/chosen come/came/come draw/drew/drawn drive/drove/driven fall/fell/fallen feel/felt/felt
    fight/fought/fought find/found/found fly/flew/flown get/got/got give/gave/given go/went/gone grow/grew/grown
    hold/held/held keep/kept/kept know/knew/known lay/laid/laid lead/led/led leave/left/left lend/lent/lent lie/lay/lain
    lose/lost/lost make/made/made mean/meant/meant meet/met/met pay/paid/paid rise/rose/risen run/ran/run see/saw/seen
    sell/sold/sold send/sent/sent set/set/set show/showed/shown sit/sat/sat sleep/slept/slept speak/spoke/spoken
    spend/spent/spent stand/stood/stood take/took/taken teach/taught/taught tell/told/told think/thought/thought
    wear/wore/worn win/won/won withdraw/withdrew/withdrawn write/wrote/written
"""
AUXILIARIES = frozenset(
    [
        "is",
        "are",
        "was",
        "were",
        "has",
        "have",
        "had",
        "can",
        "could",
        "may",
        "might",
        "must",
        "shall",
        "should",
        "will",
        "would",
    ]
)
"""Verbs that go before the subject as they are."""
HAVE = {"has": ("does", "have"), "have": ("do", "have"), "had": ("did", "have")}
"""Auxiliaries that are verbs of their own where no participle follows, with what asks for them."""


def _ending(base: str, ending: str) -> str:
    if ending == "s":
        if base.endswith(("s", "sh", "ch", "x", "z", "o")):
            return base + "es"
        return base[:-1] + "ies" if base[-1] == "y" and base[-2] not in "aeiou" else base + "s"
    if base.endswith("e"):
        return base + "d"
    if base[-1] == "y" and base[-2] not in "aeiou":
        return base[:-1] + "ied"
    return base + base[-1] * (base in _DOUBLED) + "ed"


_DOUBLED = ("permit", "submit", "refer", "occur", "transfer", "control", "span", "label", "travel", "cancel")


def _forms() -> tuple[dict[str, tuple[str, str]], frozenset[str]]:
    finite: dict[str, tuple[str, str]] = {}
    participles = {"been", "done", "had", "cut", "put", "let"}
    irregular = [line.split("/") for line in _IRREGULAR.split()]
    known = {base for base, _, _ in irregular}
    regular = [[one, _ending(one, "ed"), _ending(one, "ed")] for one in _REGULAR.split() if one not in known]
    for base, past, participle in irregular + regular:
        finite.setdefault(past, ("did", base))
        finite[_ending(base, "s")] = ("does", base)
        finite.setdefault(base, ("do", base))
        participles.add(participle)
    return finite, frozenset(participles)


FORMS, PARTICIPLES = _forms()
"""Each form of a verb with the auxiliary that asks for it and its base; and the forms that follow "has" or "is"."""
