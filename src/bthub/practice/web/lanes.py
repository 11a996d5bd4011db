"""Threads for what takes long, so that it never takes those that pages need.

Routes that aren't `async` share one pool of threads. Were fifty uploads, or fifty people who wait for the models, let
into it, whoever only turns a page would wait behind them.
"""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

LANES = {"passwords": 4, "uploads": 8, "models": 8, "documents": 4}
"""How many threads each kind of slow work has; further requests wait without one."""
_OPEN: RunVar[dict[str, CapacityLimiter]] = RunVar("bthub_lanes")


async def run(lane: str, work: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """Do something in a thread of a lane."""
    try:
        lanes = _OPEN.get()
    except LookupError:
        lanes = {name: CapacityLimiter(threads) for name, threads in LANES.items()}
        _OPEN.set(lanes)
    return await to_thread.run_sync(partial(work, *args, **more), limiter=lanes[lane])


def lane(name: str) -> Callable[[Callable[..., Any]], Callable[..., Awaitable[Any]]]:
    """A route whose work is done in a lane."""
    assert name in LANES

    def in_lane(route: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        @wraps(route)
        async def waiting(*args: Any, **more: Any) -> Any:
            return await run(name, route, *args, **more)

        # FastAPI looks behind the wrapper, where it would find a route that isn't `async`.
        del waiting.__wrapped__  # type: ignore[attr-defined]
        waiting.__signature__ = inspect.signature(route)  # type: ignore[attr-defined]
        return waiting

    return in_lane
