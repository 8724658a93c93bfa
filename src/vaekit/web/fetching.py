"""Pictures by URL: off unless the server was started to fetch them, and then from public addresses alone."""

from __future__ import annotations

import asyncio
import base64
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import BaseModel

from vaekit.catalog.web import get_public
from vaekit.errors import OptionError, PictureError
from vaekit.web.queue import Busy

W = TypeVar("W", bound=BaseModel)
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{0,20}:/", re.IGNORECASE)
"""How a URL begins; base64 has no colon."""
MOST_BYTES = 32 << 20
SECONDS = 20.0
AT_ONCE, WAITING = 4, 16
"""How many pictures are fetched at a time, and how many wait for that."""


class Fetcher:
    """Puts pictures in the place of their URLs. allowed: whether any are fetched."""

    def __init__(self, allowed: bool = False):
        self.allowed = allowed
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetching")
        self._pending = 0

    async def fetched(self, wish: W, *names: str) -> W:
        """The request with base64 where these fields (texts, or lists of texts) hold URLs.

        Raises PictureError (URLs are not fetched here, or not that kind), and Busy, NetworkError, AccessError,
        FileError as the fetching does.
        """
        found: dict[str, object] = {}
        for name in names:
            value = getattr(wish, name)
            if isinstance(value, list):
                found[name] = [await self._picture(one, name) for one in value]
            elif value is not None:
                found[name] = await self._picture(value, name)
        return wish.model_copy(update=found)

    async def _picture(self, text: str, called: str) -> str:
        if not ADDRESS.match(text):
            return text
        if not self.allowed:
            raise PictureError(f"{called}: pictures are not fetched by URL here; send them as base64")
        if self._pending >= AT_ONCE + WAITING:
            raise Busy(f"{WAITING} requests wait already; try again later")
        self._pending += 1
        try:
            content = await asyncio.get_running_loop().run_in_executor(self._pool, _content, text, called)
        finally:
            self._pending -= 1
        return base64.b64encode(content).decode()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _content(url: str, called: str) -> bytes:
    try:
        return get_public(url, most=MOST_BYTES, seconds=SECONDS)
    except OptionError as error:
        raise PictureError(f"{called}: {error}") from error
