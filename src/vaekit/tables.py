"""TOML files that a user writes, one table for each thing: read, checked, their mistakes told with file and line."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vaekit.errors import FileError

Model = TypeVar("Model", bound=BaseModel)
Where = tuple[int | str, ...]
"""A value by its keys, and numbers in lists."""

LARGEST_FILE = 1 << 20
LONGEST_REASON = 300


@dataclass(frozen=True)
class Tables:
    """A TOML file that was read. tables: name -> what stands under it, not checked yet."""

    path: Path
    text: str
    tables: Mapping[str, object]

    def check(self, name: str, model: type[Model], known: Mapping[str, Any] | None = None) -> Model:
        """The table of that name as a model with a field `name`; known: values where the table has none.

        Raises FileError with the line of the first mistake.
        """
        values = self.tables[name]
        if not isinstance(values, dict):
            raise self.wrong((name,), "stands outside of any table; begin with [NAME]")
        if "name" in values:
            raise self.wrong((name, "name"), "the name is what stands in the brackets")
        inside = [key for key, value in values.items() if isinstance(value, dict) and key not in model.model_fields]
        if values and len(inside) == len(values):
            raise self.wrong((name,), f'a name with a dot in it stands in quotes: ["{name}.{inside[0]}"]')
        try:
            return model.model_validate({**(known or {}), **values, "name": name})
        except ValidationError as error:
            first = error.errors()[0]
            raise self.wrong((name, *first["loc"]), first["msg"].removeprefix("Value error, ")) from error

    def wrong(self, where: Where, reason: str) -> FileError:
        """One line about a value: file, line, table, key, reason."""
        table, *keys = map(str, where)
        told = " ".join(f"[{table}] {'.'.join(keys)}{': ' if keys else ''}{reason}".split())
        return FileError(f"{self.path}:{_line_of(self.text, where)}: {told[:LONGEST_REASON]}")


def read(path: Path) -> Tables:
    """Read a user's TOML file. Raises FileError: missing, too large, not UTF-8, not TOML, with the line."""
    text = _text_of(path)
    try:
        return Tables(path, text, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = str(error)[:LONGEST_REASON]
        raise FileError(f"{path}:{_line_in(reason, text)}: not valid TOML: {reason}") from error


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise FileError(f"{path}: too large; files of this kind stay below {LARGEST_FILE >> 20} MB")
        return path.read_text("utf-8")
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise FileError(f"{path}:{line}: not UTF-8") from error
    except ValueError as error:  # a null byte in the name
        raise FileError(f"{str(path)!r}: {error}") from error


def _line_in(message: str, text: str) -> int:
    """The line that tomllib's message names; the last one where it says that the document ends."""
    found = re.search(r"at line (\d+)", message)
    return int(found[1]) if found else text.count("\n") + 1


def _line_of(text: str, where: Where) -> int:
    """The line of a value; where it is not there, of what it belongs in."""
    best, longest = 1, 0
    for line, path in _paths(text):
        if path == where[: len(path)] and len(path) > longest:
            best, longest = line, len(path)
    return best


def _paths(text: str) -> Iterator[tuple[int, Where]]:
    """What begins on each line of a TOML file: a table, an item of a list of tables, a key."""
    table: Where = ()
    items = Counter[Where]()
    for line, content in enumerate(text.split("\n"), start=1):
        opened = _keys(content) if content.lstrip().startswith("[") else ()
        key = re.match(r"""\s*[\w"'][^=#]*=""", content)
        if opened:
            table = opened
            if content.lstrip().startswith("[["):
                table = (*opened, items[opened])
                items[opened] += 1
            yield line, table
        elif key:
            yield line, (*table, *_keys(f"{key[0]} 0"))


def _keys(line: str) -> Where:
    """The keys that one line of TOML names: [a.b], [[a.b]] or a.b = 0; none for a line that is no TOML alone."""
    try:
        inner: Any = tomllib.loads(line)
    except (tomllib.TOMLDecodeError, RecursionError):
        return ()
    keys: list[int | str] = []
    while isinstance(inner, (dict, list)) and inner:
        if isinstance(inner, dict):
            keys.append(next(iter(inner)))
            inner = inner[keys[-1]]
        else:
            inner = inner[0]
    return tuple(keys)
