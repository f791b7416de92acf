"""A clock that jumps, and an endpoint in memory: a test's time passes at once where there is nothing else to do."""

import asyncio
import selectors
import threading

from raft.backends.asking import Reply
from raft.backends.hosted import endpoints
from raft.backends.hosted.calls import RequestPool
from raft.backends.hosted.rate_limit import RateLimiter


class _Jumping(selectors.DefaultSelector):
    loop = None

    def select(self, timeout=None):
        """Let the loop's clock jump over the time that there is to wait; wait in earnest only for other threads."""
        if timeout is None or timeout <= 0 or self.loop is None:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.loop.now += timeout
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` jumps to the next timer.

    Attributes:
        now: the simulated time in seconds.
    """

    def __init__(self):
        selector = _Jumping()
        self.now = 0.0
        super().__init__(selector)
        selector.loop = self

    def time(self):
        """Return the simulated time in seconds."""
        return self.now

    def run_in_executor(self, executor, function, *arguments):
        """Call a function here and now: what it waits for takes no simulated time."""
        future = self.create_future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


def run(coroutine):
    """Run a coroutine on a loop whose clock jumps and return its result."""
    loop = SimulatedLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


class Endpoint:
    """A chat endpoint in memory, and its bill; `transport` makes what a flight sends calls with.

    Args:
        plan: what happens to a request whose last turn is the key, attempt by attempt: an exception, a `Reply`, or
            a text; then, and for all others, an echo with as many tokens as it has words.
        latency: seconds until a reply, or a function of the request that returns them.

    Attributes:
        seen: the requests that came, in order.
        times: when, in seconds of the loop's clock.
        flying: how many are not answered yet.
        peak: the most that were not answered at once.
        watch: called with each request when it comes.
        gate: while it is not set, the endpoint's thread stands still at the next request, and so does its clock.
    """

    def __init__(self, plan=None, *, latency=0.2):
        self.plan = {text: list(steps) for text, steps in (plan or {}).items()}
        self.latency, self.limits, self.watch = latency, {}, lambda request: None
        self.gate = threading.Event()
        self.gate.set()
        self.seen, self.times, self.flying, self.peak, self.closed = [], [], 0, 0, 0

    def transport(self):
        """Return a transport: it is this endpoint."""
        return self

    async def send(self, request):
        """Answer one request."""
        loop, text = asyncio.get_running_loop(), request.messages[-1]["content"]
        self.seen.append(request)
        self.times.append(loop.time())
        self.watch(request)
        self.gate.wait(20)
        steps = self.plan.get(text)
        step = steps.pop(0) if steps else f"echo: {text}"
        self.flying += 1
        self.peak = max(self.peak, self.flying)
        try:
            await asyncio.sleep(self.latency(request) if callable(self.latency) else self.latency)
        finally:
            self.flying -= 1
        if isinstance(step, Exception):
            raise step
        return Reply(step, "stop", 10, len(step.split()), None, 0.2) if isinstance(step, str) else step

    async def close(self):
        """Count that the transport was closed."""
        self.closed += 1

    @property
    def texts(self):
        """Return the last turns of the requests that came."""
        return [request.messages[-1]["content"] for request in self.seen]


class Hosted:
    """A hosted model whose endpoint is in memory and whose clock jumps."""

    name, identity = "fake/model", "fake/model@memory"

    def __init__(self, endpoint, concurrency=4):
        self.endpoint, self.concurrency, self.flights = endpoint, concurrency, 0

    def pool(self, budget):
        """Return a flight to the endpoint."""
        self.flights += 1
        limiter = RateLimiter(self.concurrency)
        places = endpoints.Endpoints([endpoints.Endpoint("memory", limiter, self.endpoint.transport)])
        return RequestPool(places, budget=budget, model=self.name, loop=SimulatedLoop)
