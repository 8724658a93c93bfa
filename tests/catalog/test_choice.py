"""Which VAE a checkpoint gets: Automatic, None or a name, and the reason."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest
import torch
from catalog.shelves import LIKE_FLUX, LIKE_SD1, OF_SDXL, SD1, SD1_WITHOUT, SDXL, SDXL_WITHOUT, empty_home, library, put
from checkpoints.making import save_safetensors, save_torch
from conftest import SMALL_KL, random_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaekit.catalog import CatalogEntry, Library, Preferences, Resolution, as_asked, catalog, prefer, resolve
from vaekit.errors import FamilyError, FileError, OptionError

STATE = random_state(SMALL_KL)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path / "home", monkeypatch)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Folders as A1111 has them; `dream` has a baked VAE, `bare` and `xl` have none."""
    folder = tmp_path / "webui" / "models"
    (folder / "VAE").mkdir(parents=True)
    put(SD1, folder / "Stable-diffusion" / "dream.safetensors")
    put(SD1_WITHOUT, folder / "Stable-diffusion" / "bare.safetensors")
    put(SDXL_WITHOUT, folder / "Stable-diffusion" / "xl.safetensors")
    return folder


def look(models: Path) -> Library:
    return library(models.parent)


def answer(models: Path, checkpoint: str | Path, choice: str | Path = "Automatic") -> Resolution:
    return resolve(checkpoint, choice, library=look(models))


def put_vae(path: Path) -> Path:
    """A VAE that can be of sd1 or sdxl, of a length that no published one has: it is not hashed."""
    return put(LIKE_SD1, path, metadata={"made": "for a test"})


def passed(found: Resolution) -> list[str]:
    return [each.rule for each in found.passed_over]


# The rules, in their order


def test_without_anything_else_the_baked_one_is_taken(models: Path) -> None:
    found = answer(models, "dream")
    assert (found.source, found.baked) == ("baked", True)
    assert found.path == found.checkpoint == models / "Stable-diffusion" / "dream.safetensors"
    assert found.families == ("sd1",)
    assert passed(found) == ["asked", "preference", "beside"]


def test_a_checkpoint_without_one_gets_the_standard_of_its_family(models: Path) -> None:
    for checkpoint, name, family in (("bare", "kl-f8", "sd1"), ("xl", "sdxl-vae", "sdxl")):
        found = answer(models, checkpoint)
        assert (found.source, found.name, found.known, found.families) == ("standard", name, name, (family,))
        assert found.path is None
        assert "would be downloaded from hf:" in found.reason
        assert passed(found) == ["asked", "preference", "beside", "baked"]


@pytest.mark.parametrize("file", ["dream.vae.safetensors", "dream.vae.pt", "dream.vae.ckpt"])
@pytest.mark.parametrize("folder", ["Stable-diffusion", "VAE", "VAE/deep/er"])
def test_a_file_with_the_checkpoints_name_comes_before_the_baked_one(file: str, folder: str, models: Path) -> None:
    (models / folder).mkdir(parents=True, exist_ok=True)
    save_torch(STATE, models / folder / file)  # the format is told by the content
    found = answer(models, "dream")
    assert (found.source, found.path) == ("beside", models / folder / file)
    assert file in found.reason


def test_in_a_folder_of_vaes_the_plain_name_counts_too(models: Path) -> None:
    put_vae(models / "VAE" / "dream.safetensors")
    assert (
        answer(models, models / "Stable-diffusion" / "dream.safetensors").path == models / "VAE" / "dream.safetensors"
    )


def test_beside_comes_before_the_folder_and_safetensors_before_pickles(models: Path) -> None:
    for path in ("VAE/dream.vae.safetensors", "Stable-diffusion/dream.vae.pt", "Stable-diffusion/dream.vae.ckpt"):
        save_torch(STATE, models / path)
    assert answer(models, "dream").path == models / "Stable-diffusion" / "dream.vae.pt"


@pytest.mark.parametrize(
    "other",
    ["dream-2.vae.pt", "dream2.vae.pt", "drea.vae.pt", "Dream.vae.pt", "dream.vae.pt.safetensors", "dream.vae", "x.pt"],
)
def test_another_name_is_never_taken_for_it(other: str, models: Path) -> None:
    save_torch(STATE, models / "VAE" / other)
    save_torch(STATE, models / "Stable-diffusion" / other)
    found = answer(models, "dream")
    assert (found.source, found.path) == ("baked", found.checkpoint)


def test_a_file_of_that_name_elsewhere_is_not_beside_it(models: Path, tmp_path: Path) -> None:
    put_vae(tmp_path / "other" / "dream.vae.safetensors")
    found = resolve("dream", library=library(models.parent, tmp_path / "other"))
    assert found.source == "baked"


def test_a_checkpoint_is_not_its_own_neighbour(models: Path) -> None:
    put(SD1, models / "Stable-diffusion" / "twin.ckpt")
    put(SD1, models / "Stable-diffusion" / "twin.safetensors")
    found = answer(models, models / "Stable-diffusion" / "twin.ckpt")
    assert found.source == "baked"
    assert "a checkpoint itself" in found.passed_over[-1].reason


def test_a_preference_comes_before_the_file_beside_and_a_named_one_before_both(models: Path) -> None:
    for name in ("dream.vae.safetensors", "liked.safetensors", "named.safetensors"):
        put_vae(models / "VAE" / name)
    disk = look(models)
    assert resolve("dream", library=disk).source == "beside"
    assert prefer("dream", "liked", library=disk).source == "preference"
    found = resolve("dream", library=disk)
    assert (found.source, found.name, passed(found)) == ("preference", "liked.safetensors", ["asked"])
    found = resolve("dream", "named", library=disk)
    assert (found.source, found.name, passed(found)) == ("asked", "named.safetensors", [])


def test_none_takes_the_baked_one_whatever_lies_around(models: Path) -> None:
    put_vae(models / "VAE" / "dream.vae.safetensors")
    disk = look(models)
    prefer("dream", "dream.vae", library=disk)
    for none in ("None", "none", "NONE"):
        found = resolve("dream", none, library=disk)
        assert (found.source, found.choice) == ("baked", "None")
        assert passed(found) == ["asked", "preference", "beside"]
    assert resolve("dream", "automatic", library=disk).source == "preference"


def test_none_without_a_baked_one_takes_the_standard_and_fetches_it(models: Path, tmp_path: Path) -> None:
    put_vae(models / "VAE" / "bare.vae.safetensors")
    fetched = put_vae(tmp_path / "fetched" / "kl-f8.safetensors")
    wanted: list[CatalogEntry] = []

    def fetch(entry: CatalogEntry) -> Path:
        wanted.append(entry)
        return fetched

    found = resolve("bare", "None", library=look(models), fetch=fetch)
    assert (found.source, found.path, found.known, found.families) == ("standard", fetched, "kl-f8", ("sd1",))
    assert [entry.name for entry in wanted] == ["kl-f8"]


def test_nothing_is_fetched_that_is_on_this_disk_or_not_needed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_safetensors(STATE, models / "VAE" / "under another name.safetensors")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    source = f'url = "https://example.org/x", sha256 = "{sha256}", size = {path.stat().st_size}'
    own = tmp_path / "own.toml"
    own.write_text(f'[mine]\ntitle = "P"\nfamily = "sd1"\nstandard = true\nfiles = [{{ {source} }}]\n')
    monkeypatch.setenv("VAEKIT_CATALOG", str(own))
    disk = look(models)

    def fetch(entry: CatalogEntry) -> Path:
        raise AssertionError(f"fetched {entry.name}")

    for checkpoint, choice in (("bare", "Automatic"), ("bare", "mine"), ("dream", "None")):
        found = resolve(checkpoint, choice, library=disk, fetch=fetch)
        if checkpoint == "bare":
            assert (found.path, found.known, found.sha256) == (path, "mine", sha256)
            assert "on this disk" in found.reason


def test_a_bundled_vae_is_taken_by_its_name_whatever_else_is_called_so(models: Path) -> None:
    put_vae(models / "VAE" / "mini.safetensors")
    with pytest.raises(FamilyError, match="mini is a VAE of mini"):
        answer(models, "dream", "mini")
    assert answer(models, "dream", "mini.safetensors").name == "mini.safetensors"


def test_a_checkpoint_whose_family_is_open_gets_no_standard(models: Path) -> None:
    tensors = {"double_blocks.0.img_attn.qkv.weight": ["BF16", [9, 9]]}
    put(SD1, models / "Stable-diffusion" / "flux.safetensors", tensors=tensors, metadata=None)
    with pytest.raises(FamilyError, match=r"flux1 or flux2.*name one"):
        answer(models, "flux")
    put(LIKE_FLUX, models / "VAE" / "ae.safetensors")
    assert answer(models, "flux", "ae").families == ("flux1",)


def test_a_family_without_a_known_standard_says_so(models: Path) -> None:
    put("x4-upscaler-vae-ldm", models / "VAE" / "up.safetensors")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    tensors = {first: ["F16", [320, 7, 3, 3]]}
    put(SD1, models / "Stable-diffusion" / "upscaler.safetensors", tensors=tensors, metadata=None)
    with pytest.raises(FamilyError, match="no standard VAE of upscaler4x"):
        answer(models, "upscaler")


# Names


@pytest.mark.parametrize("name", ["best.vae.pt", "best.vae", "sub/best.vae.pt"])
def test_a_name_is_that_of_the_file_with_or_without_ending_and_folder(name: str, models: Path) -> None:
    (models / "VAE" / "sub").mkdir()
    save_torch(STATE, models / "VAE" / "sub" / "best.vae.pt")
    assert answer(models, "dream", name).path == models / "VAE" / "sub" / "best.vae.pt"


@pytest.mark.parametrize("name", ["best", "best.vae.p", "BEST.vae.pt", "best.vae.pt ", "", "dream.vae", "bes", "*"])
def test_a_name_that_matches_nothing_is_an_error_with_the_nearest(name: str, models: Path) -> None:
    save_torch(STATE, models / "VAE" / "best.vae.pt")
    with pytest.raises(OptionError, match="no VAE is called") as raised:
        answer(models, "dream", name)
    if name in ("BEST.vae.pt", "best.vae.p", "best.vae.pt "):
        assert "did you mean best.vae" in str(raised.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text("abv.-/ 12", max_size=9))
def test_only_the_exact_name_is_ever_taken(name: str, models: Path) -> None:
    known = {"a.vae.pt", "a-2.vae.pt", "a.pt", "ab/a1.pt"}
    for file in known:
        if not (models / "VAE" / file).exists():
            (models / "VAE" / file).parent.mkdir(exist_ok=True)
            save_torch({"decoder": STATE["decoder.conv_in.weight"]} | STATE, models / "VAE" / file)
    expected = {"a.vae.pt", "a.vae", "a-2.vae.pt", "a-2.vae", "a.pt", "a", "ab/a1.pt", "a1.pt", "a1"}
    try:
        found = answer(models, "dream", name)
    except OptionError:
        assert name not in expected
    else:
        assert name in expected
        assert name in (found.name, found.name.removesuffix(".pt"), f"ab/{found.name}")


@pytest.mark.parametrize(
    "trick", ["../secret.safetensors", "/etc/passwd", "..", "~/x", "a\0b", "VAE/../../secret", "\n"]
)
def test_a_name_never_reaches_the_disk(trick: str, models: Path) -> None:
    put_vae(models / "secret.safetensors")
    put_vae(models.parent / "secret.safetensors")
    with pytest.raises(OptionError, match="no VAE is called"):
        answer(models, "dream", trick)
    with pytest.raises(OptionError, match="no checkpoint is called"):
        answer(models, trick)


def test_two_files_of_one_name_are_told_and_their_folder_or_path_decides(models: Path, tmp_path: Path) -> None:
    (models / "VAE" / "a").mkdir()
    one = save_safetensors(STATE, models / "VAE" / "a" / "best.safetensors")
    two = save_safetensors(random_state(SMALL_KL, 1), models / "VAE" / "best.safetensors")
    with pytest.raises(OptionError, match="2 files are called 'best'") as raised:
        answer(models, "dream", "best")
    assert str(one) in str(raised.value)
    assert str(two) in str(raised.value)
    assert answer(models, "dream", "a/best.safetensors").path == one
    assert answer(models, "dream", two).path == two


def test_two_files_of_one_name_and_the_same_weights_are_one(models: Path) -> None:
    save_safetensors(STATE, models / "VAE" / "best.safetensors")
    save_torch({name: tensor.half() for name, tensor in STATE.items()}, models / "VAE" / "best.pt")
    assert answer(models, "dream", "best").name in ("best.safetensors", "best.pt")


def test_two_links_to_one_file_are_one(models: Path) -> None:
    put_vae(models / "VAE" / "best.safetensors")
    (models / "VAE" / "sub").mkdir()
    (models / "VAE" / "sub" / "best.safetensors").symlink_to(models / "VAE" / "best.safetensors")
    assert answer(models, "dream", "best").name == "best.safetensors"


def test_a_named_file_is_taken_by_its_path_and_so_is_the_vae_of_a_checkpoint(models: Path, tmp_path: Path) -> None:
    path = put_vae(tmp_path / "anywhere.safetensors")
    found = answer(models, "bare", path)
    assert (found.source, found.path) == ("asked", path)
    dream = models / "Stable-diffusion" / "dream.safetensors"
    assert answer(models, "bare", dream).path == dream
    with pytest.raises(OptionError, match="is a checkpoint; give its path"):
        answer(models, "bare", "dream")
    with pytest.raises(FileError, match="without a baked VAE"):
        answer(models, "dream", models / "Stable-diffusion" / "xl.safetensors")
    with pytest.raises(FileError, match="no such file"):
        answer(models, "dream", tmp_path / "gone.safetensors")


def test_a_broken_or_unfinished_vae_is_an_error_and_no_fallback(models: Path) -> None:
    (models / "VAE" / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (models / "VAE" / "coming.safetensors.part").touch()
    (models / "VAE" / "lora.safetensors").write_bytes(
        save_safetensors({"lora_unet_a.lora_down.weight": torch.zeros(1)}, models / "tmp.safetensors").read_bytes()
    )
    for name, word in (("cut", "truncated"), ("coming.safetensors.part", "not finished"), ("lora", "LoRA")):
        with pytest.raises(FileError, match=word):
            answer(models, "dream", name)


# Checkpoints


def test_a_checkpoint_is_found_by_exact_name_or_path(models: Path) -> None:
    path = models / "Stable-diffusion" / "dream.safetensors"
    for checkpoint in ("dream", "dream.safetensors", path):
        assert answer(models, checkpoint).checkpoint == path
    for wrong in ("drea", "Dream", "dream.safetensor", ""):
        with pytest.raises(OptionError, match="no checkpoint is called"):
            answer(models, wrong)
    with pytest.raises(OptionError, match="did you mean dream"):
        answer(models, "Dream")


def test_what_is_no_checkpoint_is_told(models: Path) -> None:
    vae = put_vae(models / "VAE" / "x.safetensors")
    (models / "Stable-diffusion" / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for checkpoint, error, word in (
        ("x", OptionError, "a VAE, not a checkpoint"),
        (vae, OptionError, "a VAE, not a checkpoint"),
        ("cut", FileError, "truncated"),
        (models / "gone.ckpt", FileError, "no such file"),
        (models / "Stable-diffusion", FileError, "folder with"),
    ):
        with pytest.raises(error, match=word):
            answer(models, checkpoint)


def test_two_checkpoints_of_one_name_are_told(models: Path) -> None:
    put(SD1, models / "Stable-diffusion" / "sub" / "dream.safetensors")
    with pytest.raises(OptionError, match="2 files are called 'dream'"):
        answer(models, "dream")
    assert answer(models, "sub/dream.safetensors").source == "baked"


def test_a_checkpoint_outside_of_the_library_is_looked_at(models: Path, tmp_path: Path) -> None:
    path = put(SD1, tmp_path / "elsewhere" / "new.safetensors")
    (tmp_path / "elsewhere" / "new.vae.pt").symlink_to("nowhere")
    assert answer(models, path).source == "baked"
    put_vae(tmp_path / "elsewhere" / "new.vae.safetensors")
    assert answer(models, path).path == tmp_path / "elsewhere" / "new.vae.safetensors"


# Families


@pytest.mark.parametrize(
    ("checkpoint", "vae", "words"),
    [
        ("dream", LIKE_FLUX, "x.* is a VAE of sd3 or flux1, dream.safetensors a checkpoint of sd1"),
        ("dream", OF_SDXL, "x.* is a VAE of sdxl, dream.safetensors a checkpoint of sd1"),
        ("xl", "sd15-vae-diffusers-fp16", "x.* is a VAE of sd1, xl.safetensors a checkpoint of sdxl"),
    ],
)
def test_a_vae_of_another_family_is_refused_with_an_explanation(
    checkpoint: str, vae: str, words: str, models: Path
) -> None:
    is_folder = "diffusers" in vae
    name = "x" if is_folder else "x.safetensors"
    path = put(vae, models / "VAE" / name)
    disk = look(models)
    for choice in (name, path):
        with pytest.raises(FamilyError, match=words):
            resolve(checkpoint, choice, library=disk)
        with pytest.raises(FamilyError, match=words):
            prefer(checkpoint, choice, library=disk)
    assert Preferences().all() == {}


def test_a_published_vae_of_another_family_is_refused_before_it_is_fetched(models: Path) -> None:
    def fetch(entry: CatalogEntry) -> Path:
        raise AssertionError("fetched")

    with pytest.raises(FamilyError, match="sdxl-vae is a VAE of sdxl"):
        resolve("dream", "sdxl-vae", library=look(models), fetch=fetch)


def test_an_sdxl_vae_without_a_config_is_refused_by_its_hash(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tensors look like those of sd1; the catalog knows the file."""
    path = put_vae(models / "VAE" / "renamed.safetensors")
    assert answer(models, "dream", "renamed").families == ("sd1",)
    sha256 = "ab" * 32
    monkeypatch.setattr("vaekit.catalog.library._sha256", lambda hashed: sha256 if hashed == path else "cd" * 32)
    source = f'url = "https://example.org/x", sha256 = "{sha256}", size = {path.stat().st_size}'
    own = tmp_path / "own.toml"
    own.write_text(f'[xl-vae]\ntitle = "P"\nfamily = "sdxl"\nfiles = [{{ {source} }}]\n')
    monkeypatch.setenv("VAEKIT_CATALOG", str(own))
    with pytest.raises(FamilyError, match="is a VAE of sdxl"):
        answer(models, "dream", "renamed")


def test_a_file_of_another_family_with_the_checkpoints_name_is_passed_over_and_told(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(LIKE_FLUX, models / "VAE" / "dream.vae.safetensors")
    found = answer(models, "dream")
    assert found.source == "baked"
    assert "VAE of sd3 or flux1" in found.passed_over[-1].reason
    assert "dream.vae.safetensors" in caplog.text


def test_a_broken_file_with_the_checkpoints_name_is_passed_over_and_told(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (models / "Stable-diffusion" / "dream.vae.pt").write_bytes(b"broken")
    (models / "Stable-diffusion" / "dream.vae.ckpt").symlink_to("gone")
    put_vae(models / "VAE" / "dream.vae.safetensors")
    found = answer(models, "dream")
    assert (found.source, found.path) == ("beside", models / "VAE" / "dream.vae.safetensors")
    assert "dream.vae.pt" in caplog.text
    assert "dream.vae.ckpt" in caplog.text


def test_what_the_tensors_leave_open_the_checkpoint_decides(models: Path) -> None:
    put_vae(models / "VAE" / "x.safetensors")
    put(SDXL, models / "Stable-diffusion" / "xl-base.safetensors")
    assert answer(models, "dream", "x").families == ("sd1",)
    assert answer(models, "xl-base", "x").families == ("sdxl",)


# Preferences


def test_a_preference_is_kept_for_one_checkpoint_until_it_is_forgotten(models: Path) -> None:
    put_vae(models / "VAE" / "liked.safetensors")
    put(SD1, models / "Stable-diffusion" / "dream2.safetensors")
    prefer("dream", "liked", library=look(models))
    assert answer(models, "dream").name == "liked.safetensors"
    assert answer(models, "dream2").source == "baked"
    assert prefer("dream", "Automatic", library=look(models)).source == "baked"
    assert Preferences().all() == {}


def test_none_can_be_preferred(models: Path) -> None:
    put_vae(models / "VAE" / "dream.vae.safetensors")
    found = prefer("dream", "None", library=look(models))
    assert (found.source, passed(found)) == ("baked", ["asked", "preference", "beside"])
    assert "None is stored" in found.passed_over[1].reason


def test_a_file_can_be_preferred_by_its_path(models: Path, tmp_path: Path) -> None:
    path = put_vae(tmp_path / "anywhere.safetensors")
    assert prefer("dream", path, library=look(models)).path == path
    assert answer(models, "dream").path == path


def test_a_preference_holds_however_the_checkpoint_is_reached(models: Path) -> None:
    put_vae(models / "VAE" / "liked.safetensors")
    prefer("dream", "liked", library=look(models))
    link = models / "link.safetensors"
    link.symlink_to(models / "Stable-diffusion" / "dream.safetensors")
    assert answer(models, link).source == "preference"


def test_only_what_works_is_stored(models: Path) -> None:
    with pytest.raises(OptionError, match="no VAE is called 'no-such'"):
        prefer("dream", "no-such", library=look(models))
    assert Preferences().all() == {}


def test_a_preferred_vae_that_is_gone_is_an_error_that_says_how_to_forget_it(models: Path) -> None:
    liked = put_vae(models / "VAE" / "liked.safetensors")
    prefer("dream", "liked", library=look(models))
    liked.unlink()
    with pytest.raises(OptionError, match=r"no VAE is called 'liked'.*vaekit prefer dream.safetensors Automatic"):
        answer(models, "dream")
    assert answer(models, "dream", "None").source == "baked"
    assert prefer("dream", "Automatic", library=look(models)).source == "baked"


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"", ":1:"),
        (b'{\n  "a": \n}', ":3:"),
        (b"[1]", ":"),
        (b'{"a": 5}', ":"),
        (b'{"a": {"vae": []}}', ":"),
        (b"\xff", ":"),
        (b"[" * 100_000, ":"),
    ],
)
def test_broken_preferences_are_told_and_not_overwritten(content: bytes, where: str, models: Path) -> None:
    path = Preferences().path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(FileError) as raised:
        answer(models, "dream")
    assert str(raised.value).startswith(f"{path}{where}")
    with pytest.raises(FileError):
        prefer("dream", "None", library=look(models))
    assert path.read_bytes() == content


def test_many_writers_of_preferences_lose_nothing(home: Path) -> None:
    def write(number: int) -> None:
        Preferences().set(home / f"{number}.safetensors", f"vae-{number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Preferences().all()) == 12
    assert Preferences().get(home / "7.safetensors") == "vae-7"


# The record


def test_the_record_can_be_sent_on(models: Path) -> None:
    save_safetensors(STATE, models / "VAE" / "x.safetensors")
    disk = look(models)
    disk.fingerprint(disk.look(models / "VAE" / "x.safetensors"))
    record = resolve("bare", "x", library=disk).to_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["name"] == "x.safetensors"
    assert record["source"] == "asked"
    assert len(record["fingerprint"]) == 64
    assert record["sha256"] == hashlib.sha256((models / "VAE" / "x.safetensors").read_bytes()).hexdigest()
    assert record["passed_over"] == []
    standard = resolve("xl", library=look(models)).to_dict()
    assert [each["rule"] for each in standard["passed_over"]] == ["asked", "preference", "beside", "baked"]
    assert all(each["reason"] for each in standard["passed_over"])


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("ft-mse", False),
        ("here.safetensors", True),
        ("gone.safetensors", False),
        ("sub/inside.safetensors", True),
        ("sub/gone.safetensors", False),
        ("stabilityai/sd-vae-ft-mse", False),
        ("./gone.safetensors", True),
        ("../x", True),
        ("/x", True),
        ("~/x", True),
        ("sub", False),
        ("sub/", False),
        ("pipeline", True),
        ("None", False),
        ("a\0b", False),
        ("x" * 5000, False),
    ],
)
def test_what_is_typed_is_a_path_or_a_name(text: str, is_path: bool, home: Path) -> None:
    (home / "work" / "sub").mkdir()
    (home / "work" / "here.safetensors").touch()
    (home / "work" / "pipeline").mkdir()
    (home / "work" / "pipeline" / "model_index.json").touch()
    (home / "work" / "sub" / "inside.safetensors").touch()
    assert isinstance(as_asked(text), Path) == is_path


def test_every_name_of_the_catalog_resolves_or_is_refused_for_its_family(models: Path) -> None:
    disk = look(models)
    for entry in catalog():
        if entry.family == "sd1":
            assert resolve("bare", entry.name, library=disk).known == entry.name
        else:
            with pytest.raises(FamilyError):
                resolve("bare", entry.name, library=disk)
