"""Other VAEs that understand the same latents."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from vaekit.catalog import scan
from vaekit.errors import VaekitError
from vaekit.loading import load
from vaekit.vae import VAE

log = logging.getLogger("vaekit")

MOST = 6
"""That are taken unasked."""


def relatives(vae: VAE, named: Sequence[str] | None = None, *, device: str = "auto") -> list[VAE]:
    """The VAEs of these names; without any, those of the same family on this disk, copies once, six at most.

    They decode in the dtype that `vae` decodes in.

    Raises what `load` raises for a named one; of the others one that cannot be loaded is told and left out.
    """
    if named is not None:
        return [load(name, device=device, dtype=vae.placement.decode_dtype) for name in named]
    found: list[VAE] = []
    library = scan()
    for group in library.groups(entry for entry in library.vaes if entry.families == (vae.family.name,)):
        if len(found) == MOST:
            log.info("more VAEs of %s are here than the %d that are taken; --other names them", vae.family.name, MOST)
            break
        try:
            other = load(
                group[0].path,
                decoder=group[0].decoder,
                family=vae.family,
                device=device,
                dtype=vae.placement.decode_dtype,
            )
        except VaekitError as error:
            log.warning("left out: %s", error)
            continue
        if other.can_decode and other.fingerprint != vae.fingerprint:
            found.append(other)
    return found
