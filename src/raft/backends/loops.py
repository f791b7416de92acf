"""The event loop that calls are sent in."""

import asyncio


def fastest_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of uvloop's where that is installed (Chroma's server brings it), else Python's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
