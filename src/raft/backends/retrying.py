"""When a call is sent again, and when it is given up: the one layer of retries, for transient faults only."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from raft.backends.faults import Broken, Busy
from raft.ledger import Entry

_LOST_ALONE, _BUSY_ALONE = 3, 20  # billed or busy tries of one call, while others are answered, until it is given up
_WAITS = wait_random_exponential(multiplier=0.5, max=30)


@dataclass
class Trouble:
    """What went wrong with one call so far; `since` is when, in seconds of the loop's clock."""

    since: float | None = None
    busy: int = 0
    broken: int = 0
    lost: int = 0

    def note(self, fault: Busy | Broken, now: float) -> None:
        """Count one more fault, which came at `now`."""
        self.since = now if self.since is None else self.since
        if isinstance(fault, Busy):
            self.busy += 1
        else:
            self.broken += 1
            self.lost += fault.billed

    def alone(self, answered_at: float) -> bool:
        """Tell whether other calls, the last of them at `answered_at`, were answered while this one was not."""
        return self.since is not None and answered_at > self.since


@dataclass(frozen=True)
class Patience:
    """How long one goes on.

    Attributes:
        tries: how often a call that breaks is sent, at most; one that meets a busy endpoint is sent more often.
        seconds: without any reply after which an endpoint counts as away.
    """

    tries: int = 8
    seconds: float = 600.0

    def ends(self, fault: BaseException | None, trouble: Trouble, *, now: float, answered_at: float) -> bool:
        """Tell whether a call is not to be sent again.

        Args:
            fault: the last one.
            trouble: all of them.
            now: seconds of the loop's clock.
            answered_at: when any call was answered last.
        """
        alone = trouble.alone(answered_at)
        away = now - max(trouble.since or 0.0, answered_at) >= self.seconds
        if isinstance(fault, Busy):
            return away or self.too_long(fault) or (alone and trouble.busy >= _BUSY_ALONE)
        return away or trouble.broken >= self.tries or (alone and trouble.lost >= _LOST_ALONE)

    def too_long(self, fault: BaseException | None) -> bool:
        """Tell whether the endpoint asks to wait longer than one is ready to."""
        return isinstance(fault, Busy) and (fault.retry_after or 0.0) > self.seconds


async def send_again(
    send: Callable[[], Awaitable[Entry]], first: Busy | Broken, ends: Callable[[BaseException | None], bool]
) -> Entry:
    """Send a call until it is answered or given up.

    Args:
        send: sends it once.
        first: how its first try failed; tenacity takes so much time that it is not troubled with first tries.
        ends: told the last fault, whether to give up.

    Raises:
        Busy, Broken: the last fault of a call that was given up.
        Refused, Denied: it is not answered.
    """
    known: Busy | Broken | None = first

    async def attempt() -> Entry:
        nonlocal known
        fault, known = known, None
        if fault is not None:
            raise fault
        return await send()

    retrying = AsyncRetrying(
        retry=retry_if_exception_type((Busy, Broken)),
        wait=_wait,
        stop=lambda state: ends(_fault(state)),
        reraise=True,
    )
    return await retrying(attempt)


def _fault(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _wait(state: RetryCallState) -> float:
    """Return the seconds until the next try: where the endpoint is busy, the pace makes everybody wait already."""
    return 0.0 if isinstance(_fault(state), Busy) else _WAITS(state)
