"""Training a small text-to-image model: the loop, what it writes, and that prompts reach it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from train.test_captions import disc

from vaekit.errors import FileError, OptionError
from vaekit.train.diffusion import (
    SCHEDULER,
    Batch,
    DiffusionRecipe,
    DiffusionRun,
    LatentPictures,
    TextNetwork,
    train_tokenizer,
)
from vaekit.train.diffusions import train_diffusion
from vaekit.train.run import Phase

RECIPE = DiffusionRecipe(
    start="mini",
    phases=(Phase(steps=4, crops=((32, 4),)),),
    size=32,
    widths=(32, 64, 64),
    text=TextNetwork(tokens=12, width=32, layers=1, heads=2),
    vocabulary=300,
    held_out=("blue plum", "purple cherry"),
    warmup=1,
)
THINGS = {"cherry": 0, "lemon": 52, "lime": 115, "plum": 275}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned")
    lines = []
    for name, hue in THINGS.items():
        disc(hue).save(folder / f"{name}.png")
        lines.append(json.dumps({"file": f"{name}.png", "name": name, "style": "flat", "keywords": ["fruit"]}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def pictures(data: Path, tmp_path_factory: pytest.TempPathFactory) -> LatentPictures:
    return LatentPictures(data, RECIPE, tmp_path_factory.mktemp("run"))


def test_what_is_held_out_is_never_said(pictures: LatentPictures) -> None:
    rng = np.random.default_rng(0)
    assert pictures.originals == 4
    assert len(pictures.entries) == 4 * 3
    said = [pictures.tokenizer.decode(row) for _ in range(30) for row in pictures.draw(RECIPE.phases[0], rng).tokens]
    assert any("lemon" in prompt for prompt in said)
    assert not any("blue plum" in prompt or "purple cherry" in prompt for prompt in said)
    assert any(prompt.replace("<|startoftext|>", "").replace("<|endoftext|>", "").strip() == "" for prompt in said)


def test_the_tokenizer_has_clips_marks_and_cuts_what_is_too_long(pictures: LatentPictures) -> None:
    tokens = pictures.tokens(["lemon", "lemon " * 40])
    first, last = len(pictures.tokenizer) - 2, len(pictures.tokenizer) - 1
    assert tokens.shape == (2, 12)
    assert (tokens[:, 0] == first).all()
    assert tokens[0, -1] == last == tokens.max()
    assert tokens[1, -1] == last


def test_the_same_captions_give_the_same_tokenizer_and_a_run_keeps_its_own(data: Path, tmp_path: Path) -> None:
    said = ["a red apple, 3d", "blue heart", "piñata, flat", "smiling face with sunglasses"] * 4
    first, second = (train_tokenizer(said, 300, 12, tmp_path / name).get_vocab() for name in ("first", "second"))
    assert first == second
    train_tokenizer(said, 300, 12, tmp_path / "run" / "tokenizer")
    assert LatentPictures(data, RECIPE, tmp_path / "run").tokenizer.get_vocab() == first


def test_a_run_encodes_anew_only_where_its_pictures_changed(data: Path, tmp_path: Path) -> None:
    kept = LatentPictures(data, RECIPE, tmp_path).latents
    written = (tmp_path / "latents.safetensors").stat().st_mtime_ns
    assert torch.equal(LatentPictures(data, RECIPE, tmp_path).latents, kept)
    assert (tmp_path / "latents.safetensors").stat().st_mtime_ns == written
    others = LatentPictures(data, RECIPE.model_copy(update={"seed": 1}), tmp_path)
    assert len(others.latents) == len(kept)
    assert not torch.equal(others.latents, kept)


def test_a_run_s_broken_tokenizer_is_told_in_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(FileError, match="take another --run folder"):
        LatentPictures(data, RECIPE, tmp_path)


def test_the_target_is_v_of_the_schedulers_in_diffusers(pictures: LatentPictures) -> None:
    from diffusers import DDPMScheduler

    run = DiffusionRun(RECIPE, pictures.tokenizer, torch.device("cpu"))
    theirs = DDPMScheduler(**{k: v for k, v in SCHEDULER.items() if k != "set_alpha_to_one"})
    assert torch.allclose(run.kept, theirs.alphas_cumprod, atol=1e-6)
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    seen: dict[str, torch.Tensor] = {}

    def zero(noisy: torch.Tensor, steps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        seen["noisy"], seen["steps"] = noisy, steps
        return torch.zeros_like(noisy)

    run.model.forward = zero  # type: ignore[method-assign]
    run.noise.manual_seed(9)
    loss, _ = run.loss(Batch(x, torch.zeros(2, 12, dtype=torch.long)))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    assert torch.allclose(seen["noisy"], theirs.add_noise(x, noise, seen["steps"]), atol=1e-6)
    assert loss.item() == pytest.approx(theirs.get_velocity(x, noise, seen["steps"]).square().mean().item(), rel=1e-5)


def test_a_trained_model_is_a_folder_that_diffusers_runs(data: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    import vaekit

    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'kind = "diffusion"\nstart = "mini"\nsize = 32\nwidths = [32, 64, 64]\nvocabulary = 300\nwarmup = 1\n'
        "[text]\ntokens = 12\nwidth = 32\nlayers = 1\nheads = 2\n[[phases]]\nsteps = 2\ncrops = [[32, 4]]\n"
    )
    train_diffusion(recipe, data, tmp_path / "run", tmp_path / "out", device="cpu")
    vae = vaekit.loading.find("mini")
    from diffusers import AutoencoderKL

    pipe = StableDiffusionPipeline.from_pretrained(
        tmp_path / "out",
        vae=AutoencoderKL.from_pretrained(vae),
        safety_checker=None,
        feature_extractor=None,
        torch_dtype=torch.float32,
    )
    pipe.set_progress_bar_config(disable=True)
    draw = lambda prompt: np.asarray(  # noqa: E731
        pipe(prompt, height=32, width=32, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    )
    assert draw("lemon").shape == (32, 32, 3)
    assert not np.array_equal(draw("lemon"), draw("plum"))
    assert (tmp_path / "run" / "samples.png").stat().st_size > 0


def test_the_same_weights_after_a_stop(pictures: LatentPictures, tmp_path: Path) -> None:
    def go(run: DiffusionRun, steps: int) -> None:
        while run.step < steps:
            run.train_step(pictures.draw(RECIPE.phases[0], run.rng))

    whole = DiffusionRun(RECIPE, pictures.tokenizer, torch.device("cpu"))
    go(whole, 4)
    part = DiffusionRun(RECIPE, pictures.tokenizer, torch.device("cpu"))
    go(part, 2)
    part.save(tmp_path)
    again = DiffusionRun(RECIPE, pictures.tokenizer, torch.device("cpu"))
    again.resume(tmp_path)
    go(again, 4)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(again.average.state_dict()[name], value), name


def test_a_recipe_of_another_kind_is_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('kind = "vae"\nstart = "mini"\n[[phases]]\nsteps = 1\ncrops = [[8, 1]]\n')
    with pytest.raises(OptionError, match="kind"):
        train_diffusion(path, data, tmp_path / "run", tmp_path / "out")
