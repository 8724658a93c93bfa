"""The catalog of published VAEs, and a user's own file that adds to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from catalog.shelves import empty_home
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaekit import assets
from vaekit.catalog import catalog
from vaekit.checkpoints.inspect import inspect
from vaekit.errors import FileError, OptionError
from vaekit.families import families

OWN = """
[my-vae]
title = "Mine"
family = "sd1"
files = [{ url = "https://example.org/my.safetensors" }]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path / "home", monkeypatch)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own.toml"
    monkeypatch.setenv("VAEKIT_CATALOG", str(path))
    return path


def test_the_published_ones_are_there() -> None:
    known = catalog()
    asked_for = {
        "sd1": ["kl-f8", "ft-ema", "ft-mse", "animevae", "kl-f8-anime2", "taesd"],
        "sdxl": ["sdxl-vae", "sdxl-vae-1.0", "sdxl-vae-fp16-fix", "taesdxl"],
        "sd3": ["sd3-vae", "taesd3"],
        "flux1": ["flux1-vae", "taef1"],
        "flux2": ["flux2-vae", "taef2"],
    }
    for family, names in asked_for.items():
        for name in names:
            entry = known.find(name)
            assert entry.family == family
            assert entry.files, name
            assert entry.look.endswith("."), name


def test_every_entry_is_of_a_known_family_and_has_names_of_its_own() -> None:
    entries = list(catalog())
    assert {entry.family for entry in entries} <= set(families())
    names = [name.casefold() for entry in entries for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    hashes = [sha256 for entry in entries for sha256 in entry.hashes]
    assert len(hashes) == len(set(hashes))


def test_what_ships_is_in_the_catalog_with_its_family() -> None:
    known = catalog()
    for name in assets.bundled_models():
        entry = known.find(name)
        assert entry.bundled
        if entry.network == "kl":
            (found,) = inspect(assets.model_folder(name))
            assert [family.name for family in found.identity.families] == [entry.family]
    assert {entry.name for entry in known if entry.bundled} == set(assets.bundled_models())


def test_each_large_family_has_one_standard() -> None:
    known = catalog()
    standards = [entry.family for entry in known if entry.standard]
    assert len(standards) == len(set(standards))
    assert {"sd1", "sdxl", "sd3", "flux1", "flux2", "mini"} <= set(standards)
    standard = known.standard("sdxl")
    assert standard is not None
    assert standard.name == "sdxl-vae"
    assert known.standard("upscaler4x") is None


def test_names_match_exactly_and_the_nearest_are_told() -> None:
    known = catalog()
    assert known.find("vae-ft-mse-840000-ema-pruned") is known.find("ft-mse")
    for wrong in ("ft-ms", "FT-MSE", "ft-mse.safetensors", "ft-mse-", ""):
        with pytest.raises(OptionError, match=re.escape(repr(wrong))):
            known.find(wrong)
    with pytest.raises(OptionError, match=r"did you mean .*ft-mse"):
        known.find("FT-MSE")


def test_a_file_is_recognised_by_its_hash_or_its_weights(own: Path) -> None:
    sha256, fingerprint = "ab" * 32, "cd" * 32
    own.write_text(
        OWN + f'copies = [{{ name = "x.pt", sha256 = "{sha256}", size = 5 }}]\nfingerprint = "{fingerprint}"'
    )
    known = catalog()
    mine = known.find("my-vae")
    assert known.recognise(sha256=sha256, fingerprint=None) is mine
    assert known.recognise(sha256=None, fingerprint=fingerprint) is mine
    assert known.recognise(sha256=None, fingerprint=None) is None
    assert known.recognise(sha256=fingerprint, fingerprint=sha256) is None
    assert 5 in known.sizes()


def test_the_published_hash_of_ft_mse_is_known() -> None:
    hashed = "735e4c3a447a3255760d7f86845f09f937809baa529c17370d83e4c3758f3c75"
    found = catalog().recognise(sha256=hashed, fingerprint=None)
    assert found is not None
    assert (found.name, found.size) == ("ft-mse", 334641190)


def test_a_vae_in_two_files_is_not_recognised_by_one_of_them() -> None:
    assert catalog().find("taef2").hashes == {}
    assert catalog().find("taef2").size == 2704692 + 2704756


def test_an_own_file_adds_and_replaces(own: Path) -> None:
    own.write_text(OWN + "standard = true\n[ft-mse]\ntitle = 'Other'\nfamily = 'sd1'\n")
    known = catalog()
    assert known.find("my-vae").title == "Mine"
    assert known.find("ft-mse").title == "Other"
    assert known.find("ft-ema").publisher == "Stability AI"
    assert known.standard("sd1") is known.find("my-vae")


def test_an_own_file_in_the_configuration_folder_counts(home: Path) -> None:
    folder = home / ".config" / "vaekit"
    folder.mkdir(parents=True)
    (folder / "catalog.toml").write_text(OWN)
    assert catalog().find("my-vae").family == "sd1"


ENTRY = '[x]\ntitle = "X"\nfamily = "sd1"\n'
MISTAKES = {
    "no TOML": ("[x]\ntitle = \n", 2, "TOML"),
    "an end too early": ('[x]\ntitle = """\n\n', 4, "TOML"),
    "no title": ('[y]\ntitle = "Y"\nfamily = "sd1"\n\n[x]\nfamily = "sd1"\n', 5, "title"),
    "an unknown key": (ENTRY + "colour = 1\n", 4, "colour"),
    "an unknown family": ('[x]\ntitle = "X"\n\nfamily = "sd9"\n', 4, "sd9"),
    "a hash that is none": (ENTRY + 'files = [{ url = "https://a.b/c", sha256 = "12" }]\n', 4, "sha256"),
    "a hash further down": (
        ENTRY + '[[x.files]]\nurl = "https://a.b/c"\n[[x.files]]\nurl = "https://a.b/d"\nsha256 = "12"\n',
        8,
        "sha256",
    ),
    "an item without source": (ENTRY + '[[x.files]]\nurl = "https://a.b/c"\n[[x.files]]\nsize = 1\n', 6, "hub"),
    "no https": (ENTRY + 'files = [{ url = "file:///etc/passwd" }]\n', 4, "url"),
    "a file outside of its repository": (ENTRY + 'files = [{ hub = "a/b", file = "../../x" }]\n', 4, "inside"),
    "an absolute file": (ENTRY + 'files = [{ hub = "a/b", file = "/etc/passwd" }]\n', 4, "inside"),
    "two sources": (ENTRY + 'files = [{ hub = "a/b", file = "c", civitai = "1@2" }]\n', 4, "one of"),
    "a negative size": (ENTRY + 'files = [{ url = "https://a.b/c", size = -1 }]\n', 4, "size"),
    "a path as name": ('["../x"]\ntitle = "X"\nfamily = "sd1"\n', 1, "name"),
    "a reserved name": ('[Automatic]\ntitle = "X"\nfamily = "sd1"\n', 1, "means something else"),
    "a reserved alias": (ENTRY + 'aliases = ["none"]\n', 4, "means something else"),
    "a name twice": (ENTRY + ENTRY, 4, "TOML"),
    "a name with a dot": ('[my-1.5]\ntitle = "X"\nfamily = "sd1"\n', 1, "quotes"),
    "another's name": (ENTRY + '\naliases = ["ft-mse"]\n', 5, "already"),
    "another's alias": (ENTRY + 'aliases = ["novelai"]\n', 4, "already"),
    "no table": ("x = 1\n", 1, "table"),
    "bundled": (ENTRY + "bundled = true\n", 4, "vaekit"),
    "a name of its own": (ENTRY + 'name = "y"\n', 4, "brackets"),
    "no UTF-8": (b"[x]\n\n# \xff", 3, "UTF-8"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_file_and_line(mistake: str, own: Path) -> None:
    text, line, word = MISTAKES[mistake]
    own.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileError) as raised:
        catalog()
    message = str(raised.value)
    assert message.startswith(f"{own}:{line}: "), message
    assert word in message
    assert "\n" not in message


@pytest.mark.parametrize("named", ["no-such.toml", ".", "a\0b"])
def test_a_named_file_that_cannot_be_read_is_an_error(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "\0" not in named:
        monkeypatch.setenv("VAEKIT_CATALOG", named)
    else:
        monkeypatch.setattr("vaekit.catalog.known.own_file", lambda: Path(named))
    with pytest.raises(FileError):
        catalog()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["[x]", "[[x.files]]", "[y.z]", "title = 'T'", "family = 'sd1'", "files = []", "[", "=", "'''"])
        | st.text(max_size=12),
        max_size=8,
    )
)
def test_any_text_is_a_catalog_or_one_line_about_it(own: Path, lines: list[str]) -> None:
    own.write_text("\n".join(lines), "utf-8", errors="surrogatepass", newline="")
    try:
        catalog()
    except FileError as error:
        assert re.match(re.escape(str(own)) + r":\d+: ", str(error))
