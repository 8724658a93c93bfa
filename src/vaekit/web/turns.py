"""Waiting for one's turn at the desk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import HTTPException, Request

from vaekit.web.desk import Desk
from vaekit.web.queue import Client

T = TypeVar("T")
OFTEN = 0.5
"""Seconds between two looks whether the client is still there."""
GONE = 499
TELLING = ("authorization", "x-forwarded-for", "user-agent")
"""Headers that tell the clients of one address apart."""


def client(request: Request) -> Client:
    """Who asks, as the queue takes them in turn. Only the address cannot be made up, so that it counts first."""
    told = [request.headers.get(name, "") for name in TELLING]
    return Client(request.client.host if request.client else "", "\n".join(told))


async def turn(desk: Desk, request: Request, work: Callable[[], T], stop: Callable[[], None] = lambda: None) -> T:
    """Wait for the turn, do it, give what came of it; a client that goes away frees its place.

    stop: ends the work where it is under way already. Raises Busy, and what the work raises.
    """
    future = desk.submit(work, client(request))
    waiting = asyncio.wrap_future(future)
    while not waiting.done():
        await asyncio.wait({waiting}, timeout=OFTEN)
        if not waiting.done() and await request.is_disconnected():
            if not future.cancel():
                stop()
                await asyncio.wait({waiting})
            raise HTTPException(GONE, "the client went away")
    return waiting.result()
