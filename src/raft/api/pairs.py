"""Pairs of answers from the shadow: to real questions, of production and of a candidate, for experts to choose blindly.

The page is that of `raft bench --blind` (`evaluation.human`). What the run keeps of it has no text (`pairs.json`: ids
alone), so that questions of users outlive the retention of the traffic nowhere but on the page.
"""

import json
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from raft.api.run import Built
from raft.errors import DamagedArtifact, UsageError, me, typed
from raft.evaluation import human
from raft.evaluation.metrics import sign_test, win_rate
from raft.store import artifacts, registry, traffic

PAGE, KEPT, RATINGS = "pairs.html", "pairs.json", "pairs-ratings.jsonl"


def write(
    folder: str | Path, *, version: str | None = None, count: int = 100, out: str | Path | None = None
) -> dict[str, Any]:
    """Write a page of blind pairs; return its `path`, how many `pairs` it has, of which `candidate` and `production`.

    With it: `meant`, how many replies of the time in the candidate's shadow it was to answer too (an expectation where
    the shadow is a share), `shadowed`, how many it did, and `given_up`, the difference: an error, somebody who waited
    for another answer, or more shadows than wait. All of them are of the traffic that is kept.

    A question that was asked more than once is there once. The production is the one that answered last beside the
    candidate.

    Args:
        folder: the run directory.
        version: the candidate; None: that of now, else the last that answered in the shadow.
        count: most pairs; 50 to 100 are an hour or two of an expert's time.
        out: the page; None: `pairs.html` in the run directory.

    Raises:
        UsageError: there is no run, or no such pairs.
        RaftError: traffic or registry cannot be read.
    """
    built = Built(folder)
    run, seed = built.folder, built.settings.seed
    rows = _both(run)
    wanted = _wanted(run, rows, version)
    rows = rows.filter(pl.col("candidate") == wanted)
    counts = _given_up(run, wanted)
    if rows.is_empty():
        trial = f"raft registry candidate {typed(run)} {wanted} --shadow 0.1 --by {me()} && raft serve {typed(run)}"
        hint = trial if wanted else f"raft registry list {typed(run)}   (shows what can be tried, as candidate)"
        what = "No question was answered by both production and " + (f"version {wanted}" if wanted else "a candidate")
        what += f": {counts['given_up']:,} of {counts['meant']:,} were given up." if counts["given_up"] else "."
        raise UsageError(what, where=run / traffic.FILE, hint=hint)
    production = rows["production"][-1]
    rows = rows.filter(pl.col("production") == production).unique("question", keep="last", maintain_order=True)
    asked = rows.select(pl.col("reply_id").alias("question_id"), "question").to_dicts()
    ours, theirs = (dict(rows.select("reply_id", name).iter_rows()) for name in ("candidate_says", "production_says"))
    drawn = human.in_one_form(human.pairs(asked, ours, theirs, len(asked), seed))[:count]
    title = "Which answer is better?"
    path = Path(out) if out is not None else run / PAGE
    page = human.page(drawn, title=title)
    before = _kept(run)
    same = before and (before["candidate"], before["production"], before["seed"]) == (wanted, production, seed)
    ids = [asdict(replace(pair, question="", document="", golden="", a="", b="")) for pair in drawn]
    earlier = [one for one in before["pairs"] if one not in ids] if before and same else []
    facts = {"candidate": wanted, "production": production, "seed": seed, "pairs": [*earlier, *ids]}
    artifacts.atomically(run / KEPT, json.dumps(facts, indent=1))
    artifacts.atomically(path, page)
    return {"path": str(path), "pairs": len(drawn), "candidate": wanted, "production": production, **counts}


def rated(folder: str | Path, ratings: str | Path) -> dict[str, Any]:
    """Take in what an expert chose; return what was chosen in all.

    That is `candidate`, `production`, and of the candidate the counts of `human.count`, `preferred` (the share of
    choices that it won, with its interval; None without any) and `sign_test`.

    Raises:
        UsageError: there is no page yet, or the ratings are of another one.
    """
    run = Built(folder).folder
    known = _kept(run)
    if known is None:
        hint = f"raft registry pairs {typed(run)}"
        raise UsageError("There is no page of pairs to which ratings belong.", where=run / KEPT, hint=hint)
    pairs = [human.Pair(**one) for one in known["pairs"]]
    kept = run / RATINGS
    artifacts.atomically(kept, human.added_ratings(kept, human.read_ratings(ratings, pairs)))
    counted = human.count(human.kept_ratings(kept), pairs, known["seed"])
    won = win_rate(counted["wins"], counted["losses"], 0)
    told = {"preferred": won and asdict(won), "sign_test": sign_test(counted["wins"], counted["losses"])}
    return {"candidate": known["candidate"], "production": known["production"], **counted, **told}


def _both(run: Path) -> pl.DataFrame:
    """Return the questions that both answered, in the order in which they came."""
    names = ["reply_id", "version", "answer", "outcome"]
    shadows = traffic.shadows(run).select(names).rename({"version": "candidate", "answer": "candidate_says"})
    replies = (
        traffic.replies(run).select(*names, "question").rename({"version": "production", "answer": "production_says"})
    )
    joined = replies.join(shadows, on="reply_id", how="inner", maintain_order="left")
    answered = pl.all_horizontal(pl.col("outcome", "outcome_right") == "answered")
    answered &= pl.all_horizontal(pl.col("production_says", "candidate_says").fill_null("") != "")
    return joined.filter(answered & (pl.col("candidate") != pl.col("production")))


def _given_up(run: Path, wanted: str) -> dict[str, int]:
    """Return how many replies the candidate was to answer unseen, how many it did, and how many were given up."""
    replies = traffic.replies(run).filter((pl.col("arm") == "production") & (pl.col("outcome") == "answered"))
    times, meant, begun, share = replies["at"], 0.0, 0.0, 0.0
    end = {"action": "end", "version": "", "at": "9999-12-31T00:00:00+00:00"}
    for line in [*registry.history(run), end]:
        now = datetime.fromisoformat(line["at"]).timestamp()
        if line["action"] in ("candidate", "withdraw", "end") or line["version"] == wanted:
            meant += share * int(((times >= begun) & (times < now)).sum())
            tried = line["action"] == "candidate" and line["version"] == wanted
            begun, share = now, line["shadow"] if tried else 0.0
    shadowed = traffic.shadows(run).filter(pl.col("version") == wanted).height
    return {"meant": round(meant), "shadowed": shadowed, "given_up": max(0, round(meant) - shadowed)}


def _wanted(run: Path, rows: pl.DataFrame, version: str | None) -> str:
    if version is not None:
        return registry.find(run, version).id
    candidate = registry.standing(run).candidate
    if candidate is not None:
        return candidate.id
    return str(rows["candidate"][-1]) if rows.height else ""


def _kept(run: Path) -> dict[str, Any] | None:
    path = run / KEPT
    try:
        found = json.loads(path.read_bytes())
        return {name: found[name] for name in ("candidate", "production", "seed", "pairs")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = f"mv {typed(path)} {typed(path)}.damaged   (its page's ratings are of no use then)"
        raise DamagedArtifact(f"What the page of pairs shows cannot be read: {error}.", where=path, hint=hint) from None
