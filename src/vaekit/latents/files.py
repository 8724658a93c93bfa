"""Latents in files: vaekit's own, ComfyUI's .latent, kohya's .npz caches, and bare tensors.

vaekit's own format, version 1, is a safetensors file with the tensor "latents"
[B, C, h, w], an optional tensor "alpha" (uint8), and `Header` as metadata.

Round trips are exact. Values in model space are stored as they are. Raw values
(`scaled=False`, and ComfyUI's files, which are raw by definition) are computed
in float64 and stored in the narrowest of float32 and float64 that leads back to
the identical latents; where neither does (a shift swallows numbers that are
very close to zero), the latents themselves lie beside them as "exact".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from torch import Tensor

from vaekit.errors import FamilyError, FileError, LatentsError, OptionError, UnsafeFileError, VaekitError
from vaekit.families import Family, families
from vaekit.families import family as family_called
from vaekit.files import atomic_write
from vaekit.latents.containers import TORCH_DTYPES, Container, not_latents, open_container
from vaekit.latents.core import Latents
from vaekit.version import version

log = logging.getLogger("vaekit")

FORMATS = ("vaekit", "comfyui")
MARK: Final = "vaekit-latents"
COMFYUI_TENSOR = "latent_tensor"
COMFYUI_MARKER = "latent_format_version_0"
"""An empty tensor by which ComfyUI tells its raw files from older ones, which hold SD1's model space."""

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TORCH_DTYPES}

KOHYA_KEY = re.compile(r"latents_(\d{1,6})x(\d{1,6})")
KOHYA_PLAIN = {"sd": "sd1", "sdxl": "sdxl"}
KOHYA_SIZED = {"flux": "flux1", "sd3": "sd3"}
KOHYA_UNKNOWN = {"lumina": "Lumina", "hi": "HunyuanImage", "anima": "Anima"}
"""The ends of kohya's file names: STEM_sdxl.npz. The first two have plain keys, the others keys with a size."""


class Header(BaseModel):
    """The metadata of our files. safetensors keeps nothing but strings there.

    family_numbers: the whole Family as JSON, so that a family unknown to the
    reader is read too. dtype: of the latents, where the stored values are raw.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["vaekit-latents"] = MARK
    version: Literal["1"] = "1"
    family: str
    family_numbers: str
    vae: str | None = None
    width: PositiveInt
    height: PositiveInt
    scaled: Literal["true", "false"]
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    vaekit: str = "unknown"

    def as_metadata(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.model_dump(exclude_none=True).items()}


# Writing


def write(
    latents: Latents, path: str | Path, *, format: str | None = None, scaled: bool = True, force: bool = False
) -> None:
    """Write latents to a file; reading it gives the identical latents.

    format: "vaekit", or "comfyui" (the default where the name ends in .latent).
    scaled: model space (True) or raw; ComfyUI's files are raw by definition.
    Raises OptionError (an unknown format), LatentsError (ComfyUI's format and a
    folded family), OutputError (the file exists and not `force`, no permission,
    disk full).
    """
    path = Path(path)
    chosen = format or ("comfyui" if path.suffix.lower() == ".latent" else "vaekit")
    if chosen not in FORMATS:
        raise OptionError(f"no format of latents is called {chosen!r}; there are {' and '.join(FORMATS)}")
    if chosen == "comfyui":
        _refuse_folded(latents.family)
        tensors = _raw_tensors(latents, COMFYUI_TENSOR) | {COMFYUI_MARKER: torch.empty(0)}
    else:
        tensors = {"latents": _plain(latents.tensor)} if scaled else _raw_tensors(latents, "latents")
    if latents.alpha is not None:
        tensors["alpha"] = _plain(latents.alpha)
    header = _header(latents, scaled=scaled and chosen == "vaekit")
    with atomic_write(path, force=force) as part:
        part.write_bytes(safetensors.torch.save(tensors, header.as_metadata()))


def _header(latents: Latents, *, scaled: bool) -> Header:
    width, height = latents.size
    return Header.model_validate(
        {
            "family": latents.family.name,
            "family_numbers": latents.family.model_dump_json(),
            "vae": latents.vae,
            "width": width,
            "height": height,
            "scaled": str(scaled).lower(),
            "dtype": str(latents.tensor.dtype).removeprefix("torch."),
            "vaekit": version(),
        }
    )


def _raw_tensors(latents: Latents, name: str) -> dict[str, Tensor]:
    """Raw values from which `_from_raw` gives the identical latents, with the latents beside them if need be."""
    values = _plain(latents.tensor)
    raw = latents.family.unscale(values.double())
    raw = torch.where((raw == 0) & (values == 0), values.double(), raw)  # adding a shift of 0 turns -0 into 0
    for stored in (raw.float(), raw):
        if _same_bits(_from_raw(stored, latents.family, values.dtype), values):
            return {name: stored}
    return {name: raw, "exact": values}


def _from_raw(raw: Tensor, family: Family, dtype: torch.dtype) -> Tensor:
    return family.scale(raw.double()).to(dtype)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit: -0 is not 0, a NaN is itself."""
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def _refuse_folded(family: Family) -> None:
    if family.fold != 1:
        raise LatentsError(f"ComfyUI's format does not tell how {family.name} folds latents; use vaekit's own")


# Reading


def read(path: str | Path, *, family: Family | str | None = None, scaled: bool | None = None) -> Latents:
    """Read latents from a file of any known kind, decided by its content.

    family: of files that do not tell it (ComfyUI's, kohya's, bare tensors); it
    may be left out where one family alone has that many channels. scaled:
    whether a bare tensor is in model space (assumed if not given) or raw.

    Raw values of others become float64 latents: float32 would round what was
    scaled, and writing the file again would change its numbers. They return to
    the same float32; where a family has a shift, only those above 1e-7 or equal
    to 0 do, as a float64 near the shift is no finer.

    Raises LatentsError (no latents, or broken), UnsafeFileError (a pickle that
    asks for code), FamilyError (nothing tells the family, or the file contradicts
    `family`), OptionError (the format contradicts `scaled`).
    """
    path = Path(path)
    wanted = family_called(family) if isinstance(family, str) else family
    with _one_line(path):
        file = open_container(path)
        if file.metadata.get("format") == MARK:
            return _read_own(file, wanted, scaled)
        if COMFYUI_TENSOR in file.tensors:
            return _read_comfyui(file, wanted, scaled)
        if file.kind == "npz":
            return _read_kohya(file, path, wanted, scaled)
        return _read_bare(file, path, wanted, scaled)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Whatever goes wrong becomes one line that names the file."""
    try:
        yield
    except (LatentsError, FamilyError) as error:
        raise type(error)(f"{path}: {error}") from error
    except UnsafeFileError:  # names the file already
        raise
    except FileError as error:  # names the file already
        raise LatentsError(str(error)) from error
    except VaekitError:
        raise
    except OSError as error:
        raise LatentsError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # what parsers raise on broken files has no bounds
        text = " ".join(str(error).split()).split(". ")[0]
        raise LatentsError(f"{path}: truncated or broken ({text[:160] or type(error).__name__})") from error


def _read_own(file: Container, wanted: Family | None, scaled: bool | None) -> Latents:
    header = _parse_header(file)
    family = _stored_family(header)
    if wanted is not None and not wanted.same_space(family):
        raise FamilyError(f"these are latents of {family.name}, not of {wanted.name}")
    stored_scaled = header.scaled == "true"
    _check_scaled(scaled, stored_scaled, "the file says so itself")
    name = COMFYUI_TENSOR if COMFYUI_TENSOR in file.tensors else "latents"
    values = _load(file, name, family)
    if not stored_scaled:
        exact = "exact" in file.tensors
        values = _load(file, "exact", family) if exact else _from_raw(values, family, DTYPES[header.dtype])
    if values.dtype != DTYPES[header.dtype]:
        raise LatentsError(f"its header lies: it holds {values.dtype}, not {header.dtype}")
    alpha = file.load("alpha") if "alpha" in file.tensors else None
    return Latents(values, family, (header.width, header.height), header.vae, alpha)


def _parse_header(file: Container) -> Header:
    version = file.metadata.get("version")
    if version is not None and version != "1":
        raise LatentsError(f"latents of format version {version[:20]!r}; this vaekit reads version 1")
    try:
        return Header.model_validate(dict(file.metadata))
    except ValidationError as error:
        raise LatentsError(f"its metadata is broken: {_first_problem(error)}") from error


def _stored_family(header: Header) -> Family:
    try:
        stored = Family.model_validate_json(header.family_numbers)
    except ValidationError as error:
        raise LatentsError(f"its family is broken: {_first_problem(error)}") from error
    if stored.name != header.family:
        raise LatentsError(f"its metadata contradicts itself: family {header.family!r}, numbers of {stored.name!r}")
    known = families().get(stored.name)
    if known is None:
        return stored
    if not known.same_space(stored):
        raise LatentsError(f"its {stored.name} has other numbers than vaekit's {stored.name}; the scales do not match")
    return known


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where or 'JSON'}: {problem['msg']}"[:160]


def _read_comfyui(file: Container, wanted: Family | None, scaled: bool | None) -> Latents:
    """Source of the format: SaveLatent and LoadLatent in ComfyUI's nodes.py."""
    family = _foreign_family(file, COMFYUI_TENSOR, wanted)
    _refuse_folded(family)
    values = _load(file, COMFYUI_TENSOR, family)
    if COMFYUI_MARKER in file.tensors:
        _check_scaled(scaled, False, "ComfyUI's files are raw")
        return _foreign(values, family, scaled=False)
    _check_scaled(scaled, True, "ComfyUI's files without a version marker are in the model space of sd1")
    if family.name == "sd1":
        return _foreign(values, family, scaled=True)
    return _foreign(family_called("sd1").unscale(values.double()), family, scaled=False)


def _read_kohya(file: Container, path: Path, wanted: Family | None, scaled: bool | None) -> Latents:
    """Source of the format: kohya-ss/sd-scripts, library/train_util.py and strategy_*.py."""
    name = _kohya_key(file)
    tail = path.stem.lower().rpartition("_")[2]
    sized = KOHYA_KEY.fullmatch(name)
    if sized and tail in KOHYA_UNKNOWN:
        raise LatentsError(f"a kohya cache of {KOHYA_UNKNOWN[tail]}, whose latents vaekit does not know")
    hint = (KOHYA_SIZED if sized else KOHYA_PLAIN).get(tail) if name != "arr_0" else None
    family = _foreign_family(file, name, wanted or (families()[hint] if hint else None))
    values = _load(file, name, family)
    if sized and tuple(map(int, sized.groups())) != tuple(values.shape[2:]):
        raise LatentsError(f"its header lies: {name} holds {values.shape[2]}x{values.shape[3]} cells")
    of_flux = family.name == "flux1"
    _check_scaled(scaled, of_flux, f"kohya's caches of {family.name} are {'scaled' if of_flux else 'raw'}")
    return _foreign(values, family, scaled=of_flux)


def _kohya_key(file: Container) -> str:
    names = list(file.tensors)
    sized = [name for name in names if KOHYA_KEY.fullmatch(name)]
    if len(sized) > 1:
        raise LatentsError(f"a cache of several sizes: {', '.join(sized[:8])}; keep one of them in the file")
    if sized:
        return sized[0]
    if "latents" in names and "original_size" in names:
        return "latents"
    if names == ["arr_0"]:
        return "arr_0"
    raise not_latents(names)


def _read_bare(file: Container, path: Path, wanted: Family | None, scaled: bool | None) -> Latents:
    if len(file.tensors) != 1:
        raise not_latents(list(file.tensors))
    name = next(iter(file.tensors))
    family = _foreign_family(file, name, wanted)
    values = _load(file, name, family)
    if scaled is None:
        log.info("%s: a bare tensor, taken to be in the model space of %s (scaled=True)", path, family.name)
    return _foreign(values, family, scaled=scaled is not False)


def _foreign(values: Tensor, family: Family, *, scaled: bool) -> Latents:
    """Latents from a file that does not tell the size of the picture: whole cells are taken."""
    height, width = (cells * family.downscale for cells in values.shape[2:])
    return Latents(values if scaled else family.scale(values.double()), family, (width, height))


def _check_scaled(argument: bool | None, stored: bool, why: str) -> None:
    if argument is not None and argument != stored:
        raise OptionError(f"scaled={argument} contradicts the file: {why}; leave it out")


def _foreign_family(file: Container, name: str, wanted: Family | None) -> Family:
    """The family the caller wants, else the only one with that many channels. Checks the shape on the way."""
    shape = _latents_shape(file, name)
    if wanted is not None:
        return wanted
    # The bundled miniatures are left out: nobody else writes latents of them.
    fitting = [f for f in families().values() if f.latent_channels == shape[1] and not f.name.startswith("mini")]
    if not fitting:
        packed = len(file.tensors[name].shape) == 3 and shape[-1] in (64, 128)
        hint = " (packed tokens? unpack them to [batch, channels, height, width])" if packed else ""
        raise FamilyError(f"latents of {shape[1]} channels belong to no family that vaekit knows{hint}")
    if len(fitting) > 1:
        names = ", ".join(f.name for f in fitting)
        raise FamilyError(f"{shape[1]} channels: {names} have that; say which with family= or --family")
    log.info("latents of %d channels, taken to be of %s", shape[1], fitting[0].name)
    return fitting[0]


def _load(file: Container, name: str, family: Family) -> Tensor:
    """The tensor [B, C, h, w] of that name, once its description fits the family."""
    if name not in file.tensors:
        raise LatentsError(f"holds no tensor {name!r}")
    shape = _latents_shape(file, name)
    if shape[1] != family.latent_channels:
        raise LatentsError(f"latents of {family.name} have {family.latent_channels} channels, not {shape[1]} as here")
    return file.load(name).reshape(shape)


def _latents_shape(file: Container, name: str) -> tuple[int, ...]:
    """[B, C, h, w] of a tensor that can be latents by its description; LatentsError where it cannot."""
    info = file.tensors[name]
    label = f"{name[:80]}: " if name else ""
    if info.dtype not in TORCH_DTYPES.values():
        raise LatentsError(f"{label}latents are floating point numbers, not {info.dtype}")
    if len(info.shape) not in (3, 4):
        video = " (a video?)" if len(info.shape) == 5 else ""
        raise LatentsError(f"{label}latents are [channels, height, width] or a batch, not {list(info.shape)}{video}")
    if 0 in info.shape:
        raise LatentsError(f"{label}no values: {list(info.shape)}")
    return info.shape if len(info.shape) == 4 else (1, *info.shape)
