"""Words by which a language says what a figure is: a bound, an end of a range, an amount for each of something.

A language without a row here is judged by what needs no words of it.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Grammar:
    """What is known of how a language speaks of figures. All are patterns; those that end with `$` stand before one.

    Attributes:
        limits: what stands before a figure and belongs to it: "up to".
        compared: what makes a figure the bound of something: "more than".
        limiting: before `compared`, what makes that a condition: "flights of more than 8 hours".
        opens, joins: what stands before and within a range of two figures.
        lower, upper: words of a question for one end of a range.
        each: what stands behind a figure and says for what it is: "per full month".
        share: what stands behind a percentage and says of what it is.
        clause: what begins a part of a sentence that is a condition, or tells more of a thing.
        breaks: what ends such a part.
        asks: what a question begins with, by the type of answer that it asks for.
        counted: words for figures without a digit.
        light: words that say nothing of what a sentence is about: prepositions, bounds, what a question asks for.
    """

    limits: re.Pattern[str]
    compared: re.Pattern[str]
    limiting: re.Pattern[str]
    opens: re.Pattern[str]
    joins: re.Pattern[str]
    lower: re.Pattern[str]
    upper: re.Pattern[str]
    each: re.Pattern[str]
    share: re.Pattern[str]
    clause: re.Pattern[str]
    breaks: re.Pattern[str]
    asks: dict[str, re.Pattern[str]]
    counted: re.Pattern[str]
    light: frozenset[str]


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_ONE_OF = (
    r"(?:seconds?|minutes?|hours?|days?|nights?|weeks?|months?|quarters?|years?|persons?|people|child|employees?|visits?"
    r"|projects?|units?|rooms?|pieces?|orders?|trips?|kilomet(?:re|er)s?|miles?|lit(?:re|er)s?|hectares?|households?)"
)
_STOPS = (
    r"(?=\s*(?:[.,;:)]|$)|\s(?:and|or|but|for|in|on|at|by|with|without|from|to|during|until|after|before|if|when|as|within|since"
    r"|is|are|was|were|may|must|can|will|of|while|which|who|that)\b)"
)

NEAR = (
    r"up\sto|at\s(?:least|most)|(?:no|not)\s(?:more|less|later|fewer|earlier)\sthan|about|around|approximately|roughly"
    r"|nearly|almost|over|exactly"
)
"""English bounds that belong to a figure, whatever is asked, as a pattern; so are the others here."""
RANGE = r"(?:between|from)"
"""What opens a range."""
CONDITIONS = r"if|when|whenever|once|unless|while"
EACH = r"per|each|every"

_LIGHT = _set(
    """
    within after before during per about up more less than fewer least most over under until till since between through
    into onto out off above below around approximately roughly nearly almost exactly only also not no if because while
    unless once so then such other another each every any all some both he she they them their his her its you your we
    our i have has had having get gets got being date time year month day percentage percent amount number temperature
    weight length distance long often according take takes took taken heavy high old big large wide deep thick fast tall
    hot cold expensive cost costs price
    """
)
ENGLISH = Grammar(
    limits=_words(
        rf"\b(?:{NEAR}|(?:no|not)\ssooner\sthan|an?\s(?:maximum|minimum|total)\sof|within|until|till|since|before|after)"
        r"\s(?:the\s)?$"
    ),
    compared=_words(
        r"\b(?:more|less|fewer|greater|[a-z]+er)\sthan\s(?:the\s)?$|\bexceed(?:s|ed|ing)?\s$|\b(?:above|below|under)\s$"
    ),
    limiting=_words(r"\b(?:of|for|with|without|at|after|by|is)\s$"),
    opens=_words(rf"\b{RANGE}\s(?:the\s)?$"),
    joins=_words(r"\s?(?:and|to|until|till|through|–|-|—)\s?(?:the\s)?"),
    lower=_words(
        r"\b(?:from|since|start\w*|beg[ia]n\w*|earliest|opens|after|minimum|least|lowest|shortest|smallest|first)\b"
    ),
    upper=_words(
        r"\b(?:until|till|end(?:s|ed)?|clos\w+|latest|maximum|most|by|before|up\sto|highest|longest|largest|last|to\s(?:what|which))\b"
    ),
    each=_words(
        rf"(?:\sof(?:\s[a-z-]+){{1,3}}?)?(?P<for>\s(?:per|for\s(?:each|every))(?:\s[\w-]+){{1,3}}?{_STOPS}"
        rf"|\s(?:an?|each|every)\s{_ONE_OF}\b|\seach\b)"
    ),
    share=_words(rf"\sof(?:\s[\w'’-]+){{1,5}}?{_STOPS}"),
    clause=_words(rf"\b(?:{CONDITIONS}|whose|whom|who|which|that|where|because|although|though|as\ssoon\sas)\b"),
    breaks=_words(
        r"[,;:.()]|\b(?:is|are|was|were|has|have|had|may|must|can|will|should|gets?|receives?|pays?|needs?|goes|go)\b"
    ),
    asks={
        "count": _words(r"\bhow\smany\b"),
        "amount": _words(
            r"\bhow\smuch\b|\b(?:what|which)\s(?:percentage|percent|share|proportion|amount|price|number|sum)\b"
        ),
        "length": _words(r"\bhow\s(?:long|old|far|high|tall|deep|wide|large|big|often|fast|heavy|hot|cold)\b"),
        "time": _words(r"\bwhen\b(?!\s\w+\s\w+,)|\b(?:what|which)\s(?:year|date|day|month|century|decade|time)\b"),
        "place": _words(r"^\W*where\b|\bin\s(?:what|which)\s(?:city|country|place|town|state)\b"),
        "person": _words(r"^\W*(?:who|whom|by\swhom|to\swhom)\b"),
        "reason": _words(r"^\W*why\b"),
        "manner": _words(
            r"^\W*how\s(?:is|are|was|were|do|does|did|can|could|may|must|should|will|would|has|have|had)\b"
        ),
    },
    counted=_words(
        r"\b(?:no|none|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
        r"|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundreds?|thousands?|millions?|billions?|dozens?|half|quarter"
        r"|thirds?|once|twice|thrice|both|double|several|many|few|most|all|couple|pair|single|unlimited|nothing|free|tenth|majority"
        r"|annually|daily|weekly|monthly|yearly|hourly|every|first|second|fifth|sixth)\b"
    ),
    light=_LIGHT,
)
"""English; the words of `counted` may as well be read in larger ones ("thirty-one")."""
