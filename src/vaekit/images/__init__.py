"""Pictures <-> tensors in [-1, 1]: files of every kind people have, PIL pictures, arrays, tensors.

The one place that knows about orientation, transparency, colour profiles, bit
depth, padding and cropping. Files are hostile: their content is believed, never
their name, and nothing but Pictures or a PictureError comes out of reading one.
"""

from vaekit.images.canvas import Canvas, Output
from vaekit.images.finding import find
from vaekit.images.formats import SUFFIXES
from vaekit.images.opening import DEFAULT_MAX_PIXELS, size_of
from vaekit.images.pictures import Pictures
from vaekit.images.reading import PictureSource, read
from vaekit.images.row_reading import LARGE, RowPicture, open_rows
from vaekit.images.row_writing import SUFFIXES as BY_ROWS
from vaekit.images.row_writing import write_rows
from vaekit.images.sizes import crop, pad
from vaekit.images.telling import read_text
from vaekit.images.writing import check_format, to_pil, write

__all__ = [
    "BY_ROWS",
    "DEFAULT_MAX_PIXELS",
    "LARGE",
    "SUFFIXES",
    "Canvas",
    "Output",
    "PictureSource",
    "Pictures",
    "RowPicture",
    "check_format",
    "crop",
    "find",
    "open_rows",
    "pad",
    "read",
    "read_text",
    "size_of",
    "to_pil",
    "write",
    "write_rows",
]
