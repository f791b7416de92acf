"""Word documents (DOCX)."""

from pathlib import Path
from typing import Any

from raft.corpus.readers import Reading, check_archive, require
from raft.corpus.readers.html import to_markdown
from raft.corpus.readers.text import own_title

_STYLES = "p[style-name='Title'] => h1:fresh"


def read(path: Path, *, kind: str, **_others: object) -> list[Reading]:
    """Read a Word document as one document, with its headings, lists and tables; pictures are left out."""
    mammoth = require("mammoth", why="to read DOCX files")
    check_archive(path)

    def no_picture(_image: Any) -> dict[str, str]:
        return {}

    with path.open("rb") as stream:
        result = mammoth.convert_to_html(
            stream, style_map=_STYLES, convert_image=mammoth.images.img_element(no_picture)
        )
    _, text = to_markdown(result.value)
    return [Reading(own_title(text) or path.stem, text, kind)]
