"""Everything that vaekit raises on purpose: one tree, one clear line each.

The command line prints the line on standard error and exits with `exit_code`:
2 where the user can mend the input, 1 where the machine or the network failed.
"""

from __future__ import annotations


class VaekitError(Exception):
    """The root: catch this one to catch all of them."""

    exit_code = 2


class FileError(VaekitError):
    """A file is missing, empty, truncated, or not what its header says."""


class UnsafeFileError(FileError):
    """A pickle asks for code that vaekit will not run."""


class NotAVAEError(FileError):
    """A sound file that holds something else: a LoRA, a text encoder, a VAE of an unknown kind."""


class FamilyError(VaekitError):
    """Latent spaces do not match, or nothing tells which one a VAE belongs to."""


class PictureError(VaekitError):
    """A picture cannot be read, or is larger than the limit."""


class LatentsError(VaekitError):
    """Latents have the wrong shape, dtype or content, or their file cannot be read."""


class OptionError(VaekitError):
    """An argument that nothing can be done with."""


class OutputError(VaekitError):
    """A result cannot be written: it exists, no permission, the disk is full."""


class NumericsError(VaekitError):
    """NaN or infinity where a picture or latents should be, even in the widest dtype."""

    exit_code = 1


class ResourceError(VaekitError):
    """The machine has not enough memory for what was asked."""

    exit_code = 1


class NetworkError(VaekitError):
    """A server cannot be reached, is busy, breaks off, or answers what it should not."""

    exit_code = 1


class AccessError(VaekitError):
    """A server wants a login, a licence accepted, or another account."""
