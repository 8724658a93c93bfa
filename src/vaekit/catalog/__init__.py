"""VAEs by name: the published ones, those on this disk, and which of them a checkpoint gets.

    from vaekit.catalog import resolve, scan
    answer = resolve("dreamshaper", "Automatic", library=scan())
    answer.path, answer.reason, answer.passed_over

Listing reads headers only, and for safetensors torch is not imported.
"""

from __future__ import annotations

from vaekit.catalog.choice import Resolution, as_asked, prefer, resolve
from vaekit.catalog.known import Catalog, CatalogEntry, catalog
from vaekit.catalog.library import Entry, Library, scan
from vaekit.catalog.places import Place, downloads_folder, places
from vaekit.catalog.preferences import Preferences

__all__ = [
    "Catalog",
    "CatalogEntry",
    "Entry",
    "Library",
    "Place",
    "Preferences",
    "Resolution",
    "as_asked",
    "catalog",
    "downloads_folder",
    "places",
    "prefer",
    "resolve",
    "scan",
]
