"""A benchmark's table and plot as files for `results/`: python benchmarks/publish.py RUN NAME [COMMAND]."""

import argparse
import json
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROW, LEFT, WIDE, RIGHT = 26, 300, 460, 130


def plot(facts: dict[str, Any], measure: str, question_set: str) -> str:
    """Return the systems' scores with intervals as a standalone SVG, best first; the baseline as a dashed line."""
    rows = [(one, one["sets"][question_set][measure]) for one in facts["arms"] if question_set in one["sets"]]
    rows.sort(key=lambda row: -row[1]["value"])
    top = max(row[1]["high"] for row in rows)
    scale = WIDE / max(0.1, top)
    height = ROW * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDE + RIGHT}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="white"/><title>{escape(measure)} of each contender</title>',
    ]
    for system, score in rows:
        if system["name"] == facts["verdict"]["baseline"]:
            x = LEFT + scale * score["value"]
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="{height - 20}" stroke="#777" stroke-dasharray="4"/>'
            )
    for place, (system, score) in enumerate(rows):
        y = 24 + ROW * place
        colour = "#0072b2" if system["name"] == facts["verdict"]["contender"] else "#444"
        low, mid, high = (LEFT + scale * score[key] for key in ("low", "value", "high"))
        text = f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
        parts += [
            f'<text x="8" y="{y + 4}" fill="{colour}">{escape(system["title"])}</text>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{mid:.1f}" cy="{y}" r="4.5" fill="{colour}"/>',
            f'<text x="{LEFT + WIDE + RIGHT - 6}" y="{y + 4}" text-anchor="end" fill="{colour}">{text}</text>',
        ]
    unit = "F1" if measure == "f1" else measure.replace("_", " ")
    parts.append(f'<text x="{LEFT}" y="{height - 4}" fill="#777">{unit}, 95 percent intervals by document</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    """Write `results/DATE-NAME.md` and `.svg` from the benchmark.json and report.md of a run."""
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("command", nargs="*", default=["(the command was not noted)"])
    args = parser.parse_args()
    run, name = args.run, args.name
    facts = json.loads((run / "benchmark.json").read_text(encoding="utf-8"))
    stem = f"{facts['date']}-{name}"
    report = (run / "report.md").read_text(encoding="utf-8")
    command = " ".join(args.command)
    head = f"# {name}, measured\n\n`{command}`\n\n{facts['date']}, {facts['hardware']}.\n\n![plot]({stem}.svg)\n\n"
    (RESULTS / f"{stem}.md").write_text(head + report, encoding="utf-8")
    verdict = facts["verdict"]
    (RESULTS / f"{stem}.svg").write_text(plot(facts, verdict["measure"], verdict["question_set"]), encoding="utf-8")
    print(RESULTS / f"{stem}.md")


if __name__ == "__main__":
    main()
