"""Emoji with their names: the pictures that `mini-sd` is trained on, fetched and laid out.

    python recipes/emoji.py fetch FOLDER            # npm's packages, unpacked; 0.2 GB
    python recipes/emoji.py captions FOLDER OUT     # OUT/NNNN.png, 128x128 on white, and OUT/captions.jsonl

Licences: Noto Emoji (Google, Apache-2.0 for the pictures), Twemoji (Twitter and contributors, CC BY 4.0), Fluent Emoji
(Microsoft, MIT); names and keywords: emojibase-data (Miles Johnson, MIT; from Unicode's CLDR).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

REGISTRY = "https://registry.npmjs.org"
SIDE = 128
MARGIN = 8
KEYWORDS = 4
"""How many of emojibase's keywords go with a name."""

PACKAGES = {
    "emoji-datasource-google": ("16.0.0", "package/img/google/64/"),
    "emoji-datasource-twitter": ("16.0.0", "package/img/twitter/64/"),
    "@lobehub/fluent-emoji-3d": ("1.1.0", "package/assets/"),
    "emojibase-data": ("17.0.0", "package/en/data.json"),
}
STYLES = {
    "soft": "emoji-datasource-google",
    "flat": "emoji-datasource-twitter",
    "3d": "@lobehub/fluent-emoji-3d",
}
"""The word that asks for a style, and where its pictures are."""

LEFT_OUT = {2, 8, 9}
"""Groups of emojibase: components, symbols, flags; of the symbols the coloured shapes are kept."""
SHAPES = {"geometric"}


def fetch(folder: Path) -> None:
    """Download what the packages hold of use here, checked against npm's SHA-512."""
    for name, (version, inside) in PACKAGES.items():
        target = folder / name.replace("/", "__")
        if target.is_dir():
            continue
        with urllib.request.urlopen(f"{REGISTRY}/{name}/{version}", timeout=60) as answer:
            about = json.load(answer)["dist"]
        with urllib.request.urlopen(about["tarball"], timeout=600) as answer:
            packed = answer.read()
        expected = about["integrity"]
        if "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode() != expected:
            raise SystemExit(f"{name}: the download is not what npm says it is")
        unpack(packed, inside, target)
        print(f"{name} {version}: {sum(1 for _ in target.iterdir())} files")


def unpack(packed: bytes, inside: str, target: Path) -> None:
    """The files under `inside` of an npm package, flat."""
    part = target.with_name(target.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            if member.isfile() and (member.name.startswith(inside) or member.name == "package/LICENSE"):
                content = archive.extractfile(member)
                assert content is not None
                (part / Path(member.name).name).write_bytes(content.read())
    part.rename(target)


def captions(folder: Path, out: Path) -> None:
    """Every emoji in every style as a picture of its own, with a line that names it."""
    out.mkdir(parents=True, exist_ok=True)
    known = json.loads((folder / "emojibase-data" / "data.json").read_text("utf-8"))
    lines = []
    for entry in filter(wanted, known):
        for style, package in STYLES.items():
            path = find(folder / package.replace("/", "__"), entry["hexcode"])
            if path is None:
                continue
            name = f"{len(lines):04}.png"
            on_white(path).save(out / name)
            lines.append({"file": name, "style": style, "name": clean(entry["label"]), "keywords": keywords(entry)})
    (out / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    print(f"{len(lines)} pictures of {len({line['name'] for line in lines})} things in {len(STYLES)} styles")


def wanted(entry: dict[str, Any]) -> bool:
    """Things and beings; no letters, signs and flags, and of people not every gender and family."""
    if "group" not in entry:
        return False
    if entry["group"] in LEFT_OUT:
        return entry["group"] == 8 and entry["label"].split()[-1] in ("circle", "square", "diamond", "triangle")
    label = entry["label"]
    many = label.startswith(("family", "couple", "kiss:", "women ", "men ", "people ")) or "facing right" in label
    return not many and not (entry["group"] == 1 and label.startswith(("man ", "woman ")) and "gender" in entry)


def clean(label: str) -> str:
    """Lower case, plain quotes, no colons."""
    return label.lower().replace("’", "'").replace(":", "").replace("“", "").replace("”", "")


def keywords(entry: dict[str, Any]) -> list[str]:
    """The first keywords that the name does not already say."""
    words = clean(entry["label"]).split()
    return [tag for tag in map(clean, entry.get("tags", [])) if tag not in words][:KEYWORDS]


def find(folder: Path, hexcode: str) -> Path | None:
    """An emoji's file by its code points, with or without the variation selectors."""
    code = hexcode.lower()
    bare = "-".join(point for point in code.split("-") if point != "fe0f")
    for stem in dict.fromkeys((code, bare, f"{bare}-fe0f", code.lstrip("0"), bare.lstrip("0"))):
        for suffix in (".png", ".webp"):
            if (folder / (stem + suffix)).exists():
                return folder / (stem + suffix)
    return None


def on_white(path: Path) -> Image.Image:
    """The picture on white, SIDE x SIDE, with a margin."""
    inner = SIDE - 2 * MARGIN
    emoji = Image.open(path).convert("RGBA").resize((inner, inner), Image.Resampling.LANCZOS)
    picture = Image.new("RGBA", (SIDE, SIDE), "white")
    picture.alpha_composite(emoji, (MARGIN, MARGIN))
    return picture.convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["fetch", "captions"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    given = parser.parse_args()
    if given.step == "fetch":
        fetch(given.folder)
    elif given.out is None:
        parser.error("captions needs OUT")
    else:
        captions(given.folder, given.out)


if __name__ == "__main__":
    main()
