"""Where vaekit keeps what is the user's: settings, what it remembers, what it fetched."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def config() -> Path:
    """For what a person may write: catalog.toml, families.toml, preferences.json."""
    return platformdirs.user_config_path("vaekit", appauthor=False)


def cache() -> Path:
    """For what can be found out again."""
    return platformdirs.user_cache_path("vaekit", appauthor=False)


def downloads() -> Path:
    """For fetched VAEs; it is among the places that are looked into."""
    return platformdirs.user_data_path("vaekit", appauthor=False) / "vaes"


def own_file(variable: str, name: str) -> Path | None:
    """A file of the user's own: what an environment variable names, else `name` in the configuration folder, if any."""
    named = os.environ.get(variable)
    if named:
        return Path(os.path.expanduser(named))
    usual = config() / name
    return usual if os.path.lexists(usual) else None
