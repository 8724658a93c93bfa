"""The text by which pictures tell how they were drawn, as A1111 writes it, into them and out again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vaekit.errors import PictureError

KEY = "parameters"
_PAIR = re.compile(r'\s*(\w[\w \-/+]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""As in A1111's modules/infotext_utils.py."""


@dataclass(frozen=True)
class Infotext:
    """Prompt, negative prompt, and every other setting by its name, in order."""

    prompt: str
    negative: str
    settings: Mapping[str, str]

    def __str__(self) -> str:
        pairs = ", ".join(f"{name}: {_quoted(value)}" for name, value in self.settings.items())
        negative = f"Negative prompt: {self.negative}" if self.negative else ""
        return "\n".join(line for line in (self.prompt, negative, pairs) if line)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"prompt": self.prompt, "negative_prompt": self.negative, "settings": dict(self.settings)}


def parse(text: str) -> Infotext:
    """Read such a text. The last line holds the settings, where it has at least three of them."""
    *lines, last = text.strip("\n").split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    target = prompt
    for line in lines:
        if line.startswith("Negative prompt:"):
            target, line = negative, line.removeprefix("Negative prompt:").lstrip(" ")
        target.append(line)
    return Infotext("\n".join(prompt), "\n".join(negative), {name: _unquoted(value) for name, value in pairs})


def read(path: Path) -> Infotext:
    """The text in a picture's file. Raises PictureError where there is none, or no picture."""
    from vaekit.images import read_text

    text = read_text(path)
    if not text:
        raise PictureError(f"{path}: a picture that does not tell how it was made (no {KEY!r} in it)")
    return parse(text)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:\n"]', value) or value != value.strip() else value


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value
