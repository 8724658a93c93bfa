"""What is on this disk: found, understood, remembered, and never lost in silence."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from catalog.shelves import (
    HEADERS,
    LIKE_FLUX,
    LIKE_SD1,
    OF_SDXL,
    SD1,
    SD1_WITHOUT,
    SDXL_WITHOUT,
    baked,
    empty_home,
    index,
    kinds,
    library,
    put,
)
from checkpoints.making import half_of, numbered, save_diffusers, save_safetensors, save_shards, save_torch, tiny_state
from conftest import SMALL_KL, random_state

from vaekit.catalog import Entry, Library, catalog, downloads_folder
from vaekit.catalog.index import Index, Prints, Row
from vaekit.catalog.looking import Facts, Looker
from vaekit.catalog.walking import found_at
from vaekit.checkpoints.fingerprint import fingerprint
from vaekit.errors import FileError, OptionError
from vaekit.files import atomic_write

STATE = random_state(SMALL_KL)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path / "home", monkeypatch)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def only(found: Library, name: str) -> Entry:
    (entry,) = (entry for entry in found.entries if entry.name == name)
    return entry


# What files are


def test_every_published_header_is_listed_as_what_it_is(models: Path) -> None:
    expected = {}
    for number, header in enumerate(sorted(HEADERS.glob("*.json"))):
        entry = json.loads(header.read_text())
        if entry["container"] == "safetensors":
            folder = models / str(number)  # says nothing, as names do for tiny networks
            put(header.stem, folder if "config" in entry else folder / entry["filename"].rpartition("/")[2])
            expected[str(number)] = (header.stem, entry["expect"])
    found = {e.name.split("/")[0]: e for e in library(models).entries if e.program != "bundled"}
    assert found.keys() == expected.keys()
    for number, (name, expect) in expected.items():
        facts = found[number].facts
        if "refused" not in expect:
            assert facts.kind == ("checkpoint" if expect["baked"] else "vae"), name
            told = (facts.network, facts.layout, facts.encoder, facts.decoder)
            assert told == (expect["kind"], expect["layout"], expect["encoder"], expect["decoder"]), name
            known = {family for family in found[number].families if not family.startswith(("custom", "mini"))}
            assert known == set(expect["families"]), name
        else:
            without = expect["refused"] in ("checkpoint_without_vae", "unet_only") and "diffusers" not in name
            assert facts.kind == ("checkpoint" if without else "other"), name
            assert not facts.has_vae
            assert facts.note


def own(entries: Iterable[Entry]) -> list[Entry]:
    """Those of the test, without what ships with vaekit."""
    return [entry for entry in entries if entry.program != "bundled"]


def test_the_bundled_checkpoint_is_listed_with_the_family_it_tells(models: Path) -> None:
    (bundled,) = [entry for entry in library(models).checkpoints if entry.program == "bundled"]
    assert (bundled.name, bundled.families, bundled.facts.has_vae) == ("mini-sd", ("mini",), False)


def test_a_checkpoint_without_a_vae_tells_its_family(models: Path) -> None:
    put(SD1_WITHOUT, models / "a.safetensors")
    put(SDXL_WITHOUT, models / "b.safetensors")
    first = "model.diffusion_model.input_blocks.0.0.weight"
    put(
        SD1_WITHOUT,
        models / "c.safetensors",
        tensors={first: ["F16", [320, 7, 3, 3]], "cond_stage_model.x": ["F16", [1]]},
    )
    found = library(models)
    assert {entry.name[0]: entry.families for entry in own(found.checkpoints)} == {
        "a": ("sd1",),
        "b": ("sdxl",),
        "c": ("upscaler4x",),
    }


def test_files_of_every_format_are_looked_into(models: Path) -> None:
    save_torch(STATE, models / "zip.pt")
    save_torch({"state_dict": STATE}, models / "nested.ckpt", legacy=True)
    save_shards(STATE, models / "shards")
    save_safetensors(baked(STATE), models / "checkpoint.SAFETENSORS")
    save_torch(baked(STATE), models / "checkpoint.ckpt")
    found = library(models)
    assert kinds(found) == {
        "zip.pt": "vae",
        "nested.ckpt": "vae",
        "shards/model.safetensors.index.json": "vae",
        "checkpoint.SAFETENSORS": "checkpoint",
        "checkpoint.ckpt": "checkpoint",
    }
    assert all(entry.facts.has_vae for entry in own(found.checkpoints))


def test_broken_files_are_listed_with_the_reason(models: Path) -> None:
    whole = save_safetensors(STATE, models / "whole.safetensors").read_bytes()
    (models / "cut.safetensors").write_bytes(whole[:-100])
    (models / "empty.safetensors").touch()
    (models / "page.ckpt").write_text("<!DOCTYPE html><html>log in</html>")
    (models / "noise.pt").write_bytes(b"\x80\x02garbage" * 50)
    (models / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (models / "gone.safetensors").symlink_to("nowhere")
    (models / "itself.safetensors").symlink_to("itself.safetensors")
    os.mkfifo(models / "pipe.safetensors")
    found = library(models)
    notes = {entry.name: entry.facts.note for entry in found.broken}
    for name, word in {
        "cut.safetensors": "truncated",
        "empty.safetensors": "empty",
        "page.ckpt": "web page",
        "noise.pt": "",
        "lfs.safetensors": "git-lfs",
        "gone.safetensors": "link",
        "itself.safetensors": "links",
        "pipe.safetensors": "not a regular file",
    }.items():
        assert word in notes.pop(name), name
    assert notes == {}
    assert [entry.name for entry in own(found.vaes)] == ["whole.safetensors"]


def test_a_hostile_pickle_is_listed_and_not_run(models: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    save_torch({"encoder": Hostile()}, models / "evil.ckpt")
    (entry,) = library(models).broken
    assert "system" in entry.facts.note
    assert not (tmp_path / "ran").exists()


def test_unfinished_downloads_are_told_from_broken_files(models: Path) -> None:
    for name in ("a.safetensors.part", "b.ckpt.crdownload", "c.safetensors.aria2", "d.safetensors.incomplete"):
        (models / name).write_bytes(b"x")
    save_safetensors(STATE, models / "e.safetensors")  # aria2 makes the file at its full length at once
    (models / "e.safetensors.aria2").touch()
    (models / "notes.txt.part").touch()
    assert kinds(library(models)) == dict.fromkeys(
        ("a.safetensors.part", "b.ckpt.crdownload", "c.safetensors.aria2", "d.safetensors.incomplete", "e.safetensors"),
        "unfinished",
    )
    (models / "e.safetensors.aria2").unlink()
    assert only(library(models), "e.safetensors").kind == "vae"


def test_a_truncated_file_that_just_changed_may_still_be_downloading(models: Path) -> None:
    path = save_safetensors(STATE, models / "x.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    assert "still being downloaded?" in only(library(models), "x.safetensors").facts.note
    old = time.time() - 3600
    os.utime(path, (old, old))
    assert "downloaded" not in only(library(models), "x.safetensors").facts.note


def test_our_own_half_written_files_are_not_listed(models: Path) -> None:
    with atomic_write(models / "x.safetensors") as part:
        part.write_bytes(b"half")
        assert kinds(library(models)) == {}
        save_safetensors(STATE, part)
    assert kinds(library(models)) == {"x.safetensors": "vae"}


# Folders that are models


def test_a_diffusers_folder_is_one_vae_and_a_pipeline_one_checkpoint(models: Path) -> None:
    put(OF_SDXL, models / "sdxl-fix")
    (models / "sdxl-fix" / "diffusion_pytorch_model.bin").write_bytes(b"the same once more")
    pipeline = models / "pipeline"
    put("sd15-vae-diffusers-fp16", pipeline / "vae")
    put("sd15-unet-diffusers", pipeline / "unet")
    (pipeline / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    found = library(models)
    assert kinds(found) == {"sdxl-fix": "vae", "pipeline": "checkpoint"}
    assert only(found, "sdxl-fix").families == ("sdxl",)
    assert only(found, "pipeline").families == ("sd1",)
    assert only(found, "pipeline").facts.has_vae


def test_a_changed_config_is_noticed(models: Path) -> None:
    folder = put(OF_SDXL, models / "vae")
    config = json.loads((folder / "config.json").read_text())
    assert only(library(models), "vae").families == ("sdxl",)
    (folder / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.18215}))
    assert only(library(models), "vae").families == ("sd1",)


def test_parts_of_language_models_are_left_alone(models: Path) -> None:
    (models / "config.json").write_text("{}")
    for name in ("model.safetensors", "pytorch_model.bin", "model-00001-of-00002.safetensors"):
        (models / name).write_bytes(b"never opened")
    assert kinds(library(models)) == {}


def test_the_hubs_cache_is_read_by_repository(home: Path) -> None:
    hub = home / ".cache" / "huggingface" / "hub"
    snapshot = hub / "models--stabilityai--sd-vae-ft-mse" / "snapshots" / "31f2"
    snapshot.mkdir(parents=True)
    blobs = snapshot.parents[1] / "blobs"
    folder = put(OF_SDXL, blobs)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (snapshot / name).symlink_to(folder / name)
    single = hub / "models--stabilityai--sdxl-vae" / "snapshots" / "842b"
    put(LIKE_SD1, single / "sdxl_vae.safetensors")
    assert kinds(library()) == {
        "stabilityai/sd-vae-ft-mse": "vae",
        "stabilityai/sdxl-vae/sdxl_vae.safetensors": "vae",
    }


def test_taesds_two_files_are_one_vae(models: Path) -> None:
    for half in ("encoder", "decoder"):
        save_safetensors(numbered(tiny_state(), half), models / f"taesd_{half}.safetensors")
    save_safetensors(numbered(tiny_state(), "decoder"), models / "sub" / "taesdxl_decoder.safetensors")
    found = library(models)
    assert kinds(found) == {"taesd": "vae", "sub/taesdxl_decoder.safetensors": "vae"}
    pair = only(found, "taesd")
    assert pair.decoder == models / "taesd_decoder.safetensors"
    assert (pair.facts.encoder, pair.facts.decoder) == (True, True)
    assert pair.families == ("sd1",)
    assert found.fingerprint(pair).fingerprint == fingerprint(tiny_state()).vae
    assert only(library(models), "taesd").fingerprint == fingerprint(tiny_state()).vae


# Walking


def test_loops_and_second_ways_to_a_folder_end(models: Path) -> None:
    put(LIKE_SD1, models / "a" / "x.safetensors")
    (models / "a" / "up").symlink_to("..")
    (models / "again").symlink_to("a")
    (models / "self").symlink_to("self")
    assert kinds(library(models, models / "a")) == {"a/x.safetensors": "vae"}


def test_linked_folders_are_followed(models: Path, tmp_path: Path) -> None:
    put(LIKE_SD1, tmp_path / "elsewhere" / "x.safetensors")
    (models / "VAE").symlink_to(tmp_path / "elsewhere")
    (entry,) = (e for e in library(models).vaes if e.program != "bundled")
    assert (entry.name, entry.role) == ("VAE/x.safetensors", "vae")


def test_environments_of_programs_are_not_searched(models: Path) -> None:
    for folder in ("venv/lib", ".git", "node_modules/x", "__pycache__"):
        put(LIKE_SD1, models / folder / "x.safetensors")
    assert kinds(library(models)) == {}


def test_an_unreadable_folder_is_told_and_the_rest_goes_on(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(LIKE_SD1, models / "open" / "x.safetensors")
    (models / "closed").mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("vaekit.catalog.walking.os.scandir", scandir)
    found = library(models)
    assert kinds(found) == {"closed": "broken", "open/x.safetensors": "vae"}
    assert only(found, "closed").facts.note == "Permission denied"


def test_an_unreadable_file_is_told(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(LIKE_SD1, models / "x.safetensors")
    real = Path.open

    def refuse(self: Path, *args: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in only(library(models), "x.safetensors").facts.note


def test_a_file_that_becomes_readable_is_looked_at_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(LIKE_SD1, models / "x.safetensors")
    with monkeypatch.context() as closed:
        closed.setattr("vaekit.catalog.looking._structure", lambda path: None)
        closed.setattr("vaekit.catalog.looking.locate", lambda path: (_ for _ in ()).throw(PermissionError(13, "No")))
        assert only(library(models), "x.safetensors").kind == "broken"
    path.chmod(0o600)  # its content and the time of its last change stay as they are
    path.chmod(0o644)
    assert only(library(models), "x.safetensors").kind == "vae"


def test_a_file_that_vanishes_while_listed_is_told(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(LIKE_SD1, models / "stays.safetensors")
    gone = put(LIKE_SD1, models / "goes.safetensors")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) != models:
            return real(path)
        listed = list(real(path))
        gone.unlink()
        return listed

    monkeypatch.setattr("vaekit.catalog.walking.os.scandir", scandir)
    found = library(models)
    assert kinds(found) == {"goes.safetensors": "broken", "stays.safetensors": "vae"}
    assert "vanished" in only(found, "goes.safetensors").facts.note


def test_a_file_that_vanishes_before_it_is_opened_is_told(models: Path) -> None:
    path = put(LIKE_SD1, models / "goes.safetensors")

    def removing(items: Any, what: str) -> Iterator[Any]:
        path.unlink()
        yield from items

    assert "no such file" in only(library(models, track=removing), "goes.safetensors").facts.note


@pytest.mark.parametrize("name", ["\x1b[31mred", "new\nline", "[bold]x", "ü – 猫", "caf\udce9", "a" * 200, "-x"])
def test_any_name_can_be_listed_shown_and_remembered(name: str, models: Path, home: Path) -> None:
    put(LIKE_SD1, models / f"{name}.safetensors")
    memory = index(home)
    for _ in range(2):
        (entry,) = (e for e in library(models, index=memory).vaes if e.program != "bundled")
        assert entry.name == f"{name}.safetensors"
        shown = json.dumps(entry.to_dict()["name"], ensure_ascii=False)
        assert shown.encode("utf-8").isascii() == name.isascii() or "\ufffd" in shown
        assert "\x1b" not in shown
    assert len(memory.read()) == 1 + len([e for e in library().entries if e.program == "bundled"])


# Headers that are alike


def test_headers_alike_but_for_metadata_are_understood_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        put(SD1, models / f"{number}.safetensors", metadata={"title": f"number {number}"})
    looked = []
    real = Looker.look.__globals__["_look"]
    monkeypatch.setattr("vaekit.catalog.looking._look", lambda path: looked.append(path) or real(path))
    assert len(own(library(models).checkpoints)) == 20
    assert len([path for path in looked if path.parent == models]) == 1


def test_what_torch_saved_alike_is_understood_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = {name: tensor.half() for name, tensor in STATE.items()}
    for number in range(5):
        save_torch(random_state(SMALL_KL, number), models / f"{number}.vae.pt")
    save_torch(half, models / "half.vae.pt")
    save_torch(baked(STATE), models / "whole.ckpt")
    cut = save_torch(STATE, models / "cut.vae.pt")
    cut.write_bytes(cut.read_bytes()[:-1000])
    looked = []
    real = Looker.look.__globals__["_look"]
    monkeypatch.setattr("vaekit.catalog.looking._look", lambda path: looked.append(path.name) or real(path))
    found = library(models)
    assert [name for name in looked if name[0].isdigit()] == ["0.vae.pt"]
    assert {e.name: (e.kind, e.facts.dtypes) for e in found.entries if e.program != "bundled"} == {
        **{f"{number}.vae.pt": ("vae", ("F32",)) for number in range(5)},
        "half.vae.pt": ("vae", ("F16",)),
        "whole.ckpt": ("checkpoint", ("F32",)),
        "cut.vae.pt": ("broken", ()),
    }


def test_what_differs_under_a_header_that_is_alike_is_seen(models: Path) -> None:
    put(LIKE_SD1, models / "a.safetensors")
    put(LIKE_SD1, models / "b.safetensors", metadata={"modelspec.architecture": "stable-diffusion-xl-v1-base"})
    longer = put(LIKE_SD1, models / "c.safetensors")
    shorter = put(LIKE_SD1, models / "d.safetensors")
    os.truncate(longer, longer.stat().st_size + 4)
    os.truncate(shorter, shorter.stat().st_size - 4)
    found = library(models)
    assert only(found, "a.safetensors").families == ("sd1", "sdxl", "playground25")
    assert only(found, "b.safetensors").families == ("sdxl",)
    assert kinds(found) == {
        "a.safetensors": "vae",
        "b.safetensors": "vae",
        "c.safetensors": "broken",
        "d.safetensors": "broken",
    }


def test_tiny_networks_of_one_header_are_told_apart_by_their_names(models: Path) -> None:
    for name in ("taesd", "taesdxl"):
        save_safetensors(tiny_state(), models / f"{name}.safetensors")
    found = library(models)
    assert {e.name: e.families for e in found.vaes if e.program != "bundled"} == {
        "taesd.safetensors": ("sd1",),
        "taesdxl.safetensors": ("sdxl",),
    }


def test_metadata_that_names_a_key_twice_is_not_taken_for_its_neighbour(models: Path) -> None:
    path = save_safetensors(STATE, models / "a.safetensors", {"k1": "x", "k2": "y"})
    twin = models / "b.safetensors"
    twin.write_bytes(path.read_bytes().replace(b'"k2"', b'"k1"', 1))
    assert kinds(library(models)) == {"a.safetensors": "vae", "b.safetensors": "broken"}


# Remembering


def test_an_unchanged_file_is_looked_at_once(models: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(LIKE_SD1, models / "same.safetensors")
    changing = put(SD1, models / "changing.safetensors")
    before = library(models)
    looked: list[Path] = []
    real = Looker.look
    monkeypatch.setattr(Looker, "look", lambda self, path: looked.append(path) or real(self, path))
    assert library(models).entries == before.entries
    assert looked == []
    put(LIKE_FLUX, changing)
    assert only(library(models), "changing.safetensors").kind == "vae"
    os.utime(models / "same.safetensors", ns=(1, 1))
    library(models)
    assert looked == [changing, models / "same.safetensors"]


def test_what_was_found_is_kept_when_the_rest_is_interrupted(models: Path, home: Path) -> None:
    for number in range(4):
        put(LIKE_SD1, models / f"{number}.safetensors")

    def interrupted(items: Any, what: str) -> Iterator[Any]:
        yield from [item for item in items if item.path.parent == models][:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library(models, index=index(home), track=interrupted)
    assert len(index(home).read()) == 2


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_broken_index_is_made_anew(content: bytes, models: Path, home: Path) -> None:
    put(LIKE_SD1, models / "x.safetensors")
    memory = index(home)
    memory.path.write_bytes(content)
    assert kinds(library(models, index=memory)) == {"x.safetensors": "vae"}
    assert models / "x.safetensors" in index(home).read()


def test_an_index_with_broken_content_is_made_anew(models: Path, home: Path) -> None:
    import sqlite3

    put(LIKE_SD1, models / "x.safetensors")
    library(models, index=index(home))
    with sqlite3.connect(index(home).path) as database:
        database.execute("UPDATE files SET facts = '{'")
    database.close()
    assert kinds(library(models, index=index(home))) == {"x.safetensors": "vae"}
    assert index(home).read()[models / "x.safetensors"].facts is not None


def test_without_an_index_everything_works_and_it_is_told(
    models: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(LIKE_SD1, models / "x.safetensors")
    memory = Index(home / "folder")
    memory.path.mkdir()
    assert kinds(library(models, index=memory)) == {"x.safetensors": "vae"}
    assert "not remembered" in caplog.text
    caplog.clear()
    (home / "file").touch()
    assert kinds(library(models, index=Index(home / "file" / "index"))) == {"x.safetensors": "vae"}
    assert "not remembered" in caplog.text


def test_facts_of_other_rules_are_found_out_anew_and_fingerprints_stay(
    models: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_safetensors(STATE, models / "x.safetensors")
    found = library(models, index=index(home))
    printed = found.fingerprint(only(found, "x.safetensors")).prints
    rules = sys.modules["vaekit.catalog.index"]._rules()  # type: ignore[attr-defined]
    monkeypatch.setattr("vaekit.catalog.index._rules", lambda: (rules[0] + 1, rules[1]))
    row = index(home).read()[path]
    assert (row.facts, row.prints) == (None, printed)
    assert only(library(models, index=index(home)), "x.safetensors").prints == printed
    assert index(home).read()[path].facts is not None
    monkeypatch.setattr("vaekit.catalog.index._rules", lambda: (rules[0] + 1, rules[1] + 1))
    assert index(home).read()[path].prints is None


def test_many_writers_lose_nothing(home: Path) -> None:
    def write(writer: int) -> None:
        for number in range(10):
            Index(home / "shared").write({Path(f"/{writer}/{number}"): Row((writer, number, 0), Facts("vae"))})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = Index(home / "shared").read()
    assert {path: row.stamp for path, row in rows.items()} == {
        Path(f"/{writer}/{number}"): (writer, number, 0) for writer in range(8) for number in range(10)
    }


def test_two_processes_scan_into_one_index(tmp_path: Path, home: Path) -> None:
    code = "import sys; from pathlib import Path; from vaekit.catalog import *; scan(places([Path(sys.argv[1])]))"
    for name in ("one", "two"):
        for number in range(10):
            put(LIKE_SD1, tmp_path / name / f"{number}.safetensors")
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name)]) for name in ("one", "two")]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert {path.parent.name for path in Index().read()} >= {"one", "two"}
    assert len([path for path in Index().read() if path.parent.parent == tmp_path]) == 20


def test_what_another_process_read_of_the_weights_stays(home: Path) -> None:
    path, prints = Path("/x.safetensors"), Prints("ab", "cd", "ef", "01")
    index(home).write({path: Row((1, 2, 3), Facts("vae"), prints)})
    index(home).write({path: Row((1, 2, 3), Facts("vae", families=("sd1",)))})
    assert index(home).read()[path] == Row((1, 2, 3), Facts("vae", families=("sd1",)), prints)
    for stamp in ((1, 2, 4), (1, 3, 3), (2, 2, 3)):
        index(home).write({path: Row((1, 2, 3), Facts("vae"), prints)})
        index(home).write({path: Row(stamp, Facts("vae"))})
        assert index(home).read()[path].prints is None


# Copies


def test_copies_are_one_vae_under_several_names(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_safetensors(STATE, models / "ft-mse.safetensors")
    save_torch(STATE, models / "my-best-vae.pt")
    save_safetensors({name: tensor.half() for name, tensor in STATE.items()}, models / "half.safetensors")
    save_safetensors(random_state(SMALL_KL, 1), models / "other.safetensors")
    save_safetensors(baked(STATE), models / "checkpoint.safetensors")
    found = library(models)
    assert all(len(group) == 1 for group in found.groups(found.vaes))
    assert found.copies(only(found, "ft-mse.safetensors")) == []
    found.fingerprint_all()
    names = [sorted(entry.name for entry in group) for group in found.groups(found.vaes)]
    assert ["ft-mse.safetensors", "half.safetensors", "my-best-vae.pt"] in names
    assert ["other.safetensors"] in names
    copies = {entry.name for entry in found.copies(only(found, "checkpoint.safetensors"))}
    assert copies == {"ft-mse.safetensors", "half.safetensors", "my-best-vae.pt"}
    assert only(found, "ft-mse.safetensors").fingerprint == fingerprint(STATE).vae

    monkeypatch.setattr("vaekit.checkpoints.read.read", lambda *args, **options: pytest.fail("read again"))
    later = library(models)
    later.fingerprint_all()
    assert [sorted(entry.name for entry in group) for group in later.groups(later.vaes)] == names


def test_broken_weights_are_found_when_they_are_read(models: Path) -> None:
    save_safetensors(STATE | {"encoder.conv_in.bias": torch.full((32,), torch.nan)}, models / "nan.safetensors")
    save_safetensors(STATE, models / "good.safetensors")
    found = library(models)
    assert len(found.broken) == 0
    found.fingerprint_all()
    for again in (found, library(models)):
        (entry,) = again.broken
        assert entry.name == "nan.safetensors"
        assert "NaN" in entry.facts.note


def test_a_published_file_is_recognised_by_its_hash(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    path = save_safetensors(STATE, models / "renamed.safetensors")
    save_safetensors(random_state(SMALL_KL, 1), models / "as-long.safetensors")
    save_torch(STATE, models / "converted.pt")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    own = tmp_path / "own.toml"
    source = f'url = "https://example.org/x", sha256 = "{sha256}", size = {path.stat().st_size}'
    own.write_text(f'[published]\ntitle = "P"\nfamily = "sdxl"\nfiles = [{{ {source} }}]\n')
    monkeypatch.setenv("VAEKIT_CATALOG", str(own))
    found = library(models)
    entry = only(found, "renamed.safetensors")
    assert (entry.known, entry.families) == (None, ())
    assert found.recognise(entry).known == "published"
    assert found.recognise(only(found, "as-long.safetensors")).known is None
    assert found.recognise(only(found, "converted.pt")).sha256 is None  # another length: not even read
    assert only(library(models), "renamed.safetensors").families == ("sdxl",)
    on_disk = found.on_this_disk(catalog().find("published"))
    assert on_disk is not None
    assert on_disk.path == path
    assert found.on_this_disk(catalog().find("ft-mse")) is None


def test_what_was_fetched_is_known_by_its_name(models: Path) -> None:
    for name in ("sdxl-vae-1.0.safetensors", "someones.safetensors"):
        put(LIKE_SD1, downloads_folder() / name, metadata={"a": "b"})
    put(LIKE_SD1, models / "sdxl-vae.safetensors", metadata={"a": "b"})
    for half in ("encoder", "decoder"):
        save_safetensors(numbered(tiny_state(), half), downloads_folder() / "taef2" / f"taef2_{half}.safetensors")
    found = library(models)
    known = {entry.path.name: (entry.known, entry.families) for entry in found.vaes if entry.program != "bundled"}
    assert known == {
        "sdxl-vae-1.0.safetensors": ("sdxl-vae-1.0", ("sdxl",)),
        "someones.safetensors": (None, ("sd1", "sdxl", "playground25")),
        "sdxl-vae.safetensors": (None, ("sd1", "sdxl", "playground25")),
        "taef2_encoder.safetensors": ("taef2", ("flux2",)),
    }
    for name in ("sdxl-vae-1.0", "taef2"):
        entry = found.on_this_disk(catalog().find(name))
        assert entry is not None
        assert entry.known == name
    assert found.on_this_disk(catalog().find("sdxl-vae")) is None


def test_a_file_that_goes_does_not_hide_the_others(models: Path) -> None:
    gone = put(LIKE_SD1, models / "a.safetensors")
    found = library(models)
    gone.unlink()
    mini = found.on_this_disk(catalog().find("mini"))
    assert mini is not None
    assert found.on_this_disk(catalog().find("ft-mse")) is None


def test_what_ships_is_listed_and_known() -> None:
    (mini,) = (entry for entry in library().vaes if entry.name == "mini")
    assert (mini.program, mini.known, mini.families) == ("bundled", "mini", ("mini",))


# Names


def test_a_model_is_called_by_its_file_name_with_and_without_ending_and_folder(models: Path) -> None:
    put(LIKE_SD1, models / "sub" / "best.vae.safetensors")
    found = library(models)
    for name in ("best.vae.safetensors", "best.vae", "sub/best.vae.safetensors"):
        assert [entry.path.name for entry in found.named(name, "vae")] == ["best.vae.safetensors"]
    for name in ("best", "best.vae.", "BEST.VAE", "sub/best.vae", "vae", "", "../sub/best.vae.safetensors"):
        assert found.named(name, "vae") == []


def test_about_finds_files_and_catalog_entries_and_tells_the_nearest(models: Path) -> None:
    put(LIKE_SD1, models / "best.safetensors")
    found = library(models)
    entries, published = found.about("best")
    assert ([entry.name for entry in entries], published) == (["best.safetensors"], None)
    assert found.about(models / "best.safetensors")[0] == entries
    entries, published = found.about("vae-ft-mse-840000-ema-pruned")
    assert (entries, published) == ([], catalog().find("ft-mse"))
    with pytest.raises(OptionError, match="did you mean best"):
        found.about("bets")
    with pytest.raises(FileError, match="no such file"):
        found.about(models / "gone")


def test_listing_safetensors_imports_no_torch(models: Path) -> None:
    put(LIKE_SD1, models / "x.safetensors")
    put(SD1, models / "y.safetensors")
    code = (
        "import sys; from pathlib import Path; from vaekit.catalog import places, scan; "
        "print(len(scan(places([Path(sys.argv[1])])).entries), 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(models)], capture_output=True, text=True, timeout=60)
    assert run.stdout.split()[1] == "False", run.stderr
    assert int(run.stdout.split()[0]) >= 3


def test_nothing_is_told_when_all_is_well(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(LIKE_SD1, models / "x.safetensors")
    with caplog.at_level(logging.INFO, "vaekit"):
        library(models)
    assert caplog.records == []


def test_half_a_vae_is_listed_as_such(models: Path) -> None:
    save_safetensors(half_of(STATE, "decoder"), models / "decoder.safetensors")
    save_diffusers(STATE, models / "broken", "{", ending=".safetensors")
    found = library(models)
    facts = only(found, "decoder.safetensors").facts
    assert (facts.kind, facts.encoder, facts.decoder) == ("vae", False, True)
    assert "config.json" in only(found, "broken").facts.note


def test_a_pipeline_is_as_large_as_all_its_parts(tmp_path: Path) -> None:
    for name in ("model_index.json", "unet/weights.bin", "vae/weights.bin", "text_encoder/weights.bin"):
        file = tmp_path / "pipeline" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"{}" if name.endswith("json") else bytes(1000))
    assert found_at(tmp_path / "pipeline").stamp[0] == 3002
    assert found_at(tmp_path / "pipeline" / "vae").stamp[0] == 1002
