"""What was found out about files, kept between runs, so that an unchanged file is looked at once.

A database in the user's cache folder that several processes may read and write at
once. It can be deleted at any time. Where it cannot be used, that is told and
everything is found out anew.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from vaekit import checkpoints, folders
from vaekit.catalog.looking import Facts
from vaekit.catalog.walking import Stamp
from vaekit.families import families

T = TypeVar("T")

log = logging.getLogger("vaekit")

SCHEMA = 1
COLUMNS = (
    "path BLOB PRIMARY KEY, size INT, changed INT, touched INT, facts TEXT, facts_by INT, prints TEXT, prints_by INT"
)
STAMP = "(files.size, files.changed, files.touched) = (excluded.size, excluded.changed, excluded.touched)"
KEEP = f"excluded.prints IS NULL AND {STAMP}"
STORE = f"""
INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET
    size = excluded.size, changed = excluded.changed, touched = excluded.touched,
    facts = excluded.facts, facts_by = excluded.facts_by,
    prints = CASE WHEN {KEEP} THEN files.prints ELSE excluded.prints END,
    prints_by = CASE WHEN {KEEP} THEN files.prints_by ELSE excluded.prints_by END
"""
"""What another process read of the same file's weights meanwhile stays."""

PATIENCE = 10.0
"""Seconds to wait for another process that is writing."""


@dataclass(frozen=True)
class Prints:
    """What reading a VAE's weights told.

    vae, encoder, decoder: fingerprints; sha256: of a file that holds a VAE alone; problem: why its weights are no good.
    """

    vae: str = ""
    encoder: str | None = None
    decoder: str | None = None
    sha256: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """What is remembered of one file as it was at a stamp; None where it was not found out yet."""

    stamp: Stamp
    facts: Facts | None = None
    prints: Prints | None = None


class Index:
    """Path -> Row. path: the database; by default in the user's cache folder."""

    def __init__(self, path: Path | None = None):
        self.path = path or folders.cache() / "library.sqlite3"

    def read(self) -> dict[Path, Row]:
        """All that is remembered; nothing where there is no index yet, or an unusable one."""
        return (self._with_database(_rows) if self.path.exists() else None) or {}

    def write(self, rows: Mapping[Path, Row]) -> None:
        """Remember these too; what other processes write at the same time stays."""
        if rows:
            self._with_database(lambda database: _store(database, rows))

    def _with_database(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What the work gives, done in one transaction; None, and it is told, where the database cannot be used."""
        for attempt in ("first", "second"):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as database:
                    _prepare(database)
                    with database:
                        return work(database)
            except (sqlite3.Error, OSError, ValueError, TypeError) as error:
                # operational: locked, no permission, disk full; nothing of the database itself
                if attempt == "second" or isinstance(error, (sqlite3.OperationalError, OSError)):
                    log.warning("%s: %s; what is found out about files is not remembered", self.path, error)
                    return None
                with suppress(OSError):
                    self.path.unlink(missing_ok=True)
        return None


def _prepare(database: sqlite3.Connection) -> None:
    if database.execute("PRAGMA user_version").fetchone() == (SCHEMA,):
        return
    with database:
        database.execute("BEGIN IMMEDIATE")
        if database.execute("PRAGMA user_version").fetchone() != (SCHEMA,):  # nobody was faster
            database.execute("DROP TABLE IF EXISTS files")
            database.execute(f"CREATE TABLE files ({COLUMNS})")
            database.execute(f"PRAGMA user_version = {SCHEMA}")


def _rows(database: sqlite3.Connection) -> dict[Path, Row]:
    facts_rules, prints_rules = _rules()
    rows = {}
    for name, *stamp, facts, facts_by, prints, prints_by in database.execute("SELECT * FROM files"):
        rows[Path(os.fsdecode(name))] = Row(
            (stamp[0], stamp[1], stamp[2]),
            Facts.from_dict(json.loads(facts)) if facts and facts_by == facts_rules else None,
            Prints(**json.loads(prints)) if prints and prints_by == prints_rules else None,
        )
    return rows


def _store(database: sqlite3.Connection, rows: Mapping[Path, Row]) -> None:
    facts_rules, prints_rules = _rules()
    database.executemany(
        STORE,
        (
            (os.fsencode(path), *row.stamp, _json(row.facts), facts_rules, _json(row.prints), prints_rules)
            for path, row in rows.items()
        ),
    )


def _json(value: Facts | Prints | None) -> str | None:
    return json.dumps(vars(value)) if value else None


def _rules() -> tuple[int, int]:
    """Change when the code or the families do that files are understood by: they say something else then."""
    understanding, fingerprinting = _code()
    return zlib.crc32(repr(families()).encode(), understanding), fingerprinting


@cache
def _code() -> tuple[int, int]:
    """Hashes of the code that understands files, and that fingerprints them."""
    package, catalog = Path(checkpoints.__file__).parent, Path(__file__).parent
    understanding = [*sorted(package.glob("*.py")), catalog / "looking.py"]
    fingerprinting = [package / "fingerprint.py", package / "layouts.py"]
    return _hash(understanding), _hash(fingerprinting)


def _hash(files: Iterable[Path]) -> int:
    return zlib.crc32(b"".join(path.read_bytes() for path in files))
