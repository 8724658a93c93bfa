"""Which VAE a checkpoint gets, and why.

The rules, the first that has an answer decides:

1. asked       a VAE named on the command line or in the request
2. preference  the one stored for this checkpoint
3. beside      a file beside the checkpoint, or in a folder of VAEs, that has its name
4. baked       the VAE inside the checkpoint
5. standard    the standard VAE of the checkpoint's family, fetched once

`Automatic` leaves out the first, `None` (no separate VAE) the first three. A
name matches exactly. A VAE of another family is refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vaekit.catalog.known import CatalogEntry, nearest
from vaekit.catalog.library import BUNDLED, Entry, Library, printable, stem
from vaekit.catalog.preferences import Preferences
from vaekit.errors import FamilyError, FileError, OptionError

log = logging.getLogger("vaekit")

Rule = Literal["asked", "preference", "beside", "baked", "standard"]
Fetch = Callable[[CatalogEntry], Path]

AUTOMATIC, NONE = "Automatic", "None"
BESIDE = (".vae.safetensors", ".vae.pt", ".vae.ckpt", ".safetensors")
"""What stands behind a checkpoint's name in that of its VAE."""


@dataclass(frozen=True)
class PassedOver:
    """A rule that had no answer, and why."""

    rule: Rule
    reason: str


@dataclass(frozen=True)
class Resolution:
    """The VAE of a checkpoint, and why.

    source: the rule that decided; path: the VAE's file, the checkpoint's for a
    baked one, None where it would have to be fetched first; decoder: a second file
    that holds that half; families: those that VAE and checkpoint share, usually
    one; known: its name in the catalog; fingerprint, sha256: where they are known.
    """

    checkpoint: Path
    choice: str
    name: str
    source: Rule
    reason: str
    path: Path | None
    decoder: Path | None = None
    families: tuple[str, ...] = ()
    known: str | None = None
    fingerprint: str | None = None
    sha256: str | None = None
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def baked(self) -> bool:
        return self.source == "baked"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "checkpoint": printable(self.checkpoint),
            "choice": printable(self.choice),
            "name": printable(self.name),
            "source": self.source,
            "reason": printable(self.reason),
            "path": printable(self.path) if self.path else None,
            "decoder_file": printable(self.decoder) if self.decoder else None,
            "families": list(self.families),
            "known": self.known,
            "fingerprint": self.fingerprint,
            "sha256": self.sha256,
            "passed_over": [{"rule": p.rule, "reason": printable(p.reason)} for p in self.passed_over],
        }


def as_asked(text: str) -> str | Path:
    """What a person typed on a command line: a Path where it looks like one or such a model is there, else a name."""
    path = Path(os.path.expanduser(text))
    try:
        a_model = path.is_file() or any((path / name).is_file() for name in ("model_index.json", "config.json"))
        there = a_model or (len(path.parts) > 1 and path.exists())
    except (OSError, ValueError):
        there = False
    return path if there or path.is_absolute() or text.startswith(".") else text


def resolve(
    checkpoint: str | Path,
    choice: str | Path = AUTOMATIC,
    *,
    library: Library,
    preferences: Preferences | None = None,
    fetch: Fetch | None = None,
) -> Resolution:
    """Tell which VAE a checkpoint gets, by the rules above.

    checkpoint, choice: a str is a name in the library or the catalog and never
    touches the disk, so it may come from anywhere; a Path is a file. fetch: gets
    a VAE of the catalog that is not on this disk; without it the answer has no
    path and says what would be fetched.

    Raises OptionError (a name that nothing or several things have; with the
    nearest names), FamilyError (a VAE of another family, no standard VAE) and
    FileError (broken, or not what it is taken for).
    """
    model = find_checkpoint(checkpoint, library)
    choices = _Choices(model, library, preferences or Preferences(), fetch)
    asked = _special(choice)
    passed: list[PassedOver] = []
    for rule, answer in choices.by_rule(asked):
        if isinstance(answer, str):
            passed.append(PassedOver(rule, answer))
            continue
        return _resolution(model, asked, rule, answer, passed)
    raise FamilyError(f"{model.path}: {passed[-1].reason}")


def prefer(
    checkpoint: str | Path, choice: str | Path, *, library: Library, preferences: Preferences | None = None
) -> Resolution:
    """Store a choice for a checkpoint, after a look whether it can be; `Automatic` forgets the stored one.

    Gives what the checkpoint gets from now on. Raises as `resolve` does, and OutputError.
    """
    preferences = preferences or Preferences()
    model = find_checkpoint(checkpoint, library)
    wanted = _special(choice)
    if wanted == AUTOMATIC:
        preferences.forget(model.path)
    else:
        resolve(model.path, wanted, library=library, preferences=preferences)
        preferences.set(model.path, wanted)
    return resolve(model.path, library=library, preferences=preferences)


def find_checkpoint(checkpoint: str | Path, library: Library) -> Entry:
    """The checkpoint of exactly that name, or at that path. Raises OptionError and FileError."""
    entry = library.look(checkpoint) if isinstance(checkpoint, Path) else _checkpoint_named(checkpoint, library)
    if entry.kind == "vae":
        raise OptionError(f"{entry.path}: a VAE, not a checkpoint")
    if entry.kind != "checkpoint":
        raise FileError(f"{entry.path}: {entry.facts.note}")
    return entry


def _checkpoint_named(name: str, library: Library) -> Entry:
    entries = library.named(name, "checkpoint", "broken", "unfinished", "vae")
    entries = [e for e in entries if e.kind == "checkpoint"] or entries
    if not entries:
        names = {other for e in library.checkpoints for other in e.names}
        raise OptionError(f"no checkpoint is called {name!r}; {nearest(name, names)}")
    return _only(name, entries)


def _special(choice: str | Path) -> str | Path:
    """Automatic and None in any case; everything else as it is."""
    return next((word for word in (AUTOMATIC, NONE) if str(choice).lower() == word.lower()), choice)


def _resolution(
    model: Entry, asked: str | Path, rule: Rule, answer: _Answer, passed: Sequence[PassedOver]
) -> Resolution:
    vae = answer.entry
    return Resolution(
        checkpoint=model.path,
        choice=str(asked),
        name=answer.name,
        source=rule,
        reason=answer.reason,
        path=vae.path if vae else None,
        decoder=vae.decoder if vae else None,
        families=_shared(answer.families, model.families),
        known=answer.published.name if answer.published else vae.known if vae else None,
        fingerprint=vae.fingerprint if vae else answer.published.fingerprint if answer.published else None,
        sha256=vae.sha256 if vae else None,
        passed_over=tuple(passed),
    )


@dataclass(frozen=True)
class _Answer:
    """A VAE that a rule found. entry: None where it is not on this disk."""

    name: str
    reason: str
    entry: Entry | None
    published: CatalogEntry | None = None

    @property
    def families(self) -> tuple[str, ...]:
        return (self.published.family,) if self.published else self.entry.families if self.entry else ()


@dataclass
class _Choices:
    """The rules for one checkpoint. Each gives an answer, or the reason why it has none."""

    model: Entry
    library: Library
    preferences: Preferences
    fetch: Fetch | None
    _separate: bool = field(default=True, init=False)

    def by_rule(self, asked: str | Path) -> Iterator[tuple[Rule, _Answer | str]]:
        yield "asked", self._asked(asked)
        yield "preference", self._preferred()
        yield "beside", self._beside()
        yield "baked", self._baked()
        yield "standard", self._standard()

    def _asked(self, choice: str | Path) -> _Answer | str:
        if choice == NONE:
            self._separate = False
            return "None was asked for: no separate VAE"
        if choice == AUTOMATIC:
            return "no VAE was named (Automatic)"
        return self._chosen(choice, "it was asked for by name" if isinstance(choice, str) else "its file was named")

    def _preferred(self) -> _Answer | str:
        if not self._separate:
            return "None was asked for"
        stored = self.preferences.get(self.model.path)
        if stored is None:
            return "none is stored for this checkpoint"
        if stored == NONE:
            self._separate = False
            return "None is stored for this checkpoint: no separate VAE"
        try:
            return self._chosen(stored, "it is stored as the preference for this checkpoint")
        except (OptionError, FileError, FamilyError) as error:
            forget = f"vaekit prefer {self.model.name} Automatic forgets it"
            raise type(error)(f"the preference stored for this checkpoint does not work: {error} ({forget})") from error

    def _beside(self) -> _Answer | str:
        if not self._separate:
            return "None was asked for"
        refused = []
        for vae in self._with_its_name():
            problem = self._unfit(vae)
            if problem is None:
                where = "beside the checkpoint" if vae.path.parent == self.model.path.parent else "in a folder of VAEs"
                return self._taken(vae, f"{vae.path.name} lies {where} and has its name")
            refused.append(f"{vae.path}: {problem}")
            if vae.kind != "checkpoint":
                log.warning("%s has the checkpoint's name and is not taken: %s", vae.path, problem)
        looked_for = ", ".join(self._stem + ending for ending in BESIDE)
        return "; ".join(refused) or f"neither beside it nor in a folder of VAEs is one of {looked_for}"

    def _baked(self) -> _Answer | str:
        if not self.model.facts.has_vae:
            return f"there is none: {self.model.facts.note}"
        return _Answer(self.model.path.name, "the checkpoint has its own VAE baked in", self.model)

    def _standard(self) -> _Answer | str:
        if len(self.model.families) != 1:
            either = " or ".join(self.model.families) or "an unknown one"
            return f"nothing tells which base model it is of ({either}), so no standard VAE; name one with --vae"
        family = self.model.families[0]
        published = self.library.catalog.standard(family)
        if published is None:
            return f"no standard VAE of {family} is known; name one with --vae"
        return self._published(published, f"it is the standard VAE of {family}")

    # How a choice becomes a VAE

    def _chosen(self, choice: str | Path, reason: str) -> _Answer:
        if isinstance(choice, Path):
            return self._fitting(self.library.look(choice), reason)
        entries = self.library.named(choice, "vae")
        if entries:
            bundled = [entry for entry in entries if entry.program == BUNDLED]
            return self._fitting(_only(choice, bundled or entries, self.library), reason)
        published = self.library.catalog.get(choice)
        if published is not None:
            self._refuse_other_family(published.name, (published.family,))
            return self._published(published, reason)
        raise self._unknown(choice)

    def _fitting(self, vae: Entry, reason: str) -> _Answer:
        if not vae.facts.has_vae or vae.kind not in ("vae", "checkpoint"):
            raise FileError(f"{vae.path}: {vae.facts.note}")
        vae = self.library.recognise(vae)
        self._refuse_other_family(vae.name, vae.families)
        return self._taken(vae, reason)

    def _taken(self, vae: Entry, reason: str) -> _Answer:
        shared = _shared(vae.families, self.model.families)
        open_ = f"; whether it is of {' or '.join(shared)} its tensors do not tell" if len(shared) > 1 else ""
        return _Answer(vae.path.name, reason + open_, vae, self.library.catalog.entries.get(vae.known or ""))

    def _published(self, published: CatalogEntry, reason: str) -> _Answer:
        entry = self.library.on_this_disk(published)
        if entry is not None:
            return _Answer(published.name, f"{reason}, and is on this disk", entry, published)
        if not published.files:
            raise FileError(f"{published.name} is not on this disk, and no download of it is known")
        source = ", ".join(file.source for file in published.files)
        if self.fetch is None:
            return _Answer(published.name, f"{reason}; it would be downloaded from {source}", None, published)
        fetched = self.library.look(self.fetch(published))
        return _Answer(published.name, f"{reason}, downloaded from {source}", fetched, published)

    def _with_its_name(self) -> Iterator[Entry]:
        """The files that have the checkpoint's name, those beside it first."""
        for ending in BESIDE:
            path = self.model.path.with_name(self._stem + ending)
            if path == self.model.path or not os.path.lexists(path):
                continue
            try:
                yield self.library.look(path)
            except FileError as error:  # a link to nothing
                log.warning("%s; it has the checkpoint's name and is not taken", error)
        for ending in BESIDE:
            name = self._stem + ending
            yield from (e for e in self.library.entries if e.role == "vae" and e.path.name == name)

    @property
    def _stem(self) -> str:
        return stem(self.model.path.name)

    # What is refused

    def _unfit(self, vae: Entry) -> str | None:
        """Why a file with the checkpoint's name is not taken; None where it is."""
        if vae.kind == "checkpoint":
            return "a checkpoint itself"
        if vae.kind != "vae":
            return vae.facts.note
        try:
            self._refuse_other_family(vae.path.name, self.library.recognise(vae).families)
        except (FamilyError, FileError) as error:
            return str(error)
        return None

    def _refuse_other_family(self, name: str, families: Sequence[str]) -> None:
        ours = self.model.families
        if families and ours and not _shared(families, ours):
            theirs, own = (" or ".join(each) for each in (families, ours))
            raise FamilyError(
                f"{name} is a VAE of {theirs}, {self.model.path.name} a checkpoint of {own}: their latents differ, "
                "and it would make nonsense of the picture"
            )

    def _unknown(self, name: str) -> OptionError | FileError:
        for entry in self.library.named(name, "broken", "unfinished", "other"):
            return FileError(f"{entry.path}: {entry.facts.note}")
        for entry in self.library.named(name, "checkpoint"):
            return OptionError(f"{name!r} is a checkpoint; give its path to use the VAE in it: {entry.path}")
        names = {other for entry in self.library.vaes for other in entry.names} | set(self.library.catalog.names())
        return OptionError(f"no VAE is called {name!r}; {nearest(name, names)}")


def _shared(theirs: Sequence[str], ours: Sequence[str]) -> tuple[str, ...]:
    """The families that are in both; where one side says nothing, those of the other."""
    both = tuple(family for family in theirs if family in ours)
    return both if theirs and ours else tuple(theirs or ours)


def _only(name: str, entries: Sequence[Entry], library: Library | None = None) -> Entry:
    """The one of this name; several are one if they are the same file or hold the same weights."""
    first, *others = entries
    different = [entry for entry in others if os.path.realpath(entry.path) != os.path.realpath(first.path)]
    if different and library is not None:
        prints = {library.fingerprint(entry).fingerprint for entry in entries}
        different = different if len(prints) > 1 else []
    if different:
        paths = ", ".join(str(entry.path) for entry in entries[:4]) + (" …" if len(entries) > 4 else "")
        raise OptionError(f"{len(entries)} files are called {name!r}; give the path of one: {paths}")
    return first
