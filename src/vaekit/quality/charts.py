"""Two pictures that tell VAEs apart better than photographs do: 64 colours, and a page of small text.

Drawn when they are needed, the same each time; no files.
"""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

COLOURS = "64 colours"
TEXT = "small text"

SQUARE = 64
"""Pixels: the side of one colour. A multiple of every family's downscale."""

PALETTE = (
    "000000 242424 494949 6d6d6d 929292 b6b6b6 dbdbdb ffffff",
    "ff0000 ffff00 00ff00 00ffff 0000ff ff00ff 800000 808000",
    "008000 008080 000080 800080 ff8080 ffff80 80ff80 80ffff",
    "8080ff ff80ff c04040 c0c040 40c040 40c0c0 4040c0 c040c0",
    "674b4d 5b5239 3f5939 025e4b 005f66 005c79 33547a 5b4d67",
    "9a6b6c 897450 627f4f 1a866a 008891 0083ad 5578ae 8b6d92",
    "c39192 b29b75 88a774 4caf90 00b0b9 19abd7 7d9fd7 b393bb",
    "d8c1c2 cdc7b0 b1ceaf 90d4c1 7bd5db 87d1ed acc9ed ccc2dc",
)
"""Rows of sRGB colours. Eight greys; red, yellow, green, cyan, blue and magenta in four tones; four circles of
eight hues. The circles lean so far towards green-blue that a* and b* of all 64 average to 0: a VAE that only takes
colour away moves this mean nowhere, and what does move it is a cast."""

SIDE = 512
MARGIN = 12
SIZES = (9, 10, 11, 12, 14, 16)
LINES = (
    "Sphinx of black quartz, judge my vow. 0123456789",
    "The five boxing wizards jump quickly: 17 + 25 = 42",
    "iIl1| O0Q 5S 8B rn/m cl/d vv/w ,.;:'\"!? {[(<>)]} @#$%&",
    "How vexingly quick daft zebras jump; pack my box!",
)
INKS = (("white", "black"), ("black", "white"), ("#f4ecd8", "#7a1f1f"), ("#20346b", "#ffd23f"))
"""Paper and ink of the bands of text."""


def colour_chart() -> Image.Image:
    """Eight rows of eight flat squares, 512×512 pixels, RGB; see PALETTE."""
    chart = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(chart)
    for row, colours in enumerate(PALETTE):
        for column, colour in enumerate(colours.split()):
            left, top = column * SQUARE, row * SQUARE
            draw.rectangle((left, top, left + SQUARE - 1, top + SQUARE - 1), fill=f"#{colour}")
    return chart


def text_page() -> Image.Image:
    """Four bands of text of 9 to 16 pixels, each on other paper, 512×512 pixels, RGB; the font is Pillow's own."""
    page = Image.new("RGB", (SIDE, SIDE))
    draw = ImageDraw.Draw(page)
    band = SIDE // len(INKS)
    for number, (paper, ink) in enumerate(INKS):
        top = number * band
        draw.rectangle((0, top, SIDE, top + band - 1), fill=paper)
        y = top + MARGIN // 2
        for line, size in enumerate(SIZES):
            words = "   ".join(LINES[(number + line + more) % len(LINES)] for more in range(len(LINES)))
            draw.text((MARGIN, y), words, fill=ink, font=_font(size))
            y += size + 8
    return page


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, without Raqm, which is there on some machines only and spaces letters in its own way."""
    font = ImageFont.load_default(size)
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC) if hasattr(font, "font_variant") else font
