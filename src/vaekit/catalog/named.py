"""The VAEs on this disk under their names, to tell what an unnamed one is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from vaekit.catalog.library import Library
from vaekit.checkpoints.fingerprint import Fingerprint
from vaekit.checkpoints.nearest import Known
from vaekit.errors import VaekitError


def named_vaes(library: Library, families: tuple[str, ...], *, other_than: Path) -> dict[str, Known]:
    """VAEs of these families by their name in the catalog, else that of their file; for `nearest`.

    Bundled ones and files of VAEs alone, `other_than` left out. Weights that were
    not read before are read now, once for all runs.
    """
    itself = Path(os.path.abspath(other_than))
    known: dict[str, Known] = {}
    for entry in library.vaes:
        if entry.path == itself or entry.decoder or not set(entry.families) & set(families):
            continue
        with suppress(VaekitError):  # gone meanwhile, or unreadable: listed as that, and no name for this one
            prints = library.fingerprint(entry).prints
            if prints is not None and prints.vae:
                found = Fingerprint(prints.vae, prints.encoder, prints.decoder)
                known.setdefault(entry.known or entry.name, Known(found, entry.path))
    return known
