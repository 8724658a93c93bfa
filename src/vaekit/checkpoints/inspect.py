"""What is in a file, from its header alone: no weight is read, and for safetensors torch is not imported."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaekit.checkpoints.identify import Identity
from vaekit.checkpoints.locate import Location, locate
from vaekit.checkpoints.read import open_vae
from vaekit.checkpoints.sources import Source


@dataclass(frozen=True)
class Inspection:
    """One file and the VAE in it. size: bytes; parameters: of the VAE; other_tensors: of the rest of the file."""

    path: Path
    size: int
    container: str
    identity: Identity
    dtypes: Mapping[str, int]
    parameters: int
    other_tensors: int
    metadata: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        identity = self.identity
        return {
            "path": str(self.path),
            "size": self.size,
            "container": self.container,
            "kind": identity.config.kind,
            "layout": identity.layout,
            "prefix": identity.prefix,
            "families": [family.name for family in identity.families],
            "evidence": identity.evidence,
            "encoder": identity.config.has_encoder,
            "decoder": identity.config.has_decoder,
            "baked": identity.baked,
            "dtypes": dict(self.dtypes),
            "parameters": self.parameters,
            "other_tensors": self.other_tensors,
            "config": asdict(identity.config) | {"downscale": identity.config.downscale},
            "metadata": dict(self.metadata),
        }


def inspect(path: str | Path) -> list[Inspection]:
    """Tell which VAE a file or folder holds; two entries for a pair of TAESD files, else one.

    Reads headers only: a checkpoint of 4 GB takes well under half a second.
    Raises FileError, UnsafeFileError and NotAVAEError, each with one line.
    """
    location = locate(Path(path))
    places = [location] if location.decoder is None else [location, Location(location.decoder)]
    return [_inspect_one(place) for place in places]


def _inspect_one(location: Location) -> Inspection:
    source, identity = open_vae(location)
    infos = [source.tensors[name] for name in identity.names.values()]
    return Inspection(
        path=location.weights,
        size=_size(source),
        container=source.container,
        identity=identity,
        dtypes=Counter(info.dtype for info in infos),
        parameters=sum(math.prod(info.shape) for info in infos),
        other_tensors=len(source.tensors) - len(infos),
        metadata=source.metadata,
    )


def _size(source: Source) -> int:
    return sum(path.stat().st_size for path in source.files)
