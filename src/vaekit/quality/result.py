"""What a comparison found: the numbers, and the pictures they were measured on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from vaekit.quality.measures import MEASURES, Measures, for_json, in_words, mean
from vaekit.quality.places import Box

if TYPE_CHECKING:
    from vaekit.vae import VAE

Kind = Literal["picture", "chart", "latents"]
Row = dict[str, float | None]
"""Values by the keys of MEASURES."""

ORIGINAL = "the original"


@dataclass(frozen=True)
class Contender:
    """A VAE as it was compared. name: what tells it apart from the others; runs: device and dtypes."""

    name: str
    family: str
    latent_channels: int
    downscale: int
    parameters: int
    fingerprint: str
    runs: str

    @staticmethod
    def of(name: str, vae: VAE) -> Contender:
        family = vae.family
        return Contender(
            name,
            family.name,
            family.latent_channels,
            family.downscale,
            vae.parameters,
            vae.fingerprint.vae,
            str(vae.placement),
        )


@dataclass(frozen=True)
class Trial:
    """What one VAE made of one picture. trips: its measures after one round trip, two, and so on; seconds of the first.

    encode_seconds is None for latents, and where another VAE of the family encoded (encoder tells which).
    """

    vae: str
    encoder: str | None
    trips: tuple[Measures, ...]
    bits_per_pixel: float
    encode_seconds: float | None
    decode_seconds: float

    def row(self, trip: int = 1) -> Row:
        """The values after that many round trips."""
        once = {
            "bits_per_pixel": self.bits_per_pixel,
            "encode_seconds": self.encode_seconds,
            "decode_seconds": self.decode_seconds,
        }
        return asdict(self.trips[trip - 1]) | once

    def to_dict(self) -> dict[str, Any]:
        """For JSON; every round trip where there are several."""
        told = {"vae": self.vae, "encoder": self.encoder} | for_json(self.row())
        return told | ({"round_trips": [trip.to_dict() for trip in self.trips]} if len(self.trips) > 1 else {})


@dataclass(frozen=True)
class Compared:
    """One picture, or the latents of one, through every VAE that managed it.

    reference: what results were measured against, the original, or for latents the first VAE's result.
    places: where the results differ most.
    """

    name: str
    kind: Kind
    size: tuple[int, int]
    reference: str
    places: tuple[Box, ...]
    trials: tuple[Trial, ...]

    def to_dict(self) -> dict[str, Any]:
        told = {"name": self.name, "kind": self.kind, "size": list(self.size), "reference": self.reference}
        return told | {"places": [list(box) for box in self.places], "results": [t.to_dict() for t in self.trials]}


@dataclass(frozen=True, eq=False)
class Gallery:
    """The pictures of one `Compared`, RGB, of one size. last: after all round trips, where there were several."""

    original: Image.Image | None
    results: dict[str, Image.Image]
    last: dict[str, Image.Image]

    @property
    def reference(self) -> Image.Image:
        return next(iter(self.results.values())) if self.original is None else self.original

    def labelled(self, round_trips: int) -> dict[str, Image.Image]:
        """Every picture under its label: the original first, the results, and what was left after all round trips."""
        first = {} if self.original is None else {ORIGINAL: self.original}
        return first | self.results | {after(name, round_trips): last for name, last in self.last.items()}


@dataclass(frozen=True)
class Table:
    """Values by VAE, of one chart or in the mean over pictures; counts: over how many."""

    title: str
    rows: dict[str, Row]
    counts: dict[str, int]

    @property
    def count(self) -> int:
        return max(self.counts.values())

    def best(self, key: str) -> set[str]:
        """The VAEs that are best in one measure; nobody where all are equal."""
        measure = next(m for m in MEASURES if m.key == key)
        badness = {name: measure.badness(row[key]) for name, row in self.rows.items()}
        least = min(badness.values())
        winners = {name for name, value in badness.items() if value == least}
        return winners if len(winners) < len(badness) else set()

    def keys(self) -> list[str]:
        """The measures that somebody has."""
        return [m.key for m in MEASURES if any(row[m.key] is not None for row in self.rows.values())]


@dataclass(frozen=True)
class Comparison:
    """Every VAE on every picture.

    galleries: the pictures, in the order of `compared`; none where they went to a folder.
    """

    contenders: tuple[Contender, ...]
    compared: tuple[Compared, ...]
    galleries: tuple[Gallery, ...] = ()

    @property
    def round_trips(self) -> int:
        return max(len(trial.trips) for one in self.compared for trial in one.trials)

    @property
    def reference(self) -> str:
        return self.compared[0].reference

    def tables(self, trip: int = 1) -> tuple[Table, ...]:
        """The mean over the pictures, then each chart, after that many round trips."""
        pictures = [one for one in self.compared if one.kind != "chart"]
        groups = [(_title(pictures), pictures)] if pictures else []
        groups += [(one.name, [one]) for one in self.compared if one.kind == "chart"]
        return tuple(self._table(title, group, trip) for title, group in groups)

    def table_of(self, one: Compared) -> Table:
        """One picture's."""
        return self._table(one.name, [one], 1)

    def _table(self, title: str, group: list[Compared], trip: int) -> Table:
        rows: dict[str, list[Row]] = {contender.name: [] for contender in self.contenders}
        for trial in (trial for one in group for trial in one.trials):
            rows[trial.vae].append(trial.row(trip))
        return Table(title, {n: mean(r) for n, r in rows.items() if r}, {n: len(r) for n, r in rows.items() if r})

    def copies(self) -> Iterator[list[str]]:
        """The names of VAEs that have the same weights."""
        same = defaultdict(list)
        for contender in self.contenders:
            same[contender.fingerprint].append(contender.name)
        return (names for names in same.values() if len(names) > 1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what each measure means, the VAEs, all values, and their means."""
        last = self.round_trips
        return {
            "measures": {measure.key: measure.told for measure in MEASURES},
            "reference": self.reference,
            "vaes": [asdict(contender) for contender in self.contenders],
            "means": [_table_dict(table, 1) for table in self.tables()]
            + ([_table_dict(table, last) for table in self.tables(last)] if last > 1 else []),
            "compared": [one.to_dict() for one in self.compared],
        }

    def save(self, folder: Path, *, force: bool = False) -> Path:
        """Write the report, sheets, JSON and CSV; see vaekit.quality.folder.write. Gives the page's path."""
        from vaekit.quality.folder import write

        expected = len(self.compared) * len(self.contenders)
        write(folder, self.contenders, zip(self.compared, self.galleries, strict=True), expected=expected, force=force)
        return folder / "index.html"


def after(name: str, round_trips: int) -> str:
    """What a VAE's last picture is called."""
    return f"{name}, {round_trips} round trips"


def _title(pictures: list[Compared]) -> str:
    return pictures[0].name if len(pictures) == 1 else f"mean of {len(pictures)} pictures"


def _table_dict(table: Table, trip: int) -> dict[str, Any]:
    results = [
        {"vae": name, "pictures": table.counts[name], **for_json(row), "look": in_words(row)}
        for name, row in table.rows.items()
    ]
    return {"of": table.title, "round_trip": trip, "results": results}
