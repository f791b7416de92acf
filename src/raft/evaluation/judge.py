"""What no string measure can tell: a model compares the answers of two systems by a rubric. It decides no verdict.

It is shown the pairs that experts are shown, in both orders: a model that judges often prefers what it reads first
(Zheng et al.: Judging LLM-as-a-judge. NeurIPS 2023, arXiv 2306.05685), and such a choice does not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from raft.evaluation.human import Pair, outcome
from raft.evaluation.metrics import kappa, sign_test, win_rate
from raft.prompts import Prompt
from raft.protocols import Completion, Generator, Request
from raft.text.replies import json_readings

TOKENS_A_POINT, TOKENS_BESIDE = 24, 40
"""Of a reply, for each question of the rubric, and for what else is in it."""
_YES_NO = {"type": "string", "enum": ["yes", "no"]}
Choice = Literal["a", "b", "tie"]


def judged(
    pairs: Sequence[Pair],
    model: Generator,
    *,
    prompt: Prompt,
    rubric: Sequence[str],
    seed: int,
    ratings: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Ask a model about each pair, twice, and return what it says, as `benchmark.json` holds it.

    `yes` has for each question of the rubric the share of its yes (0 to 1) for contender and baseline, over all usable
    replies. A pair counts as chosen (`wins`, `losses`, `ties`, from the contender's side) where both orders agree;
    `disagreed` is the number of those where they do not, `unusable` of those that got no usable reply to one. `people`
    says how far it chooses as they do, on pairs that both chose in: share and Cohen's kappa; None without such.

    Args:
        pairs: those of a blind page, drawn by the `seed` (`human.pairs`).
        model: the judge; what it said before is taken from its ledger.
        prompt: `prompts/preference.md`.
        rubric: yes/no questions.
        seed: says which side of a pair is the tuned system's.
        ratings: what people chose, by pair id (`human.CHOICES`).
    """
    requests = [request(pair, prompt, rubric, swapped=swapped) for pair in pairs for swapped in (False, True)]
    replies = list(model.complete(requests)) if requests else []
    yes = {side: [0] * len(rubric) for side in ("contender", "baseline")}
    usable, unusable, disagreed = 0, 0, 0
    chosen: dict[str, str] = {}
    for pair, both in zip(pairs, zip(replies[::2], replies[1::2], strict=True), strict=True):
        choices: list[str] = []
        for swapped, reply in zip((False, True), both, strict=True):
            if not isinstance(reply, Completion):
                continue
            points, better = read_comparison(reply.text, len(rubric))
            usable += 1
            for number, (first, second) in enumerate(points):
                a, b = (second, first) if swapped else (first, second)
                ours, theirs = (a, b) if outcome("a", pair, seed) == "wins" else (b, a)
                yes["contender"][number] += ours
                yes["baseline"][number] += theirs
            choices.append(outcome({"a": "b", "b": "a"}.get(better, better) if swapped else better, pair, seed))
        if len(choices) < 2:
            unusable += 1
        elif choices[0] != choices[1]:
            disagreed += 1
        else:
            chosen[pair.pair_id] = choices[0]
    counts = {name: sum(one == name for one in chosen.values()) for name in ("wins", "losses", "ties")}
    preferred = win_rate(counts["wins"], counts["losses"], 0)
    shares = {side: [count / usable if usable else None for count in own] for side, own in yes.items()}
    return {
        **{"pairs": len(pairs), "unusable": unusable, "disagreed": disagreed, **counts},
        "preferred": preferred and asdict(preferred),
        "sign_test": sign_test(counts["wins"], counts["losses"]),
        "yes": [
            {"question": point, "contender": shares["contender"][number], "baseline": shares["baseline"][number]}
            for number, point in enumerate(rubric)
        ],
        "people": _with_people(pairs, chosen, ratings or {}, seed),
    }


def request(pair: Pair, prompt: Prompt, rubric: Sequence[str], *, swapped: bool) -> Request:
    """Return what a judge is asked about a pair; `swapped`: with its `b` as the answer A."""
    a, b = (pair.b, pair.a) if swapped else (pair.a, pair.b)
    points = "\n".join(f"{number}. {point}" for number, point in enumerate(rubric, 1))
    names = [str(number) for number in range(1, len(rubric) + 1)]
    both = _object({"A": _YES_NO, "B": _YES_NO})
    better = {"type": "string", "enum": ["A", "B", "neither"]}
    return Request(
        prompt.render(passage=pair.golden, question=pair.question, a=a or "-", b=b or "-", rubric=points),
        max_tokens=TOKENS_A_POINT * len(rubric) + TOKENS_BESIDE,
        schema=_object({**dict.fromkeys(names, both), "better": better}),
        check=lambda reply: read_comparison(reply, len(rubric)),
    )


def read_comparison(reply: str, count: int) -> tuple[list[tuple[bool, bool]], Choice]:
    """Return for each of so many questions whether it is yes for A and for B, and which is better.

    Raises:
        ValueError: one is missing, or nothing of the kind.
    """
    words = {"yes": True, "true": True, "no": False, "false": False}
    choices: dict[str, Choice] = {"a": "a", "b": "b", "neither": "tie", "tie": "tie", "both": "tie"}
    for tree in json_readings(reply):
        if not isinstance(tree, dict):
            continue
        points = [tree.get(str(number)) for number in range(1, count + 1)]
        better = choices.get(str(tree.get("better")).strip().lower())
        found = [
            tuple(words.get(str(one.get(side)).strip().lower()) for side in ("A", "B")) if isinstance(one, dict) else ()
            for one in points
        ]
        if better and all(len(one) == 2 and None not in one for one in found):
            return [(bool(one[0]), bool(one[1])) for one in found], better
    raise ValueError('the reply is not {"1": {"A": "yes" or "no", "B": ...}, ..., "better": "A", "B" or "neither"}')


def _with_people(
    pairs: Sequence[Pair], chosen: Mapping[str, str], ratings: Mapping[str, str], seed: int
) -> dict[str, Any] | None:
    known = {pair.pair_id: pair for pair in pairs}
    both = [name for name in known if name in chosen and name in ratings]
    # to a judge, both wrong is neither
    theirs = ["ties" if (said := outcome(ratings[name], known[name], seed)) == "both_wrong" else said for name in both]
    found = kappa(list(zip([chosen[name] for name in both], theirs, strict=True)))
    return found and {"pairs": len(both), "share": found[0], "kappa": found[1]}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    needed = {"required": [*properties], "additionalProperties": False}
    return {"type": "object", "properties": dict(properties), **needed}
