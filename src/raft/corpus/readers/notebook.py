"""Jupyter notebooks."""

import json
import re
from pathlib import Path

from raft.corpus.readers import Reading, Unreadable, clean, decode
from raft.corpus.readers.text import own_title, plain_markdown, without_data


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a notebook as one document of Markdown: its texts, and its code fenced; outputs are left out."""
    left_out: dict[str, int] = {}
    try:
        book = json.loads(decode(path.read_bytes(), left_out))
    except json.JSONDecodeError as error:
        raise Unreadable(f"It is no notebook: {error.msg} in line {error.lineno}.") from error
    sheets = book.get("worksheets") or [book]  # before the fourth format
    parts = []
    for cell in (cell for sheet in sheets for cell in sheet.get("cells", ())):
        source = cell.get("source", cell.get("input", ""))
        text = ("".join(source) if isinstance(source, list) else str(source)).strip("\n")
        if cell.get("cell_type") == "code":
            fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", text))])
            parts.append(f"{fence}\n{text}\n{fence}" if text.strip() else "")
            left_out["outputs of cells"] = left_out.get("outputs of cells", 0) + bool(cell.get("outputs"))
        else:
            depth = re.fullmatch("[1-6]", str(cell.get("level", 1)))
            level = "#" * int(depth[0] if depth else 6) + " " if cell.get("cell_type") == "heading" else ""
            text = without_data(text, left_out) if "data:" in text else text
            parts.append(level + plain_markdown(text))
    text = clean("\n\n".join(filter(None, parts))).strip()
    left_out = {what: count for what, count in left_out.items() if count}
    return [Reading(own_title(text) or path.stem, text, kind, left_out=left_out)]
