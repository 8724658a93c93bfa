"""The store of options: names, refusals, import, two writers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vaekit.errors import FileError, OptionError
from vaekit.web.options import Options, Store


def test_a_change_survives_and_only_changes_are_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "web.json")
    assert store.read() == Options()
    store.change({"sd_vae": "None", "quicksettings_list": ["sd_model_checkpoint", "sd_vae"]})
    again = Store(store.path).read()
    assert again.sd_vae == "None" and again.quicksettings_list[1] == "sd_vae"
    assert set(json.loads(store.path.read_text())) == {"sd_vae", "quicksettings_list"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"sd_vea": "None"}, "did you mean sd_vae"),
        ({"auto_vae_precision": False}, "never left black"),
        ({"auto_vae_precision_bfloat16": True}, "float32"),
        ({"sd_vae_checkpoint_cache": 11}, "less than or equal to 10"),
        ({"sd_vae_checkpoint_cache": "3"}, "integer"),
        ({"sd_vae_encode_method": "Tiny"}, "'Full', 'TAESD' or 'Bounded memory'"),
        ({"vae_memory_budget": "plenty"}, "an amount of memory is"),
        ({"vae_memory_budget": "0"}, "an amount of memory is"),
        ({"show_progress_every_n_steps": 0}, "-1 for no preview"),
        ({"quicksettings_list": ["sd_vea"]}, "did you mean sd_vae"),
        ({"quicksettings_list": ["sd_vae", "sd_vae"]}, "twice"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    store = Store(tmp_path / "web.json")
    with pytest.raises(OptionError, match=told):
        store.change({"sd_vae": "None"} | values)
    assert not store.path.exists()


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    changes: list[dict[str, Any]] = [
        {"sd_vae": "None"},
        {"sd_vae_checkpoint_cache": 3},
        {"live_previews_enable": False},
        {"sd_vae_decode_method": "TAESD"},
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda values: Store(path).change(values), changes))
    stored = Store(path).read().model_dump()
    assert all(stored[name] == value for change in changes for name, value in change.items())


def test_a_config_of_a1111_is_taken_over_as_far_as_it_goes(tmp_path: Path) -> None:
    listed = ["sd_model_checkpoint", "sd_vae", "CLIP_stop_at_last_layers"]
    config = {"sd_vae": "x.safetensors", "auto_vae_precision": False, "outdir": "/x", "quicksettings_list": listed}
    store = Store(tmp_path / "web.json")
    found = store.take_over(config)
    assert found.taken == {"sd_vae": "x.safetensors", "quicksettings_list": ["sd_model_checkpoint", "sd_vae"]}
    assert set(found.refused) == {"auto_vae_precision", "CLIP_stop_at_last_layers"}
    assert found.ignored == ("outdir",)
    assert store.read().sd_vae == "x.safetensors"


def test_quicksettings_as_older_versions_wrote_them_are_taken_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "web.json")
    found = store.take_over({"quicksettings": "sd_model_checkpoint, sd_vae, sd_hypernetwork"})
    assert store.read().quicksettings_list == ["sd_model_checkpoint", "sd_vae"]
    assert set(found.refused) == {"sd_hypernetwork"} and found.ignored == ()


def test_what_nothing_could_be_drawn_with_is_not_taken_over(tmp_path: Path) -> None:
    def check(values: dict[str, Any]) -> None:
        if values.get("sd_vae") == "gone.safetensors":
            raise OptionError("no VAE is called so")

    store = Store(tmp_path / "web.json")
    found = store.take_over({"sd_vae": "gone.safetensors", "sd_vae_checkpoint_cache": 2}, check)
    assert found.taken == {"sd_vae_checkpoint_cache": 2} and found.refused == {"sd_vae": "no VAE is called so"}
    assert store.read() == Options(sd_vae_checkpoint_cache=2)


def test_a_broken_file_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    path.write_text("{")
    with pytest.raises(FileError, match="not valid JSON"):
        Store(path).change({"sd_vae": "None"})
    assert path.read_text() == "{"
