"""The settings of the page and the API, by A1111's names, kept in one JSON file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vaekit import folders
from vaekit.engine.strips.budget import parse
from vaekit.errors import FileError, OptionError, OutputError, VaekitError
from vaekit.files import atomic_write
from vaekit.generate.architectures import read_json

PATIENCE = 10.0
"""Seconds to wait for another process that is writing."""
OLD_QUICKSETTINGS = "quicksettings"
NOT_HERE = "not an option here"
Method = Literal["Full", "TAESD", "Bounded memory"]


class Options(BaseModel):
    """Every option; those that A1111 has too by its names and meanings. Each acts, or refuses what cannot be done.

    What they mean is told in docs/web.md, and on the page by page/texts. Not A1111's are latent_history, as in SD.Next,
    and trace_last_generation (how many generations' latents, and whether the last one's steps, are kept), the method
    "Bounded memory" and vae_memory_budget, the most that it takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sd_model_checkpoint: str = ""
    sd_vae: str = "Automatic"
    sd_vae_overrides_per_model_preferences: bool = True
    sd_vae_checkpoint_cache: int = Field(default=0, ge=0, le=10)
    auto_vae_precision: bool = True
    auto_vae_precision_bfloat16: bool = False
    sd_vae_encode_method: Method = "Full"
    sd_vae_decode_method: Method = "Full"
    vae_memory_budget: str = ""
    live_previews_enable: bool = True
    show_progress_every_n_steps: int = Field(default=1, ge=-1, le=1000)
    latent_history: int = Field(default=100, ge=0, le=1000)
    trace_last_generation: bool = True
    quicksettings_list: list[str] = ["sd_model_checkpoint"]

    @field_validator("auto_vae_precision")
    @classmethod
    def _always(cls, wished: bool) -> bool:
        if not wished:
            raise ValueError("cannot be switched off: a VAE that overflows is run again in float32, never left black")
        return wished

    @field_validator("auto_vae_precision_bfloat16")
    @classmethod
    def _never(cls, wished: bool) -> bool:
        if wished:
            raise ValueError("cannot be switched on: a VAE that overflows is run again in float32")
        return wished

    @field_validator("vae_memory_budget")
    @classmethod
    def _amount(cls, told: str) -> str:
        if told:
            try:
                parse(told)
            except OptionError as error:
                raise ValueError(str(error)) from None
        return told

    @field_validator("show_progress_every_n_steps")
    @classmethod
    def _period(cls, steps: int) -> int:
        if steps == 0:
            raise ValueError("0 steps are no period; -1 for no preview")
        return steps

    @field_validator("quicksettings_list")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in cls.model_fields:
                raise ValueError(unknown(name))
        if len(set(names)) != len(names):
            raise ValueError("names an option twice")
        return names

    def changed(self, values: Mapping[str, Any]) -> Options:
        """The same with other values. Raises OptionError for unknown names, with the nearest, and for bad values."""
        for name in values:
            if name not in Options.model_fields:
                raise OptionError(unknown(name))
        try:
            return Options.model_validate(self.model_dump() | dict(values))
        except ValidationError as error:
            raise OptionError(_told(error)) from error


def unknown(name: str, known: Iterable[str] | None = None) -> str:
    """That there is no such option, and which ones are near."""
    names = list(Options.model_fields if known is None else known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"nothing is called {name[:100]!r}; " + (
        f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
    )


@dataclass(frozen=True)
class Imported:
    """What came of a config.json: options taken with their values, refused with the reason, and not known here."""

    taken: dict[str, Any]
    refused: dict[str, str]
    ignored: tuple[str, ...]


class Store:
    """Options on the disk: read anew each time, written atomically, safe against two writers."""

    def __init__(self, path: Path | None = None):
        self.path = path or folders.config() / "web.json"

    def read(self) -> Options:
        """What is stored, and the defaults for the rest. Raises FileError where the file is broken."""
        try:
            return Options().changed(read_json(self.path)) if self.path.exists() else Options()
        except OptionError as error:
            raise FileError(f"{self.path}: {error}") from error

    def change(self, values: Mapping[str, Any]) -> Options:
        """Store some values; all of them or none. Raises OptionError, OutputError."""
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=PATIENCE):
                options = self.read().changed(values)
                with atomic_write(self.path, force=True) as part:
                    part.write_text(json.dumps(options.model_dump(exclude_defaults=True), indent=2), "utf-8")
                return options
        except Timeout as error:
            raise OutputError(f"{self.path}: another process keeps it locked") from error
        except OSError as error:
            raise OutputError(f"{self.path}: {error.strerror or error}") from error

    def take_over(
        self, config: Mapping[str, Any], check: Callable[[dict[str, Any]], object] = lambda values: None
    ) -> Imported:
        """Import the options of an A1111 config.json, each one for itself, and store those that are taken.

        check: raises VaekitError for values that nothing could be drawn with. Raises OutputError.
        """
        taken: dict[str, Any] = {}
        refused: dict[str, str] = {}
        ignored = [name for name in config if name not in Options.model_fields and name != OLD_QUICKSETTINGS]
        for name, value in _as_now(config).items():
            if name == "quicksettings_list" and isinstance(value, list):
                refused |= {str(one)[:100]: NOT_HERE for one in value if one not in Options.model_fields}
                value = [one for one in value if one in Options.model_fields]
            try:
                self.read().changed({name: value})
                check(taken | {name: value})
                taken[name] = value
            except VaekitError as error:
                refused[name] = str(error).removeprefix(f"{name}: ")
        self.change(taken)
        return Imported(taken, refused, tuple(sorted(str(name)[:100] for name in ignored)))


def _as_now(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that vaekit has; the quicksettings also as older versions of A1111 wrote them."""
    found = {name: config[name] for name in Options.model_fields if name in config}
    old = config.get(OLD_QUICKSETTINGS)
    if isinstance(old, str) and "quicksettings_list" not in found:
        found["quicksettings_list"] = list(dict.fromkeys(one.strip() for one in old.split(",") if one.strip()))
    return found


def _told(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg'].removeprefix('Value error, ')}"
        for one in error.errors(include_url=False)
    )
