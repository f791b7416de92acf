"""How often the guard over a candidate stops a sound one, and how soon it finds one that is worse.

    python benchmarks/guard.py                 # 1,000 streams a row (300 of a worse candidate); about 15 minutes
    python benchmarks/guard.py --streams 100   # a look

Replies are drawn: 5 percent unsupported, 10 percent abstentions, 1 percent errors, seconds log-normal (slow: above
production's 95th percentile). Which side answers is drawn for each conversation.
"""

import argparse
from collections.abc import Callable

import numpy as np

from raft.evaluation.guard import Guard, Seen

RATES = {"unsupported": 0.05, "abstained": 0.1, "failed": 0.01}
Change = Callable[[dict[str, float], float], dict[str, float]]


def stopped(
    seed: int,
    share: float,
    requests: int,
    worse: Change | None = None,
    *,
    busy: float = 0.0,
    slower: float = 1.0,
    drift: bool = False,
) -> tuple[int, str] | None:
    """Return at which request, and for what, a candidate was stopped; None: it never was.

    `worse` makes of the rates, and of the part of the stream that is over, those of the candidate. With `busy` callers
    ask more than once: so large a part of the requests is those of heavy callers, each of whom asks 200 times, and has
    rates of their own. With `drift` all rates rise to the double and fall again, for either side.
    """
    draw = np.random.default_rng([seed, round(share * 1000)])
    guard, heavy, at = Guard(), [], 0
    while at < requests:
        if busy and draw.random() < busy:
            if not heavy:
                own = {name: draw.beta(rate * 2, (1 - rate) * 2) for name, rate in RATES.items()}
                heavy = [(own, f"{draw.integers(1 << 48):012x}", draw.random() < share)] * 200
            rates, name, candidate = heavy.pop()
        else:
            rates, name, candidate = RATES, f"{draw.integers(1 << 48):012x}", draw.random() < share
        over = at / requests
        if drift:
            rates = {key: rate * (1 + np.sin(np.pi * over)) for key, rate in rates.items()}
        if worse is not None and candidate:
            rates = worse(rates, over)
        chance = draw.random(len(rates))
        told = {key: bool(one < rate) for one, (key, rate) in zip(chance, rates.items(), strict=True)}
        seconds = float(draw.lognormal()) * (slower if candidate else 1.0)
        at += 1
        found = guard.saw("candidate" if candidate else "production", Seen(**told, seconds=seconds), name)
        if found is not None:
            return at, found.name
    return None


def doubled(name: str) -> Change:
    """Return what doubles one rate."""
    return lambda rates, over: {**rates, name: 2 * rates[name]}


def false_stops(streams: int, requests: int) -> None:
    """Print how often a candidate like production is stopped."""
    print(f"No difference, {streams:,} streams of {requests:,} requests:\n")
    print("| | share | stopped | percent |\n| --- | --- | --- | --- |")
    for title, share, options in (
        ("each request another caller", 0.5, {}),
        ("each request another caller", 0.1, {}),
        ("rates that double and fall again, for both", 0.1, {"drift": True}),
        ("half of the requests by heavy callers, each unlike the others", 0.1, {"busy": 0.5}),
    ):
        found = [stopped(seed, share, requests, **options) for seed in range(streams)]
        stops = sum(one is not None for one in found)
        print(f"| {title} | {share:.0%} | {stops} | {100 * stops / streams:.1f} |", flush=True)


def finds(streams: int, requests: int) -> None:
    """Print after how many requests a candidate that is worse is stopped."""
    print(f"\nA candidate that is worse, {streams:,} streams; requests of both sides until it is stopped:\n")
    print(f"| | share | 10 % | half | 90 % | 99 % | not within {requests:,} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for title, worse, slower in (
        ("unsupported 10 % for 5 %", doubled("unsupported"), 1.0),
        ("unsupported 20 % for 5 %", lambda rates, over: {**rates, "unsupported": 0.2}, 1.0),
        ("errors 5 % for 1 %", lambda rates, over: {**rates, "failed": 0.05}, 1.0),
        ("every reply an error", lambda rates, over: {**rates, "failed": 1.0}, 1.0),
        ("twice as slow", lambda rates, over: rates, 2.0),
    ):
        for share in (0.5, 0.1):
            found = [stopped(seed, share, requests, worse, slower=slower) for seed in range(streams)]
            at = np.array([one[0] if one else np.inf for one in found])
            marks = np.quantile(at, [0.1, 0.5, 0.9, 0.99], method="higher")
            shown = " | ".join(f"{mark:,.0f}" if np.isfinite(mark) else "more" for mark in marks)
            print(f"| {title} | {share:.0%} | {shown} | {np.isinf(at).sum()} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=4000, help="of a stream without a difference")
    given = parser.parse_args()
    false_stops(given.streams, given.requests)
    finds(-(-given.streams * 3 // 10), 20_000)


if __name__ == "__main__":
    main()
