"""How much memory a run may take: what the user asked for, or a sensible part of what is free."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from vaekit.errors import OptionError

Memory = str | int | None
"""Bytes, or a text like "1GiB", "1.5 GB", "800MiB"; None for half of what is free."""

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Budget:
    """Bytes that a run may take beside what the process holds already. asked: by the user, not by default."""

    bytes: int
    asked: bool


def settle(memory: Memory, device: torch.device) -> Budget:
    """Raises OptionError for what is no amount of memory."""
    return Budget(free_bytes(device) // 2, False) if memory is None else Budget(parse(memory), True)


def parse(memory: str | int) -> int:
    """Bytes of "1GiB", "800 MB", 1073741824 …; K, M, G and T alone count in 1024s. Raises OptionError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(memory).lower())
    if isinstance(memory, bool) or found is None or found[2] not in UNITS or float(found[1]) == 0:
        raise OptionError(f"an amount of memory is bytes or a text like '1GiB' or '800MiB', not {memory!r}")
    return int(float(found[1]) * UNITS[found[2]])


def free_bytes(device: torch.device) -> int:
    """What can still be taken: of the machine's memory and of this process's container's, or of the GPU's.

    What PyTorch keeps there for its next arrays can be taken as well.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return min(_available(), _left_in_container())


def rounded_up(count: float) -> str:
    """The least whole number of MiB that holds these bytes, as it can be asked for."""
    return f"{-(-int(count) // 2**20)}MiB"


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return 4 * 2**30


def _left_in_container() -> int:
    """By the limits of the control group, where there is one (version 2)."""
    try:
        own = Path("/proc/self/cgroup").read_text("utf-8").strip().rsplit("::", 1)[-1]
        folder = Path("/sys/fs/cgroup") / own.lstrip("/")
        limit, used = ((folder / name).read_text("utf-8").strip() for name in ("memory.max", "memory.current"))
        return 1 << 62 if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return 1 << 62
