"""The page for people, and the policy under which it runs: its own script and style, and this server alone."""

import base64
import hashlib
import re
from functools import cached_property
from importlib.resources import files


class Page:
    """The page, and what a browser lets it do."""

    @cached_property
    def text(self) -> str:
        """The page."""
        return files("raft.serving").joinpath("page.html").read_text(encoding="utf-8")

    @cached_property
    def quiet(self) -> str:
        """The page where no feedback is kept."""
        return self.text.replace("<body>", '<body class="quiet">', 1)

    @cached_property
    def policy(self) -> str:
        """What the page may do: run its own script, use its own style, and ask this server."""

        def digests(tag: str) -> str:
            found = re.findall(rf"<{tag}>(.*?)</{tag}>", self.text, re.DOTALL)
            hashes = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found)
            return " ".join(f"'sha256-{one}'" for one in hashes)

        own = f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; connect-src 'self'"
        return f"{own}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


PAGE = Page()
