"""Which vaekit this is."""

from __future__ import annotations


def version() -> str:
    """The installed version; "0+unknown" in a source tree that was never installed."""
    from importlib import metadata  # slow to import, and rarely asked for

    try:
        return metadata.version("vaekit")
    except metadata.PackageNotFoundError:
        return "0+unknown"
