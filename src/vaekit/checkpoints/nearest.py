"""Which known VAE one is, or is nearest to, encoder and decoder apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vaekit.checkpoints.architecture import squeeze
from vaekit.checkpoints.difference import compare
from vaekit.checkpoints.fingerprint import Fingerprint, fingerprint, half_of
from vaekit.checkpoints.locate import Location, locate
from vaekit.checkpoints.read import open_vae
from vaekit.errors import FileError

UNRELATED = 1.0
"""Distance from which on the difference is as large as the weights themselves."""


@dataclass(frozen=True)
class Known:
    """A VAE that has a name. path: where its weights are, if they are on this disk."""

    fingerprint: Fingerprint
    path: Path | None = None


@dataclass(frozen=True)
class Match:
    """The known VAE that a half is nearest to.

    distance: 0 for the same weights or rounded ones, see Difference.distance.
    Both None where none of the same shape is on this disk to be compared.
    """

    name: str | None
    distance: float | None

    def __str__(self) -> str:
        if self.name is None or self.distance is None:
            return "differs from all that are known"
        if self.distance == 0:
            return f"as {self.name}"
        if self.distance >= UNRELATED:
            return "unlike all that are known"
        return f"differs (nearest {self.name}, {100 * self.distance:.3g}% away)"


@dataclass(frozen=True)
class Nearest:
    """What each half is like; None for a half that the VAE does not have."""

    encoder: Match | None
    decoder: Match | None

    @property
    def name(self) -> str | None:
        """The known VAE that this one is, in every half that it has."""
        halves = [match for match in (self.encoder, self.decoder) if match]
        names = {match.name if match.distance == 0 else None for match in halves}
        return names.pop() if len(names) == 1 else None

    def __str__(self) -> str:
        """In words: "ft-MSE", or "encoder as ft-MSE, decoder differs (nearest ft-MSE, 3.1% away)"."""
        halves = {"encoder": self.encoder, "decoder": self.decoder}
        return self.name or ", ".join(f"{half} {match}" for half, match in halves.items() if match)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"name": self.name}


def nearest(state: Mapping[str, Tensor], known: Mapping[str, Known]) -> Nearest:
    """Compare a VAE (our names) with those that have names, each half with theirs.

    Equal fingerprints decide, and nothing is read. A half without its equal is
    measured against the files on this disk; one that cannot be read, or holds
    another kind of network, is passed over.
    """
    found = fingerprint(state)
    encoders, decoders = _matches(state, "encoder", found, known), _matches(state, "decoder", found, known)
    # published VAEs share encoders, and files are copies of each other: of several equal ones, what both halves are
    return Nearest(_pick(encoders, decoders), _pick(decoders, encoders))


def _pick(matches: list[Match], others: list[Match]) -> Match | None:
    names = {match.name for match in others}
    return min(matches, key=lambda match: match.name not in names, default=None)


def _matches(state: Mapping[str, Tensor], half: str, found: Fingerprint, known: Mapping[str, Known]) -> list[Match]:
    """Those at the smallest distance; empty where the VAE does not have that half."""
    mine = half_of(state, half)
    if not mine:
        return []
    equal = [name for name, entry in known.items() if getattr(entry.fingerprint, half) == getattr(found, half)]
    if equal:
        return [Match(name, 0.0) for name in equal]
    distances = _distances(mine, half, known)
    least = min(distances.values(), default=None)
    return [Match(name, least) for name, distance in distances.items() if distance == least] or [Match(None, None)]


def _distances(mine: Mapping[str, Tensor], half: str, known: Mapping[str, Known]) -> dict[str, float]:
    """How far that half is from those on this disk, of several copies one is read."""
    distances: dict[str, float] = {}
    for entry in known.values():
        its_hash = getattr(entry.fingerprint, half)
        if entry.path is None or its_hash is None or its_hash in distances:
            continue
        distance = half_distance(mine, half, entry.path)
        if distance is not None:
            distances[its_hash] = distance
    hashes = {name: getattr(entry.fingerprint, half) for name, entry in known.items()}
    return {name: distances[its_hash] for name, its_hash in hashes.items() if its_hash in distances}


def half_distance(mine: Mapping[str, Tensor], half: str, path: Path) -> float | None:
    """How far the "encoder" or "decoder" `mine` (our names) is from that of the VAE in a file.

    See Difference.distance; 0 for rounded copies too. None where the file
    cannot be read or holds another kind of network.
    """
    try:
        theirs = _read_half(path, half, mine)
    except FileError:
        return None
    if theirs is None:
        return None
    difference = compare(theirs, mine)
    if all(tensor.status in ("same", "rounded") for tensor in difference.tensors):
        return 0.0
    return difference.distance


def _read_half(path: Path, half: str, like: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
    location = locate(path)
    second = location.decoder if half == "decoder" else None
    source, identity = open_vae(Location(second) if second else location)
    names, shapes = half_of(identity.names, half), half_of(identity.config.shapes(), half)
    if shapes != {name: tuple(tensor.shape) for name, tensor in like.items()}:
        return None
    loaded = source.load(names.values())
    return {ours: loaded[theirs].reshape(squeeze(ours, tuple(loaded[theirs].shape))) for ours, theirs in names.items()}
