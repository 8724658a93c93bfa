"""VAEs side by side: the same pictures, or the same latents, through each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from vaekit import images
from vaekit.errors import FamilyError, OptionError, PictureError, VaekitError
from vaekit.latents import Latents
from vaekit.quality import folder as results
from vaekit.quality.measures import bits_per_pixel, measure_all
from vaekit.quality.naming import distinct
from vaekit.quality.places import where_they_differ
from vaekit.quality.result import ORIGINAL, Compared, Comparison, Contender, Gallery, Kind, Trial
from vaekit.quality.subjects import Sources, Subject, subjects

if TYPE_CHECKING:
    from vaekit.vae import VAE

Vaes = Sequence["VAE"] | Mapping[str, "VAE"]
Failed = Callable[[VaekitError], None]
Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Goes through items and shows how far it is; what is done with them, in words."""


def compare(
    sources: Sources,
    vaes: Vaes,
    *,
    with_charts: bool | None = None,
    round_trips: int = 1,
    alpha: str = "keep",
    max_pixels: int = images.DEFAULT_MAX_PIXELS,
) -> Comparison:
    """Take pictures, or latents, through several VAEs and measure what comes back.

    sources: one picture or Latents, or several; pictures of any size, as
    `VAE.encode` takes them. vaes: in the order of the tables. Both may come by the
    names that they are to have there. Pictures are measured against the original,
    latents against the first VAE's result. A VAE without encoder decodes what the
    first one of its family encoded. with_charts: the charts of vaekit.quality.charts too (default:
    with pictures yes; latents have none). round_trips: encode and decode so often,
    each time from the 8-bit result of the one before. alpha, max_pixels: as for
    `VAE.encode`; transparency is not compared.

    Raises OptionError (no VAE, an encoder alone, nothing to encode with), FamilyError
    (latents of another family), PictureError, LatentsError, NumericsError, ResourceError.
    """
    run = _Run(vaes, subjects(sources, with_charts, alpha, max_pixels), round_trips)
    both = list(run.each())
    return Comparison(run.contenders(), tuple(one for one, _ in both), tuple(gallery for _, gallery in both))


def compare_into(
    folder: Path,
    sources: Sources,
    vaes: Vaes,
    *,
    with_charts: bool | None = None,
    round_trips: int = 1,
    alpha: str = "keep",
    max_pixels: int = images.DEFAULT_MAX_PIXELS,
    force: bool = False,
    failed: Failed | None = None,
    track: Track | None = None,
) -> Comparison:
    """`compare`, and report, sheets, JSON and CSV in `folder`, each picture's sheets as soon as it is done.

    The Comparison keeps the numbers and no pictures. failed: told of a picture, or
    of a VAE on a picture, that went wrong, and the others go on; without it, and
    for a single picture that cannot be read, the error ends it. track: shows how
    far it is. Raises OutputError too.
    """
    results.check(folder, force=force)
    run = _Run(vaes, subjects(sources, with_charts, alpha, max_pixels), round_trips)
    return results.write(folder, run.contenders(), run.each(failed, track), expected=run.expected, force=force)


class _Run:
    """A comparison before it runs: everything checked that can be."""

    def __init__(self, vaes: Vaes, subjects: list[Subject], round_trips: int):
        self.vaes = _named(vaes)
        self.subjects = subjects
        self.round_trips = round_trips
        if round_trips < 1:
            raise OptionError(f"{round_trips} round trips are not possible; one is the least")
        if any(subject.kind == "latents" for subject in subjects):
            self._check_latents()
        else:
            self.encoders = _encoders(self.vaes)

    def _check_latents(self) -> None:
        if self.round_trips > 1:
            raise OptionError("round trips begin with a picture; latents are decoded once")
        spaces = [one.family for subject in self.subjects for one in subject.read() if isinstance(one, Latents)]
        for name, vae in self.vaes.items():
            other = next((space for space in spaces if not space.same_space(vae.family)), None)
            if other is not None:
                raise FamilyError(
                    f"these latents are of {other.name}, and {name} decodes {vae.family.name}; "
                    f"take VAEs of {other.name}, or compare them on pictures"
                )

    @property
    def expected(self) -> int:
        """How many results there will be."""
        return len(self.subjects) * len(self.vaes)

    def contenders(self) -> tuple[Contender, ...]:
        return tuple(Contender.of(name, vae) for name, vae in self.vaes.items())

    def each(self, failed: Failed | None = None, track: Track | None = None) -> Iterator[tuple[Compared, Gallery]]:
        """Every picture through every VAE. Raises the first error, or tells it to `failed` where others remain."""
        single = sum(subject.kind != "chart" for subject in self.subjects) == 1
        something = False
        for subject in (track or _untracked)(self.subjects, "comparing"):
            if subject.kind == "chart" and not something:
                break
            for name, content in _contents(subject, None if single else failed):
                done = self._compared(name, subject.kind, content, None if single and len(self.vaes) == 1 else failed)
                if done is not None:
                    something = True
                    yield done
        if not something:
            raise PictureError("nothing could be compared")

    def _compared(
        self, name: str, kind: Kind, content: Tensor | Latents, failed: Failed | None
    ) -> tuple[Compared, Gallery] | None:
        gallery = Gallery(images.to_pil(content)[0] if isinstance(content, Tensor) else None, {}, {})
        trials = [trial for vae in self.vaes if (trial := self._tried(vae, name, content, gallery, failed))]
        if not trials:
            return None
        reference = trials[0].vae if gallery.original is None else ORIGINAL
        size = gallery.reference.size
        side = min(max(min(size) // 6, 48), 160)
        places = where_they_differ(gallery.reference, list(gallery.results.values()), side=side)
        return Compared(name, kind, size, reference, tuple(places), tuple(trials)), gallery

    def _tried(
        self, vae: str, name: str, content: Tensor | Latents, gallery: Gallery, failed: Failed | None
    ) -> Trial | None:
        try:
            return (
                self._decoded(vae, content, gallery)
                if isinstance(content, Latents)
                else self._returned(vae, content, gallery)
            )
        except VaekitError as error:
            if failed is None:
                raise
            gallery.results.pop(vae, None)
            gallery.last.pop(vae, None)
            failed(type(error)(f"{vae} on {name}: {error}"))
            return None

    def _returned(self, name: str, picture: Tensor, gallery: Gallery) -> Trial:
        """There and back, as often as asked; seconds are those of the first time."""
        encoder, trips, seconds, bits = self.encoders[name], [], [], 0.0
        for trip in range(self.round_trips):
            started = time.perf_counter()
            latents = self.vaes[encoder].encode(picture)
            encoded = time.perf_counter()
            result = _decode(self.vaes[name], latents)
            seconds += [encoded - started, time.perf_counter() - encoded]
            (gallery.last if trip else gallery.results)[name] = result
            trips.append(measure_all(gallery.reference, result))
            bits = bits_per_pixel(latents)
            picture = images.read(result).pixels
        return Trial(name, encoder, tuple(trips), bits, seconds[0] if encoder == name else None, seconds[1])

    def _decoded(self, name: str, latents: Latents, gallery: Gallery) -> Trial:
        started = time.perf_counter()
        picture = _decode(self.vaes[name], latents)
        seconds = time.perf_counter() - started
        gallery.results[name] = picture
        return Trial(name, None, (measure_all(gallery.reference, picture),), bits_per_pixel(latents), None, seconds)


def _named(vaes: Vaes) -> dict[str, VAE]:
    if isinstance(vaes, Mapping):
        named = dict(vaes)
    else:
        named = dict(zip(distinct([vae.name for vae in vaes]), vaes, strict=True))
    if not named:
        raise OptionError("name at least one VAE to compare")
    for name, vae in named.items():
        if not vae.can_decode:
            raise OptionError(f"{name} has no decoder: nothing comes back that could be compared")
    return named


def _encoders(vaes: Mapping[str, VAE]) -> dict[str, str]:
    """Who encodes for whom: each for itself; for one without encoder the first of its family that has one."""
    encoders = {}
    for name, vae in vaes.items():
        able = [other for other, o in vaes.items() if o.can_encode and o.family.same_space(vae.family)]
        if not able:
            raise OptionError(f"{name} only decodes, and no other VAE of {vae.family.name} here encodes; add one")
        encoders[name] = name if name in able else able[0]
    return encoders


def _contents(subject: Subject, failed: Failed | None) -> list[tuple[str, Tensor | Latents]]:
    """Nothing where it cannot be read, if somebody is told."""
    try:
        return subject.contents()
    except PictureError as error:
        if failed is None:
            raise
        failed(error)
        return []


def _decode(vae: VAE, latents: Latents) -> Image.Image:
    decoded = vae.decode(latents)
    assert isinstance(decoded, Image.Image)  # one picture at a time
    return decoded.convert("RGB")


def _untracked(items: Sequence[Any], what: str) -> Iterable[Any]:
    return items
