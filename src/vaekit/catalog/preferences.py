"""Which VAE a person prefers for which checkpoint, kept in preferences.json in the configuration folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vaekit import folders
from vaekit.errors import FileError, OutputError
from vaekit.files import atomic_write

PATIENCE = 10.0
"""Seconds to wait for another process that is writing."""


class Preference(BaseModel):
    """vae: a name, or None for no separate one; path instead: a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vae: str | None = None
    path: str | None = None

    @property
    def choice(self) -> str | Path:
        return Path(self.path) if self.path is not None else self.vae or "None"


class Preferences:
    """Checkpoint -> choice. Checkpoints are told apart by their path, links resolved."""

    def __init__(self, path: Path | None = None):
        self.path = path or folders.config() / "preferences.json"

    def get(self, checkpoint: Path) -> str | Path | None:
        """The stored choice; a Path where a file was chosen. Raises FileError where the file is broken."""
        stored = self._read().get(_key(checkpoint))
        return stored.choice if stored else None

    def all(self) -> dict[Path, str | Path]:
        """Every stored choice."""
        return {Path(checkpoint): stored.choice for checkpoint, stored in self._read().items()}

    def set(self, checkpoint: Path, choice: str | Path) -> None:
        """Store a choice in place of the one before. Raises OutputError."""
        stored = Preference(path=os.path.abspath(choice)) if isinstance(choice, Path) else Preference(vae=choice)
        with self._changed() as preferences:
            preferences[_key(checkpoint)] = stored

    def forget(self, checkpoint: Path) -> bool:
        """Drop what is stored; whether there was anything."""
        with self._changed() as preferences:
            return preferences.pop(_key(checkpoint), None) is not None

    def _read(self) -> dict[str, Preference]:
        try:
            text = self.path.read_text("utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{self.path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
        try:
            loaded = json.loads(text)
            return {str(key): Preference.model_validate(value) for key, value in dict(loaded).items()}
        except json.JSONDecodeError as error:
            raise FileError(f"{self.path}:{error.lineno}: not valid JSON ({error.msg})") from error
        except (ValidationError, ValueError, TypeError, RecursionError) as error:
            raise FileError(f"{self.path}: not a file of preferences; mend it or delete it") from error

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Preference]]:
        """What is stored, to be changed; written back while no other process does the same."""
        from filelock import FileLock, Timeout  # seldom needed, and slow to import

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=PATIENCE):
                preferences = self._read()
                yield preferences
                plain = {key: stored.model_dump(exclude_none=True) for key, stored in sorted(preferences.items())}
                with atomic_write(self.path, force=True) as part:
                    part.write_text(json.dumps(plain, indent=2), "utf-8")
        except Timeout as error:
            raise OutputError(f"{self.path}: another process keeps it locked") from error
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror or error}") from error


def _key(checkpoint: Path) -> str:
    return os.path.realpath(checkpoint)
