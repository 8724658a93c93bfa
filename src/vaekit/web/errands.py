"""What takes long and is not drawn: downloads, extracting, baking. One after the other, beside the drawings."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vaekit.errors import OptionError, VaekitError
from vaekit.web.queue import Busy

log = logging.getLogger("vaekit")

REMEMBERED = 50
WAITING = 8
State = Literal["waiting", "running", "done", "failed", "stopped"]
Report = Callable[[int, int | None], None]


class _Stopped(VaekitError):
    """Somebody stopped it."""


@dataclass
class Errand:
    """done, total: bytes, or 0 and None before it is known; told: the file that came of it, or what went wrong."""

    id: str
    kind: str
    what: str
    state: State = "waiting"
    done: int = 0
    total: int | None = None
    told: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self))


class Errands:
    """Runs errands, and remembers the latest. after: called when one is done; told: how what went wrong is told."""

    def __init__(self, after: Callable[[], object], told: Callable[[str], str] = str):
        self._after, self._told = after, told
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="errands")
        self._errands: OrderedDict[str, Errand] = OrderedDict()
        self._stopped: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, kind: str, what: str, work: Callable[[Report], Path]) -> Errand:
        """Do this when those before it are done. Raises Busy."""
        errand = Errand(secrets.token_hex(8), kind, what)
        with self._lock:
            if sum(one.state in ("waiting", "running") for one in self._errands.values()) > WAITING:
                raise Busy(f"{WAITING} wait already; try again later")
            self._errands[errand.id] = errand
            while len(self._errands) > REMEMBERED:
                self._errands.popitem(last=False)
        self._pool.submit(self._run, errand, work)
        return errand

    def all(self) -> list[Errand]:
        """The latest first."""
        with self._lock:
            return list(reversed(self._errands.values()))

    def stop(self, name: str) -> None:
        """Raises OptionError where there is none."""
        with self._lock:
            if name not in self._errands:
                raise OptionError(f"nothing is done as {name[:40]!r}")
            self._stopped.add(name)

    def close(self) -> None:
        with self._lock:
            self._stopped.update(self._errands)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, errand: Errand, work: Callable[[Report], Path]) -> None:
        def report(done: int, total: int | None) -> None:
            if errand.id in self._stopped:
                raise _Stopped("stopped")
            errand.done, errand.total = done, total

        try:
            report(0, None)
            errand.state = "running"
            errand.told = work(report).name
            self._after()
            errand.state = "done"
        except _Stopped:
            errand.state = "stopped"
        except VaekitError as error:
            errand.state, errand.told = "failed", self._told(str(error))
        except Exception:
            log.exception("%s of %s failed", errand.kind, errand.what)
            errand.state, errand.told = "failed", "failed for a reason that is no fault of the request; see the log"
