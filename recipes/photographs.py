"""The photographs that the bundled VAEs are trained on, fetched, shrunk and rid of near-duplicates.

    python recipes/photographs.py FOLDER        # 1.2 GB to download, 35 MB kept

- One picture for each of ImageNet's classes, from github.com/EliSchwartz/imagenet-sample-images. They belong to their
  photographers; ImageNet's terms are for research and education.
- Backgrounds from Debian 12's packages, under free licences, mostly CC BY-SA; each package's copyright file, kept
  beside the pictures, names the authors.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

IMAGENET = "https://github.com/EliSchwartz/imagenet-sample-images/archive/refs/heads/master.zip"
DEBIAN = "http://deb.debian.org/debian"
PACKAGES = (
    "gnome-backgrounds",
    "plasma-workspace-wallpapers",
    "mate-backgrounds",
    "ukui-wallpapers",
    "lomiri-wallpapers",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "sway-backgrounds",
)
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SIDE = {"imagenet": 256, "debian": 448}
"""The shorter side that a picture is shrunk to."""
LONGEST = 2
"""Longer sides than so many times the shorter one are cropped."""
ALIKE = 6.0
"""Mean difference of two 16×16 thumbnails, of 255, under which the later picture is left out."""

Thumbnail = npt.NDArray[np.float32]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=600) as answer:
        return bytes(answer.read())


def imagenet() -> Iterator[tuple[str, Image.Image]]:
    """A name and a picture for each class."""
    with zipfile.ZipFile(io.BytesIO(get(IMAGENET))) as archive:
        for name in sorted(archive.namelist()):
            if Path(name).suffix.lower() in SUFFIXES:
                yield f"imagenet-{Path(name).stem.split('_')[0]}", Image.open(io.BytesIO(archive.read(name)))


def debian(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """A name and a picture for each background; the copyright files go to the folder."""
    index = lzma.decompress(get(f"{DEBIAN}/dists/bookworm/main/binary-all/Packages.xz")).decode()
    facts = {}
    for block in index.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != " ")
        facts[fields.get("Package", "")] = fields
    for package in PACKAGES:
        packed = get(f"{DEBIAN}/{facts[package]['Filename']}")
        if hashlib.sha256(packed).hexdigest() != facts[package]["SHA256"]:
            raise SystemExit(f"{package}: the download is not what Debian says it is")
        with tarfile.open(fileobj=io.BytesIO(data_of(packed))) as archive:
            for member in archive:
                inside = Path(member.name)
                if not member.isfile() or (content := archive.extractfile(member)) is None:
                    continue
                if inside.name == "copyright":
                    (folder / f"{package}.copyright").write_bytes(content.read())
                elif inside.suffix.lower() in SUFFIXES:
                    yield f"debian-{package}-{inside.stem}", Image.open(io.BytesIO(content.read()))


def data_of(deb: bytes) -> bytes:
    """The tar of a .deb's files: an ar archive whose member headers are 60 bytes of text."""
    place = len(b"!<arch>\n")
    while place < len(deb):
        name, size = deb[place : place + 16].decode().strip().rstrip("/"), int(deb[place + 48 : place + 58])
        place += 60
        if name.startswith("data.tar"):
            return deb[place : place + size]
        place += size + size % 2
    raise SystemExit("a Debian package without files")


def shrink(picture: Image.Image, side: int) -> Image.Image | None:
    """The picture with this shorter side, its middle where it is very long; None where it is too small."""
    if min(picture.size) < side // 2:
        return None
    picture = picture.convert("RGB")
    width, height = (min(length, LONGEST * min(picture.size)) for length in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    picture = picture.crop((left, top, left + width, top + height))
    factor = min(1.0, side / min(width, height))
    return picture.resize((round(width * factor), round(height * factor)), Image.Resampling.LANCZOS)


def thumbnail(picture: Image.Image) -> Thumbnail:
    return np.asarray(picture.resize((16, 16), Image.Resampling.BOX), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if folder.exists():
        raise SystemExit(f"{folder}: is there already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        part, seen = Path(temporary) / "part", list[Thumbnail]()
        part.mkdir()
        for source, pictures in (("imagenet", imagenet()), ("debian", debian(part))):
            for name, picture in pictures:
                small = shrink(picture, SIDE[source])
                if small is None or any(np.abs(thumbnail(small) - other).mean() < ALIKE for other in seen):
                    continue
                seen.append(thumbnail(small))
                small.save(part / f"{name}-{len(seen):04}.jpg", quality=92)
        part.rename(folder)
    print(f"{folder}: {len(seen)} pictures")


if __name__ == "__main__":
    main()
