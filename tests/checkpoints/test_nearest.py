"""A VAE is recognised by its weights, each half by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints.making import half_of, kl_state, numbered, save_safetensors, save_torch, tiny_state
from checkpoints.whole import checkpoint, in_diffusers_names
from conftest import SMALL_KL
from torch import Tensor

from vaekit.checkpoints.fingerprint import fingerprint
from vaekit.checkpoints.nearest import Known, Match, nearest

ORIGINAL = kl_state(0, SMALL_KL)


def tuned(by: float) -> dict[str, Tensor]:
    """The decoder trained on, the encoder as it was: what ft-EMA and ft-MSE are to the original."""
    return {n: t * (1 + by) if n in half_of(ORIGINAL, "decoder") else t for n, t in ORIGINAL.items()}


MSE, EMA, STRANGE = tuned(0.1), tuned(0.2), {name: -tensor for name, tensor in ORIGINAL.items()}


@pytest.fixture
def known(tmp_path: Path) -> dict[str, Known]:
    """kl-f8 by its fingerprint alone, the others on the disk."""
    files = {
        "ft-EMA": save_safetensors(in_diffusers_names(EMA), tmp_path / "ema.safetensors"),
        "ft-MSE": checkpoint(tmp_path / "model.safetensors", MSE),
    }
    states = {"kl-f8": ORIGINAL, "ft-EMA": EMA, "ft-MSE": MSE}
    return {name: Known(fingerprint(state), files.get(name)) for name, state in states.items()}


def test_a_vae_that_is_known_has_its_name_though_others_share_its_encoder(known: dict[str, Known]) -> None:
    for name, state in (("kl-f8", ORIGINAL), ("ft-EMA", EMA), ("ft-MSE", MSE)):
        found = nearest({n: t.double() for n, t in state.items()}, known)
        assert (found.name, str(found)) == (name, name)
        assert found.to_dict()["encoder"] == {"name": name, "distance": 0.0}


def test_a_foreign_decoder_beside_a_known_encoder_is_told_with_how_far_it_is(known: dict[str, Known]) -> None:
    found = nearest(tuned(0.111), known)
    assert found.name is None
    assert found.encoder == Match("ft-MSE", 0.0)
    assert found.decoder is not None
    assert found.decoder.distance == pytest.approx(0.01, rel=0.01)
    assert str(found) == "encoder as ft-MSE, decoder differs (nearest ft-MSE, 1% away)"


def test_without_any_file_to_measure_a_half_just_differs(known: dict[str, Known]) -> None:
    found = nearest(tuned(0.5), {name: Known(entry.fingerprint) for name, entry in known.items()})
    assert str(found) == "encoder as kl-f8, decoder differs from all that are known"
    assert str(nearest(ORIGINAL, {})).count("differs from all that are known") == 2


def test_a_decoder_of_one_and_an_encoder_of_another_are_both_named(known: dict[str, Known]) -> None:
    mixed = half_of(MSE, "decoder") | half_of(STRANGE, "encoder")
    found = nearest(mixed, known | {"strange": Known(fingerprint(STRANGE))})
    assert str(found) == "encoder as strange, decoder as ft-MSE"


def test_weights_that_have_nothing_in_common_with_any_say_so(known: dict[str, Known]) -> None:
    assert str(nearest(STRANGE, known)) == "encoder unlike all that are known, decoder unlike all that are known"


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_half_a_vae_is_named_by_its_half(half: str, known: dict[str, Known]) -> None:
    found = nearest(half_of(MSE, half), known)
    assert getattr(found, "decoder" if half == "encoder" else "encoder") is None
    assert found.name == ("kl-f8" if half == "encoder" else "ft-MSE")


def test_a_bfloat16_copy_is_recognised_though_its_fingerprint_is_another(known: dict[str, Known]) -> None:
    copy = {name: tensor.bfloat16() for name, tensor in MSE.items()}
    assert fingerprint(copy) != fingerprint(MSE)
    assert nearest(copy, known).name == "ft-MSE"


def test_files_that_cannot_be_compared_are_passed_over(known: dict[str, Known], tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no VAE")
    wide = {name: torch.cat([t, t]) for name, t in ORIGINAL.items()}
    other = save_safetensors(kl_state(5), tmp_path / "other.safetensors")
    bad = {
        "broken": Known(fingerprint(STRANGE), tmp_path / "broken.safetensors"),
        "gone": Known(fingerprint(wide), tmp_path / "gone.safetensors"),
        "another architecture": Known(fingerprint(kl_state(5)), other),
    }
    assert str(nearest(tuned(0.111), bad | known)) == str(nearest(tuned(0.111), known))
    assert str(nearest(tuned(0.111), bad)).count("differs from all") == 2


def test_copies_of_one_vae_are_read_once(
    known: dict[str, Known], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    from vaekit.checkpoints import nearest as module

    original = module.locate
    monkeypatch.setattr(module, "locate", lambda path: (opened.append(path), original(path))[1])
    copies = {f"copy {i}": known["ft-MSE"] for i in range(5)}
    nearest(tuned(0.5), copies)
    assert len(opened) == 1


def test_a_tiny_pair_of_files_is_compared_half_by_half(tmp_path: Path) -> None:
    state = tiny_state()
    save_torch(numbered(state, "encoder"), tmp_path / "taesd_encoder.pth")
    save_torch(numbered(state, "decoder"), tmp_path / "taesd_decoder.pth")
    changed = {name: tensor * 1.01 for name, tensor in state.items()}
    found = nearest(changed, {"taesd": Known(fingerprint(state), tmp_path)})
    for match in (found.encoder, found.decoder):
        assert match is not None
        assert match.name == "taesd"
        assert match.distance == pytest.approx(0.01, rel=1e-3)
