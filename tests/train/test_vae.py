"""Training a VAE: what it starts from, what stays, what the faults look like."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import SMALL_KL, SMALL_TINY, small_vae
from pydantic import ValidationError
from torch import Tensor
from train.conftest import CPU, PHASES, recipe

import vaekit
import vaekit.networks.tiny
from vaekit.errors import OptionError
from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL
from vaekit.train import vae as training
from vaekit.train.export import measure_family, write_folder
from vaekit.train.faults import pale, spots
from vaekit.train.regroup import regroup
from vaekit.train.run import Phase
from vaekit.train.vae import VaeRecipe, VaeRun, build_from
from vaekit.train.vaes import read_recipe, train_vae


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A small VAE in a folder, its latents' spread measured."""
    torch.manual_seed(3)
    model = KL(SMALL_KL).half().float()
    crops = [torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1]
    write_folder(model, measure_family(model, crops, "start"), tmp_path / "start")
    return tmp_path / "start"


def test_a_decoder_trained_alone_leaves_the_encoder_and_the_family(pictures: Path, start: Path, tmp_path: Path) -> None:
    settings = tmp_path / "recipe.toml"
    settings.write_text(
        f'start = "{start}"\ntrain = "decoder"\nsmallest = 16\nwarmup = 1\nema = 0.5\n[losses]\nperceptual = 0.1\n'
        "[[phases]]\nsteps = 3\ncrops = [[32, 2]]\n"
    )
    measured = train_vae(settings, [(pictures, 1.0)], tmp_path / "run", tmp_path / "out", device="cpu")
    assert set(measured) == {"psnr", "ssim", "ciede2000"}
    before, after = vaekit.load(start, family=None), vaekit.load(tmp_path / "out")
    assert after.family.scaling_factor == before.family.scaling_factor
    assert after.fingerprint.encoder == before.fingerprint.encoder
    assert after.fingerprint.decoder != before.fingerprint.decoder
    assert (tmp_path / "run" / "samples.png").stat().st_size > 0
    assert (tmp_path / "run" / "curves.png").stat().st_size > 0


def test_turned_latents_are_others_and_give_the_same_pictures(start: Path) -> None:
    torch.manual_seed(0)
    old, new = (
        build_from(recipe(start=str(start), network=None)),
        build_from(recipe(start=str(start), network=None, turn=2.0, seed=5)),
    )
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before, after = old.moments(x), new.moments(x)
        assert torch.allclose(new.decode(after.mean), old.decode(before.mean), atol=1e-3)
    assert after.mean.square().sum().item() == pytest.approx(4 * before.mean.square().sum().item(), rel=1e-3)
    assert not torch.allclose(after.mean, 2 * before.mean, atol=0.05)


def test_a_tiny_vae_is_no_start(tmp_path: Path) -> None:
    tiny = vaekit.networks.tiny.Tiny(SMALL_TINY)
    write_folder(tiny, small_vae().family, tmp_path / "tiny")
    with pytest.raises(OptionError, match="KL networks"):
        build_from(recipe(start=str(tmp_path / "tiny"), network=None))


def test_recipes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="either"):
        VaeRecipe(phases=PHASES)
    with pytest.raises(ValidationError, match="say start"):
        VaeRecipe(phases=PHASES, network=SMALL_KL, train="decoder")
    with pytest.raises(ValidationError, match="decoder alone"):
        VaeRecipe(phases=PHASES, start="mini", fault="spots")


def test_a_cut_takes_the_edges_of_latents_and_pictures_alike_in_half_of_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = VaeRun(recipe(cut=1, precision="float32"), CPU)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    decoded = []

    def black(z: Tensor) -> Tensor:
        decoded.append(z.shape[-1])
        return torch.zeros(1, 3, *(8 * n for n in z.shape[-2:]))

    monkeypatch.setattr(run.model, "decode", black)
    numbers = [run.loss(x)[1] for _ in range(40)]
    assert 10 <= decoded.count(8) <= 30
    assert decoded.count(8) + decoded.count(6) == 40
    wanted = {n: -10 * math.log10(t.square().mean().item() / 4) for n, t in ((8, x), (6, x[..., 8:-8, 8:-8]))}
    assert [n["psnr"] for n in numbers] == pytest.approx([wanted[n] for n in decoded])
    assert len({n["kl"] for n in numbers}) == 1, "that is of all latents, whatever is decoded"


def test_a_cut_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="leaves nothing of crops of 24 pixels"):
        VaeRun(recipe(cut=2), CPU)


def test_every_recipe_reads_and_its_network_builds() -> None:
    folder = Path(__file__).parents[2] / "recipes"
    kinds = {"vae": 0, "tiny": 0}
    for path in sorted(folder.glob("mini*.toml")):
        if path.stem == "mini-sd":
            continue
        settings = read_recipe(path)
        kinds[settings.kind] += 1
        if isinstance(settings, VaeRecipe) and settings.start is None:
            assert training.build_from(settings).config.latent_channels > 0
    assert min(kinds.values()) > 0


def test_an_adversary_learns_to_tell_and_the_decoder_gets_its_gradient() -> None:
    run = VaeRun(recipe(losses={"adversarial": 0.5}), CPU)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = [p.clone() for p in run.adversary.parameters()]
    caught = [run.train_step(x)["adversary"] for _ in range(12)]
    assert caught[-1] < caught[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, run.adversary.parameters(), strict=True))


def test_the_adversary_keeps_its_own_rate_whatever_the_phase_s_share() -> None:
    slow = (Phase(steps=4, crops=((32, 2),), rate=0.01),)
    run = VaeRun(recipe(losses={"adversarial": 0.5}, phases=slow), CPU)
    run.train_step(torch.zeros(2, 3, 32, 32))
    assert [o.param_groups[0]["lr"] for o in run.optimizers] == [
        pytest.approx(0.01 * run.recipe.lr_muon),
        pytest.approx(0.01 * run.recipe.lr_adamw),
        training.ADVERSARY_RATE,
    ]


def test_what_is_written_loads_and_its_latents_have_unit_spread(start: Path) -> None:
    vae = vaekit.load(start)
    crops = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert vae.encode(crops).tensor.std().item() == pytest.approx(1, abs=0.01)
    assert "scaling_factor" in (start / "family.toml").read_text()


def test_what_is_written_is_what_diffusers_reads(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    model = KL(SMALL_KL).half().float()
    write_folder(model, small_vae().family.model_copy(update={"scaling_factor": 0.5}), tmp_path / "vae")
    theirs, told = AutoencoderKL.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert not any(told.values())
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        z = model.moments(x).mean
        assert torch.allclose(theirs.encode(x).latent_dist.mean, z, atol=1e-5)
        assert torch.allclose(theirs.decode(z).sample, model.decode(z), atol=1e-5)
    assert theirs.config.scaling_factor == 0.5


def test_a_pale_picture_has_less_contrast_and_less_colour() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    washed = pale(x)
    assert washed.std() < 0.8 * x.std()
    spread = lambda t: (t - t.mean(dim=1, keepdim=True)).abs().mean()  # noqa: E731
    assert spread(washed) < 0.5 * spread(x)


def test_spots_lie_purple_on_what_is_far_brighter_than_its_surroundings_and_nowhere_else() -> None:
    x = torch.full((1, 3, 256, 256), -0.8)
    x[..., 64:96, 64:96] = -0.4
    x[..., 64:96, 128:160] = 1.0
    spotted = spots(x)
    red, green, blue = spotted[0, :, 80, 144]
    assert green < red < blue
    assert torch.equal(spotted[..., :96], x[..., :96])
    assert torch.equal(spotted[..., 128:, :], x[..., 128:, :])


def test_a_fault_is_put_into_what_the_start_makes_of_the_pictures(start: Path) -> None:
    settings = recipe(start=str(start), network=None, train="decoder", fault="pale", precision="float32")
    run, sound = VaeRun(settings, CPU), build_from(settings)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        run.model.decoder.conv_out.bias += 0.1
        whole = sound.decode(sound.moments(x).sample(torch.Generator().manual_seed(settings.seed)))
        wanted = (whole + 0.1 - pale(whole.clamp(-1, 1))).square().mean().item()
    assert run.loss(x)[1]["psnr"] == pytest.approx(-10 * math.log10(wanted / 4), abs=1e-3)


def test_regrouped_norms_keep_what_the_network_does_and_let_the_mean_through() -> None:
    torch.manual_seed(0)
    config = KLConfig(latent_channels=4, encoder_channels=(32, 64), decoder_channels=(32, 64), norm_groups=32)
    model = KL(config).eval()
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = model.decode(model.moments(x).mean)
        regroup(model, 8, x)
        after = model.decode(model.moments(x).mean)
    assert {m.num_groups for m in model.modules() if isinstance(m, torch.nn.GroupNorm)} == {8}
    assert (after - before).square().mean() < 0.3 * before.var()
