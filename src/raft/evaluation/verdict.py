"""Whether the tuned model is worth shipping: stated rules over a benchmark's figures, and what it all costs.

Each rule finds for "ship", "investigate" or "keep plain RAG", in a sentence with its figures; the least of the three
is the decision.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from raft.evaluation.form import Parts, parts
from raft.evaluation.metrics import TOO_FEW, Interval
from raft.evaluation.scores import Table, Unit, difference, mean, shared_means, stronger
from raft.evaluation.systems import GOLDEN, ORIGINAL, OTHER, TITLES, TUNED, UNTUNED, title
from raft.rag.relevant import Sources
from raft.report.measures import MEASURES

Decision = Literal["ship", "investigate", "keep plain RAG", "not tuned yet"]

SMALL_DROP = 0.03
"""General capability may fall by less than this on each set."""
LARGE_DROP = 0.05
"""Up to this much it is worth a look; with more, the tuned model is not shipped."""
LOW_F1 = 0.7
"""A score below this with the golden chunk given, or over the questions whose chunk was retrieved (a miss counted as
0), says that the model does not know how to answer."""
MANY_FALSE_ANSWERS = 0.2
"""More answers than this to questions that nothing shown answers say that it does not know when to say no."""

_POWER = (1.96 + 0.84) / 1.96  # standard errors of a gain that is told in 80 percent of cases, by half of an interval

_ORDER: tuple[Decision, ...] = ("keep plain RAG", "investigate", "ship")


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on. All figures are shares from 0 to 1, None where they were not measured.

    Attributes:
        run: the run directory as typed, for the commands in the advice.
        question_set: name of the primary set.
        by_people: whether people wrote its questions.
        measure: "f1", or "accuracy" for a closed set of labels.
        system: the tuned system.
        baseline: the best untuned system with retrieval.
        gain: system minus baseline on the same questions.
        capability: for each set `{"title", "change": Interval | None}` (after minus before, higher is better).
        headroom: `{"golden", "retrieved", "missed"}` of the untuned model: its score with the golden chunk given and
            with retrieval, and the share of questions whose relevant chunk was not retrieved.
        false_answers: the baseline's share of answers to questions that nothing shown answers.
        k: chunks retrieved for a question.
        costs: sentences on what tuning costs (`economics`).
        contained: how much more often the system's replies hold a reference answer, wherever in them, than the
            baseline's.
        refused: how much more often the system refuses what can be answered; likewise.
        stronger: an untuned system with retrieval that scored higher on these questions than the baseline, which was
            chosen on others, and system minus it.
        apart: how what was trained on differs from what is asked for (`lengths.apart`); None: it doesn't.
        parts: what of the gain is form, and what substance; None where nothing tells.
        resampled: what the intervals resample.
        documents: how many the questions are about; 0 or None: not known.
        more_rows: the option of `raft build` by which the run asks for more questions.
    """

    run: str
    question_set: str
    by_people: bool
    measure: Literal["f1", "accuracy"]
    system: str | None
    baseline: str | None
    gain: Interval | None
    capability: Mapping[str, Mapping[str, Any]] | None
    headroom: Mapping[str, float | None] | None
    false_answers: float | None
    k: int
    costs: Sequence[str] = ()
    contained: Interval | None = None
    refused: Interval | None = None
    stronger: tuple[str, Interval] | None = None
    apart: str | None = None
    parts: Parts | None = None
    resampled: Unit = "documents"
    documents: int | None = None
    more_rows: str = "--questions-per-chunk 3"


def evidence(
    scores: Mapping[tuple[str, str], Table],
    sources: Sources,
    *,
    question_set: str,
    baseline: str | None,
    measure: Literal["f1", "accuracy"],
    missed: float | None,
    cut: Table | None = None,
    **rest: Any,
) -> Evidence:
    """Gather a verdict's evidence from the scores by system and question set; `rest` is taken over as it is.

    `cut` has the scores of the baseline's replies on that set, cut to their answers by rule (`form.cut`).
    """
    ours, theirs, golden = (scores.get((str(name), question_set), {}) for name in (TUNED, baseline, GOLDEN))
    other = scores.get((OTHER, question_set), {})
    untuned = {name: scores.get((name, question_set), {}) for name in UNTUNED}
    with_golden, retrieved = shared_means(golden, theirs, measure)
    if retrieved is None:
        retrieved = mean(theirs, measure)
    return Evidence(
        question_set=question_set,
        measure=measure,
        system=TUNED if ours else None,
        baseline=baseline,
        gain=difference(ours, theirs, measure, sources),
        headroom={"golden": with_golden, "retrieved": retrieved, "missed": missed},
        false_answers=mean(theirs, "false_answers"),
        contained=difference(ours, theirs, "contains", sources),
        refused=difference(ours, theirs, "false_refusals", sources),
        stronger=stronger(untuned, ours, theirs, measure, sources),
        parts=parts(ours, theirs, other=other, cut=cut or {}, measure=measure, sources=sources),
        **rest,
    )


def dispensable(name: str, *, tuned: bool) -> bool:
    """Tell whether the verdict stands without a system, and nobody asked for it by name.

    Before there is a `tuned` model, the verdict is whether one is worth it, which the golden system tells.
    """
    return name in TITLES and name not in (TUNED, *UNTUNED, OTHER, ORIGINAL, *(() if tuned else (GOLDEN,)))


@dataclass(frozen=True)
class _Finding:
    """What one rule says: the most that may be decided, why, and what to do about it."""

    decision: Decision
    reason: str
    advice: str = ""


def decide(evidence: Evidence, *, min_gain: float) -> dict[str, Any]:
    """Return the verdict, as `benchmark.json` holds it.

    - `ship`: the interval of the gain is above zero, the gain is at least `min_gain`, general capability falls by less
      than 3 points on each set (the mean of the set's changes, not the end of its interval, is what counts), and the
      questions were written by people. About fewer than 20 documents it holds for these documents alone.
    - `investigate`: the gain is above zero but smaller, or is not above zero against a plain RAG that turned out better
      than the one chosen beforehand; it is form alone (`form_alone`); capability falls by 3 to 5 points, or was not
      measured; there are too few questions, or too few about few documents to rule the gain out; or all questions were
      written by a model.
    - `keep plain RAG`: everything else.
    - `not tuned yet`: no tuned system was measured. Then the advice is the retriever first where misses are more than
      half of what is lost; to try tuning where the score is low with the golden chunk given, or over the questions
      whose chunk was found, or where false answers are many; and else that little is left to gain.

    `min_gain` (0 to 1) is the least gain at which tuning pays.
    """
    known, evidence = evidence, _with_titles(evidence)
    if evidence.system is None:
        findings = [_untuned(evidence)]
        decision: Decision = "not tuned yet"
    else:
        findings = [_gain(evidence, min_gain), *_form(evidence), *_stronger(evidence)]
        findings += [*_capability(evidence), *_questions(evidence, min_gain)]
        decision = min((finding.decision for finding in findings), key=_ORDER.index)
    told = [f"To know: {evidence.apart}"] if evidence.apart else []
    reasons = [*(finding.reason for finding in findings), *_cautions(evidence), *told]
    if decision == "keep plain RAG":
        reasons += ["Keep plain RAG: on these figures the tuned model does not pay.", *evidence.costs]
    these = "" if evidence.resampled == "documents" else ", for these documents"
    shipped = f'Ship the tuned model{these}: raft ask {evidence.run} "a question of yours"'
    advice = next((one.advice for one in findings if one.decision == decision and one.advice), shipped)
    return {
        "decision": decision,
        "reasons": reasons,
        "measure": evidence.measure,
        "question_set": evidence.question_set,
        "contender": known.system,
        "baseline": known.baseline,
        "gain": asdict(evidence.gain) if evidence.gain else None,
        "form": asdict(evidence.parts.form) if evidence.parts else None,
        "substance": asdict(evidence.parts.substance) if evidence.parts else None,
        "form_by": evidence.parts.by if evidence.parts else None,
        "resampled": evidence.resampled,
        "documents": evidence.documents,
        "headroom": dict(evidence.headroom) if evidence.headroom else None,
        "advice": advice,
    }


def _with_titles(evidence: Evidence) -> Evidence:
    """Return the evidence with its systems called as the report's tables call them."""
    system, baseline = (name and _named(name) for name in (evidence.system, evidence.baseline))
    better = evidence.stronger and (_named(evidence.stronger[0]), evidence.stronger[1])
    return replace(evidence, system=system, baseline=baseline, stronger=better)


def _named(system: str) -> str:
    return f"“{title(system)}”"


def _gain(evidence: Evidence, min_gain: float) -> _Finding:
    gain, run = evidence.gain, evidence.run
    if gain is None:
        reason = f"{evidence.system} and plain RAG have no question in common, so that no gain can be told."
        return _Finding("investigate", reason, f"Measure both on the same questions: raft bench {run}")
    measured = (
        f"{_measure(evidence)} of {evidence.system} is {_points(gain.value)} points against "
        f"{evidence.baseline} on the same {gain.questions} questions of {evidence.question_set} "
        f"(95 percent interval {_points(gain.low)} to {_points(gain.high)})"
    )
    wanted = f"the {_plain(min_gain)} points at which tuning pays"
    if _above_zero(gain):
        if _least(gain.value, min_gain):
            return _Finding("ship", f"{measured}: the interval is above zero, and the gain reaches {wanted}.")
        reason = f"{measured}: the interval is above zero, but the gain is under {wanted}."
        advice = f"Train on more rows: raft build CORPUS --out {run} {evidence.more_rows}, then raft train {run}"
        return _Finding("investigate", reason, _a_format(run) if form_alone(evidence) else advice)
    few = gain.groups < TOO_FEW or evidence.resampled != "documents"
    if few and _least(gain.high, min_gain):
        reason = f"{measured}: the interval holds zero, and {wanted} too, on few documents."
        return _Finding("investigate", reason, _more_questions(gain, min_gain, run))
    return _Finding("keep plain RAG", f"{measured}: the interval is not above zero.", _instead(evidence))


def form_alone(evidence: Evidence) -> bool:
    """Tell whether all that was gained is form: no substance above zero, and no more replies that hold the answer."""
    told = evidence.parts is not None and not _above_zero(evidence.parts.substance)
    return told and _above_zero(evidence.gain) and not _above_zero(evidence.contained)


def _form(evidence: Evidence) -> Iterator[_Finding]:
    """Yield what of a gain is form, and what substance; form alone is not shipped."""
    if evidence.parts is None or not _above_zero(evidence.gain):
        return
    by = {
        "other": "what an adapter of another corpus gains too",
        "cut": f"what the replies of {evidence.baseline} gain where they are cut to their answers by rule",
    }[evidence.parts.by]
    form, substance = (_with_interval(part) for part in (evidence.parts.form, evidence.parts.substance))
    least, most = ("at least ", "at most ") if evidence.parts.by == "cut" else ("", "")  # a rule finds not all form
    measured = f"Of the gain {least}{form} are form, {by}, and {most}{substance} are substance"
    if form_alone(evidence):
        alone = "form alone, since no more replies hold the answer, either. An answer format would buy this"
        yield _Finding("investigate", f"{measured}: {alone}.", _a_format(evidence.run))
    else:
        yield _Finding("ship", f"{measured}.")


def _a_format(run: str) -> str:
    return (
        "An answer format would buy this without tuning, by a prompt of your own, a rule that cuts the replies, or "
        f"answer_style.format: raft bench {run} --set answer_style.format='the answer alone, in a few words'"
    )


def _cautions(evidence: Evidence) -> Iterator[str]:
    """Yield what a gain does not tell: it changes no decision, and whoever decides should know it."""
    if evidence.system is None or evidence.gain is None or not _above_zero(evidence.gain):
        return
    against = f"To know: against {evidence.baseline},"
    held = evidence.contained
    if evidence.measure == "f1" and held and not (_above_zero(held) or form_alone(evidence)):
        what = "more of its replies hold a reference somewhere: what is gained is mostly an answer that stands alone"
        yield f"{against} {_with_interval(held)} {what}."
    if evidence.refused and _above_zero(evidence.refused):
        yield f"{against} {_with_interval(evidence.refused)} more of what can be answered is refused."


def _stronger(evidence: Evidence) -> Iterator[_Finding]:
    """Yield what the gain is over a plain RAG that turned out better than the one chosen, if there is one."""
    if evidence.stronger is None or not _above_zero(evidence.gain):
        return
    name, gain = evidence.stronger
    measured = (
        f"{name} did better on these questions than {evidence.baseline}, which was chosen beforehand; "
        f"against {name} the gain is {_with_interval(gain)}"
    )
    if _above_zero(gain):
        yield _Finding("ship", f"{measured}.")
    elif gain.high < 0:
        yield _Finding("keep plain RAG", f"{measured}: it is a loss.", _instead(evidence))
    else:
        reason = f"{measured}: the interval is not above zero, so that {name} may be as good."
        yield _Finding("investigate", reason, _instead(evidence))


def _with_interval(change: Interval) -> str:
    return f"{_points(change.value)} points (95 percent interval {_points(change.low)} to {_points(change.high)})"


def _capability(evidence: Evidence) -> Iterator[_Finding]:
    changes = {name: one for name, one in (evidence.capability or {}).items() if one["change"] is not None}
    if not changes:
        reason = "General capability was not measured; without it the most that can be said is to investigate."
        advice = f"Measure what it cost elsewhere: raft bench {evidence.run} --set benchmark.capability=yours.jsonl"
        yield _Finding("investigate", reason, advice)
    own = "--set training.rehearsal_replies=own --set training.rehearsal=0.2 --set training.learning_rate=2e-4"
    gentler = f"Tune more gently, and have it rehearse its own replies: raft train {evidence.run} {own}"
    for name, one in changes.items():
        change: Interval = one["change"]
        measured = (
            f"General capability on {one.get('title') or name} changes by {_points(change.value)} points, "
            f"the mean over its {change.questions} questions"
        )
        if not _least(-change.value, SMALL_DROP):
            yield _Finding("ship", f"{measured}; a fall of less than {_plain(SMALL_DROP)} points is accepted.")
        elif _least(LARGE_DROP, -change.value):
            between = f"a fall of {_plain(SMALL_DROP)} to {_plain(LARGE_DROP)} points is to be looked into"
            yield _Finding("investigate", f"{measured}; {between}.", gentler)
        else:
            reason = f"{measured}; a fall of more than {_plain(LARGE_DROP)} points is not accepted."
            yield _Finding("keep plain RAG", reason, gentler)


def _questions(evidence: Evidence, min_gain: float) -> Iterator[_Finding]:
    gain, unit = evidence.gain, evidence.resampled
    if gain and gain.groups < TOO_FEW:
        count = f"{gain.groups} {unit if gain.groups != 1 else unit[:-1]}"
        reason = f"There are questions about {count}" if unit != "questions" else f"There are {count}"
        advice = _more_questions(gain, min_gain, evidence.run)
        yield _Finding("investigate", f"{reason}: under {TOO_FEW} are too few to tell.", advice)
    elif gain and unit != "documents":
        count = f"{evidence.documents or 'no known'} document{'s' * (evidence.documents != 1)}"
        about = f"The questions are about {count}"
        why = f"so {gain.groups} {unit} were resampled, not documents"
        holds = "the intervals hold for new questions about these documents, and say nothing of others"
        yield _Finding("ship", f"{about}, {why}: {holds}.")
    if not evidence.by_people:
        written = f"All questions of {evidence.question_set} were written by a model"
        advice = f"Write questions of your own, 100 or more: {_measure_with(evidence.run)}"
        yield _Finding("investigate", f"{written}, which is reason to investigate at most.", advice)


def _untuned(evidence: Evidence) -> _Finding:
    bottleneck, advice = _bottleneck(evidence)
    return _Finding("not tuned yet", f"No tuned model was measured. {_headroom(evidence)} {bottleneck}".strip(), advice)


def _headroom(evidence: Evidence) -> str:
    known = evidence.headroom or {}
    retrieved, golden, missed = (known.get(name) for name in ("retrieved", "golden", "missed"))
    parts = [
        retrieved is not None and f"{evidence.baseline} reaches {_measure(evidence)} {_plain(retrieved)}",
        golden is not None and f"{_plain(golden)} with the golden chunk given",
        missed is not None
        and f"the retriever misses what bears the answer of {_plain(missed)} percent of the questions",
        evidence.false_answers is not None
        and f"{_plain(evidence.false_answers)} percent of the questions that nothing shown answers are answered",
    ]
    said = ", ".join(part for part in parts if part)
    return f"On {evidence.question_set}, {said}." if said else "Its headroom was not measured."


def _mostly_missed(evidence: Evidence) -> bool:
    """Tell whether the retriever's misses are more than half of what is lost; a miss costs a whole question."""
    known = evidence.headroom or {}
    retrieved, missed = known.get("retrieved"), known.get("missed")
    return retrieved is not None and missed is not None and not _least(1 - retrieved, 2 * missed)


def _bottleneck(evidence: Evidence) -> tuple[str, str]:
    known, run = evidence.headroom or {}, evidence.run
    retrieved, golden, missed = (known.get(name) for name in ("retrieved", "golden", "missed"))
    if retrieved is not None and _mostly_missed(evidence):
        lost = f"Of the {_plain(1 - retrieved)} points that are lost, its misses are more than the rest"
        return (
            f"{lost}: retriever first.",
            f"Better the retriever first: raft build CORPUS --out {run} --set index.k={evidence.k + 3}",
        )
    bold = evidence.false_answers is not None and evidence.false_answers > MANY_FALSE_ANSWERS
    causes = [
        golden is not None and golden < LOW_F1 and "what it makes of the right document alone",
        retrieved is not None
        and missed is not None
        and retrieved < LOW_F1 * (1 - missed)
        and "what it makes of the documents that were found",
        bold and "that it answers what nothing shown answers",
    ]
    if any(causes):
        said = f"The bottleneck is {' and '.join(cause for cause in causes if cause)}: tuning is worth trying."
        return said, f"Tuning is worth trying: raft train {run}"
    if golden is None:
        return "", f"Tune, and measure again: raft train {run}, then raft bench {run}"
    return "Little is left for tuning to gain.", f'Plain RAG answers well already: raft ask {run} "a question of yours"'


def _instead(evidence: Evidence) -> str:
    if _mostly_missed(evidence):
        return _bottleneck(evidence)[1]
    return f"More training rows are the next thing to try: raft build CORPUS --out {evidence.run} {evidence.more_rows}"


def more_questions(gain: Interval, min_gain: float) -> int:
    """Return how many more questions would tell the gain (or one of `min_gain`, where it is smaller) from none.

    Told in four of five cases, that is, if questions differ as they do now: a gain of 1.96 + 0.84 standard errors has
    a 95 percent interval above zero with a power of 80 percent (Cohen: Statistical power analysis for the behavioral
    sciences. 2nd edition, 1988). A standard error falls with the root of the number of questions. There are never fewer
    than `TOO_FEW` in all.
    """
    half, wanted = _POWER * (gain.high - gain.low) / 2, max(gain.value, min_gain, 0.01)
    needed = math.floor(gain.questions * (half / wanted) ** 2) + 1
    return max(1, needed - gain.questions, TOO_FEW - gain.questions)


def _more_questions(gain: Interval, min_gain: float, run: str) -> str:
    more, told = more_questions(gain, min_gain), max(gain.value, min_gain, 0.01)
    what = f"about {more:,} more would tell a gain of {_plain(told)} points from none in four of five cases"
    return f"Write more questions about these documents, {what}, if they differ as these do: {_measure_with(run)}"


def _measure_with(run: str) -> str:
    return f"raft build CORPUS --out {run} --eval questions.jsonl, then raft bench {run}"


def _above_zero(gain: Interval | None) -> bool:
    return gain is not None and gain.low > 0


def _least(value: float, bound: float) -> bool:
    """Tell whether a value reaches a bound; 0.41 - 0.38 reaches 0.03, whatever its last binary digit."""
    return round(value - bound, 9) >= 0


def _measure(evidence: Evidence) -> str:
    found = MEASURES[evidence.measure].title
    return found[0].upper() + found[1:]


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _plain(share: float) -> str:
    return f"{100 * share:.1f}"


def break_even(training_cost: float, saving_per_question: float) -> int | None:
    """Return after how many questions a saving (in US dollars) has paid for the training; None if never."""
    if training_cost <= 0:
        return 0 if saving_per_question >= 0 else None
    return math.ceil(round(training_cost / saving_per_question, 6)) if saving_per_question > 0 else None


def economics(
    systems: Mapping[str, Mapping[str, Any]],
    *,
    system: str | None,
    baseline: str | None,
    larger: Sequence[str],
    training_seconds: float | None,
    build_cost: float | None,
) -> dict[str, Any]:
    """Return what tuning costs against what it saves, as `benchmark.json` holds it; this machine's time is free.

    `systems` have by name `{"cost_per_thousand", "questions_per_second", "tokens"}` as in `benchmark.json`; `system` is
    the tuned one. Of those of `larger` models the cheapest that costs something is what tuning has to beat. Where
    `build_cost` (of the rows, in US dollars) is unknown, so is the break-even.
    """
    result = {"training_seconds": training_seconds, "build_cost": build_cost, "break_even_questions": None}
    if system is None or training_seconds is None:
        return {**result, "sentences": []}
    sentences = [
        _spent(training_seconds, build_cost),
        *(_serving(name, systems[name]) for name in (system, baseline) if name is not None and name in systems),
    ]
    known = {name: cost for name in larger if (cost := systems[name]["cost_per_thousand"])}
    if not known:
        return {**result, "sentences": [*sentences, "No larger model with a known price was measured."]}
    cheapest = min(known, key=lambda name: (known[name], name))
    against = f"Against {_named(cheapest)} at {known[cheapest]:.2f} dollars per thousand questions, "
    ours = systems[system]["cost_per_thousand"]
    if ours is None or build_cost is None:
        return {**result, "sentences": [*sentences, f"{against}it is unknown when tuning has paid for itself."]}
    count = break_even(build_cost, (known[cheapest] - ours) / 1000)
    paid = "tuning never pays for itself" if count is None else f"tuning has paid for itself after {count:,} questions"
    return {**result, "sentences": [*sentences, f"{against}{paid}."], "break_even_questions": count}


def _spent(training_seconds: float, build_cost: float | None) -> str:
    trained, free = f"Training took {training_seconds:,.0f} seconds", "with this machine's time counted as free"
    if build_cost is None:
        return f"{trained}, 0.00 dollars {free}; what building its rows cost is unknown."
    return f"{trained}, and building its rows cost {build_cost:.2f} dollars: {build_cost:.2f} dollars {free}."


def _serving(name: str, system: Mapping[str, Any]) -> str:
    tokens, speed, cost = system["tokens"]["input"], system["questions_per_second"], system["cost_per_thousand"]
    parts = [
        tokens is not None and f"reads {tokens:,.0f} tokens a question",
        speed is not None and f"answers {speed:.2f} questions a second",
        cost is not None and f"costs {cost:.2f} dollars per thousand questions",
    ]
    said = ", ".join(part for part in parts if part)
    return f"{_named(name)} {said}." if said else f"What {_named(name)} costs to serve was not measured."
