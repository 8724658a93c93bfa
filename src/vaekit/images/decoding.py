"""A PIL picture decoded and turned upright, with Pillow's quirks mended."""

from __future__ import annotations

from PIL import ExifTags, Image

_TURNED = "turned as its EXIF orientation says"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture, decoded and upright; with notes on what that did. What Pillow raises goes through."""
    fresh = bool(getattr(image, "tile", None))
    rawmode, reduced = _depth_in_file(image)
    tiff_orientation = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation, 1)  # Pillow turns TIFFs itself
    image.load()
    upright, turned = _upright(image, tiff_orientation)
    notes = [_frame_note(image, fresh), turned, "16 bit reduced to 8" if reduced else None]
    return _with_true_transparency(upright, rawmode), [note for note in notes if note]


def _depth_in_file(image: Image.Image) -> tuple[str, bool]:
    """How the samples of a file not yet decoded are stored, and whether Pillow will cut them to 8 bits."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return "", False
    arguments = tiles[0][3] if isinstance(tiles[0][3], tuple) else (tiles[0][3],)
    rawmode = str(arguments[0]) if arguments else ""
    deep = ";16" in rawmode or (image.format == "PPM" and isinstance(arguments[-1], int) and arguments[-1] > 255)
    return rawmode, deep and not image.mode.startswith("I")


def _upright(image: Image.Image, tiff_orientation: object) -> tuple[Image.Image, str | None]:
    if tiff_orientation in _TURNS:
        return image, _TURNED
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # any bytes can stand in EXIF; the pixels are sound all the same
        return image, "its EXIF data is damaged and was not used"
    return (image, None) if turn is None else (image.transpose(turn), _TURNED)


def _frame_note(image: Image.Image, fresh: bool) -> str | None:
    try:
        frames, current = _count_frames(image, fresh), image.tell()
    except Exception:  # a later frame is damaged; the one that was read is not
        return "damaged after its first frame, which was read"
    if frames == 1:
        return None
    return f"first of {frames} frames" if current == 0 else f"frame {current + 1} of {frames}"


def _count_frames(image: Image.Image, fresh: bool) -> int | str:
    if image.format == "PSD":
        return 1  # its frames are layers; Pillow reads the flattened picture
    if image.format == "TIFF":  # a chain of a million pages would take hours to follow
        return "several" if getattr(image, "is_animated", False) else 1
    # Counting makes Pillow forget what was drawn on a decoded picture, so there only a known count is taken.
    count: int = getattr(image, "n_frames", 1) if fresh else vars(image).get("n_frames", 1)
    return count


def _with_true_transparency(image: Image.Image, rawmode: str) -> Image.Image:
    """Pillow brings 2, 4 and 16-bit samples of a PNG to 8 bits, but not the colour that stands for transparent."""
    key = image.info.get("transparency")
    widen = {"L;2": 85, "L;4": 17}.get(rawmode)
    if widen and isinstance(key, int):
        true: int | tuple[int, ...] = key * widen
    elif rawmode == "RGB;16B" and isinstance(key, tuple):
        true = tuple(sample >> 8 for sample in key)
    else:
        return image
    image = image.copy()
    image.info["transparency"] = true
    return image
