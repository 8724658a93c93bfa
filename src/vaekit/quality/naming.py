"""Names that tell things apart, on a page and on a disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from vaekit.images.wording import printable

LONGEST = 100
"""Bytes of a name that becomes part of a file's name."""


def distinct(names: Sequence[str]) -> list[str]:
    """Names or paths by their last part, and by as many parts before it as it takes to tell them apart.

    a/vae.pt, b/vae.pt, c.pt -> a/vae.pt, b/vae.pt, c.pt. Equal ones are numbered.
    """
    parts = [PurePath(name).parts or (name,) for name in names]
    depth = [1] * len(names)
    while True:
        labels = ["/".join(p[-d:]) for p, d in zip(parts, depth, strict=True)]
        count = Counter(labels)
        deeper = [i for i, label in enumerate(labels) if count[label] > 1 and depth[i] < len(parts[i])]
        if not deeper:
            return _numbered([printable(label) for label in labels])
        for i in deeper:
            depth[i] += 1


def file_names(names: Sequence[str]) -> list[str]:
    """As parts of file names: without path, ending, leading dot and spaces; bounded, and different in any case."""
    bare = [re.sub(r"(?<=.)(\.latents)?\.[a-z0-9]{1,11}$", "", name, flags=re.IGNORECASE) for name in names]
    safe = [re.sub(r"[^\w.-]+", "-", name).strip(".-_") or "picture" for name in bare]
    short = [name.encode()[:LONGEST].decode(errors="ignore") for name in safe]
    return _numbered(short, "-{}")


def _numbered(labels: list[str], form: str = " ({})") -> list[str]:
    """Later ones that differ from an earlier one in nothing but case get a number behind them."""
    taken: set[str] = set()
    for i, label in enumerate(labels):
        number = 1
        while labels[i].casefold() in taken:
            number += 1
            labels[i] = label + form.format(number)
        taken.add(labels[i].casefold())
    return labels
