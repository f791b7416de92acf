"""Follow-ups worded so that they stand alone, by a model that is asked before the search (`serving.rewrite`).

What comes back is what is searched for and what is asked, so it has to look like one question, and to stand alone by
the rule that found that the follow-up did not. Else, and where the model fails or is late, the follow-up is searched
behind the turns before it, as without such a model.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from raft import prompts
from raft.api import models
from raft.api.budgets import budget_of
from raft.backends import hub
from raft.errors import RaftError, UsageError
from raft.protocols import Completion, OnEvent, Request
from raft.serving.openai import stands_alone
from raft.settings import Settings
from raft.store.budget import enter
from raft.store.ledger import Ledger

LATEST = 20.0
"""Seconds within which a follow-up is worded; one that takes longer is searched as it is."""
_TOKENS, _LONGEST = 96, 500  # of a question
_AT_ONCE = 8


class FollowUps:
    """Words follow-ups, several at a time, each in a thread of `threads`.

    Args:
        settings: the run's, with the place of its ledger; `serving.rewrite` names the model.
        run: the run's name in the ledger.
        on_event: told "waiting" where the model asks to wait.

    Raises:
        UsageError: the model is on this machine, where the engine's thread has the processor; it has no key; or there
            is a cap, and no known price.
    """

    def __init__(self, settings: Settings, run: str, on_event: OnEvent) -> None:
        name = str(settings.serving.rewrite)
        if not hub.is_hosted(name):
            raise UsageError(
                f"{name} would take the processor from the model that answers; what rewrites is a server of its own.",
                where="serving.rewrite",
                hint=f"--set serving.rewrite=ollama_chat/NAME, hosted_vllm/NAME or a provider's model; not {name}",
            )
        address = models.address_of(name, settings)
        models.check(settings, asked={name: address})
        models.check_keys({name: address})
        self.model, self.threads = name, ThreadPoolExecutor(_AT_ONCE, "raft-follow-ups")
        self._settings, self._on_event = settings, on_event
        self._prompt = prompts.load("follow_up", settings.prompts)
        self._asked = models.open_bare(name, settings, api_base=address)
        self._ledger = Ledger(settings.ledger or Path(":memory:"))
        enter(self._ledger, run, "ask", alone=False)
        self._budget = budget_of(name, settings, self._ledger, run, api_base=address, keeps=False)

    def alone(self, question: str, earlier: Sequence[str]) -> str | None:
        """Return a follow-up so that it stands alone; None where what came does not.

        Args:
            question: the last turn of the user.
            earlier: the turns before it that it leans on, oldest first.
        """
        request = Request(self._prompt.render(turns="\n".join(earlier), question=question), _TOKENS, 0.0)
        try:
            with closing(Ledger(Path(":memory:"))) as replies:
                asking = models.asker(self._asked, replies, self._budget, attempts=1, on_event=self._on_event)
                (reply,) = asking.complete([request])
        except RaftError:  # a cap, a key, an endpoint: the answer does not wait for it
            return None
        return checked(reply.text) if isinstance(reply, Completion) else None

    def close(self) -> None:
        """Let go of the threads and of the ledger."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        self._ledger.close()


def checked(text: str) -> str | None:
    """Return a model's wording of a follow-up; None where it is not one question that stands alone."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) != 1 or len(lines[0]) > _LONGEST:
        return None
    said = lines[0].strip("\"'“”„ ").removeprefix("Question:").strip()
    return said if said and stands_alone(said) else None
