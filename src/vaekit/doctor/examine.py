"""From what a user names to what is wrong with it."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vaekit import images
from vaekit.checkpoints.locate import WEIGHT_SUFFIXES, locate
from vaekit.checkpoints.sources import INDEX_SUFFIX
from vaekit.doctor.findings import Finding
from vaekit.errors import FileError, OptionError, PictureError
from vaekit.loading import find

if TYPE_CHECKING:
    import torch

    from vaekit.checkpoints.read import Weights
    from vaekit.doctor.samples import Track

ENDINGS = (*images.SUFFIXES, *WEIGHT_SUFFIXES)


@dataclass(frozen=True)
class Examination:
    """What was looked at and what was found.

    measured: the numbers behind it, by name. skipped: what could not be looked at and why, a line each.
    """

    source: str
    kind: Literal["VAE", "picture", "devices"]
    findings: Sequence[Finding]
    measured: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[str] = ()

    @property
    def healthy(self) -> bool:
        """Whether there is nothing certain and nothing likely; what is only possible may be meant so."""
        return all(finding.sure == "possible" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.source,
            "kind": self.kind,
            "healthy": self.healthy,
            "findings": [finding.to_dict() for finding in self.findings],
            "measured": dict(self.measured),
            "skipped": list(self.skipped),
        }


def sources(patterns: Sequence[str]) -> list[Path]:
    """The files and VAE folders that a command's arguments mean, without duplicates, in the order given.

    A bundled VAE's name; a file; a diffusers folder or a pair of TAESD files in one; any other folder, or a glob:
    the pictures and files of weights in it. Raises FileError and PictureError for what means nothing.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        for path in _expand(pattern):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _expand(pattern: str) -> list[Path]:
    if glob.has_magic(pattern) and not os.path.lexists(pattern):
        return images.find([pattern], suffixes=ENDINGS)
    path = find(pattern)
    return images.find([str(path)], suffixes=ENDINGS) if path.is_dir() and not _is_vae_folder(path) else [path]


def _is_vae_folder(folder: Path) -> bool:
    try:
        location = locate(folder)
    except FileError:
        return False
    return bool(location.config or location.decoder)


def is_picture(path: Path) -> bool:
    """Whether a file is to be read as a picture: by its ending, by its content where that tells nothing."""
    suffix = path.suffix.lower()
    if suffix in images.SUFFIXES:
        return True
    if suffix in WEIGHT_SUFFIXES or path.name.endswith(INDEX_SUFFIX) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise PictureError(f"{path}: {error.strerror or error}") from error
    return not (head.startswith((b"PK", b"\x80")) or head[8:] == b"{")


def examine(
    path: Path,
    *,
    decoder: Path | None = None,
    device: str = "auto",
    max_pixels: int = images.DEFAULT_MAX_PIXELS,
    track: Track = iter,
) -> Examination:
    """What is wrong with a VAE (file, folder or checkpoint) or a picture; see `examine_vae` and `examine_picture`.

    Raises OptionError for a picture with a `decoder`, which would do nothing.
    """
    if is_picture(path):
        if decoder is not None:
            raise OptionError(f"{path}: a picture takes no decoder; name the VAE, or leave it out")
        return examine_picture(path, max_pixels=max_pixels)
    return examine_vae(path, decoder=decoder, device=device, track=track)


def examine_picture(source: images.PictureSource, *, max_pixels: int = images.DEFAULT_MAX_PIXELS) -> Examination:
    """Which of the known faults of decoded pictures one has, by itself: there is no original to compare it with.

    max_pixels: larger files are refused. Raises PictureError and OptionError.
    """
    from vaekit.doctor.paleness import measure_tones
    from vaekit.doctor.pictures import check_picture

    pixels = images.read(source, alpha="white", max_pixels=max_pixels).pixels
    if len(pixels) != 1:
        raise PictureError(f"{len(pixels)} pictures at once; examine them one by one")
    values = ((pixels[0].permute(1, 2, 0) + 1) / 2).contiguous().numpy()
    tones = measure_tones(values)
    name = str(source) if isinstance(source, str | os.PathLike) else "the picture"
    return Examination(name, "picture", check_picture(values, tones), {"tones": tones.to_dict()})


def examine_vae(path: Path, *, decoder: Path | None = None, device: str = "auto", track: Track = iter) -> Examination:
    """The weights of a VAE, its layers against float16, and what it does to the sample photos. No family is needed.

    decoder: the other file of a TAESD pair. device: where it is run, in float32. track: wraps the sample photos, for
    progress. Raises FileError, UnsafeFileError, NotAVAEError, OptionError and ResourceError.
    """
    from vaekit.checkpoints.read import read
    from vaekit.doctor.weights import check_weights
    from vaekit.engine.placement import place

    where = place(device).device
    broken = [finding for file in (path, decoder) if file is not None for finding in check_weights(file)]
    if broken:
        return Examination(str(path), "VAE", broken, skipped=["its layers and pictures: nothing runs on such weights"])
    return _run(str(path), read(path, decoder=decoder), where, track)


def _run(name: str, weights: Weights, device: torch.device, track: Track) -> Examination:
    from vaekit.doctor.behaviour import check_behaviour, measure_behaviour
    from vaekit.doctor.samples import run_samples
    from vaekit.doctor.weights import check_activations, measure_activations

    config = weights.identity.config
    if not config.has_encoder:
        return Examination(name, "VAE", [], skipped=["its layers and pictures: it has no encoder to make latents"])
    samples = run_samples(weights, device, track=track)
    findings = check_activations(samples.peaks, weights.identity.families)
    measured: dict[str, Any] = {"activations": measure_activations(samples.peaks)}
    if samples.decoded:
        behaviour = measure_behaviour(samples.originals, samples.decoded)
        measured["sample_photos"] = behaviour.to_dict()
        findings += check_behaviour(behaviour, samples.names)
    skipped = [] if config.has_decoder else ["its pictures: it has no decoder"]
    return Examination(name, "VAE", findings, measured, skipped)


def examine_devices(path: Path, *, decoder: Path | None = None, track: Track = iter) -> Examination:
    """A VAE on every device and in every dtype of this machine, against the CPU in float32.

    track: wraps the devices with their dtypes, for progress. Raises FileError, UnsafeFileError and NotAVAEError;
    NumericsError where the CPU gives NaN already.
    """
    from vaekit.checkpoints.read import read
    from vaekit.doctor.devices import check_trials, try_devices

    trials = list(try_devices(read(path, decoder=decoder), track=track))
    measured = {"trials": [trial.to_dict() for trial in trials]}
    return Examination(str(path), "devices", check_trials(trials), measured)
