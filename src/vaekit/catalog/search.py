"""VAEs that others publish: words to a list of them, from Civitai and from the hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from vaekit.catalog import civitai, hub
from vaekit.errors import NetworkError, OptionError, VaekitError
from vaekit.families import family

log = logging.getLogger("vaekit")

MOST_REPOSITORIES = 300
SAFE_FOR_ALL = 1
"""Civitai's level of pictures that may stand anywhere."""

BASES = (
    ("flux2", r"flux[. _-]?2|taef2"),
    ("flux1", r"flux|chroma|z-?image|hidream|taef1"),
    ("sd3", r"\bsd[ _-]?3|stable-diffusion-3|taesd3"),
    ("playground25", r"playground"),
    ("sdxl", r"xl|pony|illustrious|noobai|kolors|hunyuan 1|hunyuandit"),
    ("sd1", r"\bsd[ _-]?v?[12]|\bsd\b|stable-diffusion|kl-f8|taesd|anything|orangemix|waifu"),
)
"""Families, and what the base models of their VAEs are called; the first that fits."""


@dataclass(frozen=True)
class Hit:
    """A VAE that can be fetched. target: what `vae pull` takes; base: as the source calls it; size: bytes."""

    target: str
    name: str
    base: str
    family: str | None
    downloads: int
    size: int | None
    licence: str
    page: str
    preview: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def search(words: str, *, base: str | None = None, limit: int = 20) -> list[Hit]:
    """VAEs that all the words apply to, of one family where `base` names it; those downloaded most first.

    A source that does not answer is told as a warning. Raises NetworkError when
    neither does, FamilyError, OptionError.
    """
    if limit < 1:
        raise OptionError(f"limit is {limit}; ask for at least one")
    wanted = None if base is None else family(base).name
    found: list[Hit] = []
    failures: list[VaekitError] = []
    for source in (_on_civitai, _on_the_hub):
        try:
            hits = source(words.casefold().split())
            found += islice((hit for hit in hits if wanted in (None, hit.family)), limit)
        except VaekitError as error:
            failures.append(error)
    if len(failures) == 2:
        raise NetworkError(f"neither Civitai nor the hub answers: {failures[0]}") from failures[1]
    for failure in failures:
        log.warning("%s", failure)
    first = sorted(found, key=lambda hit: -hit.downloads)[:limit]
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(_with_size, first))


def family_of(text: str) -> str | None:
    """The family that the name of a base model, or of a VAE, points to."""
    return next((name for name, pattern in BASES if re.search(pattern, text, re.IGNORECASE)), None)


def _match(terms: Iterable[str], *texts: str) -> bool:
    text = " ".join(texts).casefold()
    return all(term in text for term in terms)


# Civitai


def _on_civitai(terms: list[str]) -> Iterator[Hit]:
    for model in civitai.browse():
        seen: set[str] = set()
        for version in model.modelVersions:
            file = civitai.choose(version, model.type)
            new = version.baseModel not in seen and _match(terms, "vae", model.name, version.name, *model.tags)
            if file is not None and new:
                seen.add(version.baseModel)
                yield _civitai_hit(model, version, file)


def _civitai_hit(model: civitai.Model, version: civitai.Version, file: civitai.File) -> Hit:
    page = f"https://civitai.com/models/{model.id}?modelVersionId={version.id}"
    return Hit(
        target=f"civitai:{model.id}@{version.id}",
        name=f"{model.name}, {version.name}" if version.name else model.name,
        base=version.baseModel or "unknown",
        family=family_of(version.baseModel),
        downloads=version.stats.downloadCount or model.stats.downloadCount,
        size=round(file.sizeKB * 1024) or None,
        licence=civitai.licence(model),
        page=page,
        preview=next((image.url for image in version.images if image.nsfwLevel == SAFE_FOR_ALL), None),
    )


# The hub


def _on_the_hub(terms: list[str]) -> Iterator[Hit]:
    """Asked twice, as the hub looks for its words in names alone: for the longest word, and for every VAE."""
    longest = max(terms, key=len, default="vae")
    found = {info.id: info for word in {longest: 0, "vae": 0} for info in hub.search(word, limit=MOST_REPOSITORIES)}
    fitting = (info for info in found.values() if _holds_a_vae(info) and _match(terms, "vae", info.id, *_tags(info)))
    yield from map(_hub_hit, sorted(fitting, key=_downloads, reverse=True))


def _holds_a_vae(info: Any) -> bool:
    paths = [file.rfilename for file in info.siblings or ()]
    return "model_index.json" not in paths and bool(hub.OF_A_VAE.search(info.id)) and bool(hub.choose(paths))


def _hub_hit(info: Any) -> Hit:
    licence = next((tag.removeprefix("license:") for tag in _tags(info) if tag.startswith("license:")), "unknown")
    bases = [tag.split(":")[-1] for tag in _tags(info) if tag.startswith("base_model:")]
    base = bases[0] if bases else ""
    return Hit(
        target=f"hf:{info.id}",
        name=info.id,
        base=base or "unknown",
        family=family_of(base) or family_of(info.id) or family_of(" ".join(_tags(info))),
        downloads=_downloads(info),
        size=None,
        licence=licence + (", to be accepted on its page" if info.gated else ""),
        page=f"https://huggingface.co/{info.id}",
        preview=None,
    )


def _with_size(hit: Hit) -> Hit:
    """With the bytes of what `vae pull` would fetch; a repository that does not tell is listed all the same."""
    if not hit.target.startswith("hf:"):
        return hit
    try:
        listed = hub.listing(hub.parse(hit.target.removeprefix("hf:")))
    except VaekitError:
        return hit
    sizes = [listed[path].size for path in hub.choose(listed)]
    return hit if None in sizes else replace(hit, size=sum(size or 0 for size in sizes))


def _downloads(info: Any) -> int:
    return info.downloads_all_time or info.downloads or 0


def _tags(info: Any) -> list[str]:
    return list(info.tags or ())
