"""Passages to ask about, of which there are as many as one likes; with nothing but the standard library."""

import random

_PARTS = ("pump", "valve", "lift", "boiler", "press", "filter", "turbine", "mixer", "loom", "crane", "kiln", "winch")
_PLACES = ("north hall", "south yard", "workshop", "cellar", "tower", "harbour", "annex", "depot", "mill", "quarry")


def passage(number: int) -> str:
    """Return a passage of about 150 words that states facts of its own; the same for the same number."""
    draw = random.Random(number)
    thing = f"{draw.choice(_PARTS)} {number}"
    where = draw.choice(_PLACES)
    facts = [
        f"The {thing} in the {where} weighs {draw.randrange(10, 999)} kg when it is empty and has been cleaned",
        f"It is inspected every {draw.randrange(2, 30)} weeks by the crew of the {draw.choice(_PLACES)}",
        f"Its housing was made on {draw.randrange(1, 28)} March {draw.randrange(1950, 2020)} and bears the code "
        f"K-{number:06d}",
        f"A spare part of the {thing} costs {draw.randrange(20, 900)} euros and comes in {draw.randrange(2, 20)} days",
        f"The motor draws {draw.randrange(100, 5000)} W under full load and rests for {draw.randrange(5, 90)} minutes",
        f"Complaints about the {thing} are answered by desk {draw.randrange(1, 99)} in the {where}",
        f"Its filter holds {draw.randrange(1, 50)} litres of oil and is changed after {draw.randrange(100, 900)} hours",
        f"The noise beside it reaches {draw.randrange(50, 99)} dB so that ear protection is worn near the {thing}",
    ]
    return ". ".join(facts) + "."
