"""The study of latents: its numbers by hand, its experiments on a small picture, its report."""

from __future__ import annotations

import csv
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_KL, small_vae
from PIL import Image

import vaekit
from vaekit import assets
from vaekit.cli import main
from vaekit.errors import FamilyError, OptionError, OutputError
from vaekit.quality.metrics import psnr
from vaekit.study import Study, charts, page, study
from vaekit.study.coding import as_good_as, encoded_size, entropy, rounded
from vaekit.study.experiments import BITS, NOISE, _touched, sharpness
from vaekit.study.others import relatives


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for name in ("coffee", "astronaut"):
        with Image.open(assets.path(f"pictures/{name}.jpg")) as picture:
            picture.convert("RGB").resize((64, 48)).save(folder / f"{name}.png")
        paths.append(folder / f"{name}.png")
    return paths


@pytest.fixture(scope="module")
def found(pictures: list[Path]) -> Study:
    return study(pictures, vaekit.load("mini", dtype="float32"), [vaekit.load("mini-mse", dtype="float32")])


def test_rounding_keeps_within_half_a_step() -> None:
    tensor = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for bits in BITS:
        values, numbers = rounded(tensor, bits)
        step = (tensor.amax((2, 3)) - tensor.amin((2, 3))) / (2**bits - 1)
        assert ((values - tensor).abs().amax((2, 3)) <= step / 2 + 1e-5).all()
        assert numbers.min() == 0 and numbers.max() == 2**bits - 1
    flat, _ = rounded(torch.full((1, 1, 2, 2), 3.0), 2)
    assert torch.equal(flat, torch.full((1, 1, 2, 2), 3.0))


def test_entropy_is_shannons() -> None:
    assert entropy(torch.arange(4).repeat(4).reshape(1, 1, 4, 4)) == pytest.approx(2 * 16)
    assert entropy(torch.zeros(1, 2, 4, 4, dtype=torch.long)) == 0
    uneven = torch.tensor([0, 0, 0, 1]).reshape(1, 1, 2, 2)
    assert entropy(uneven) == pytest.approx(4 * -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_the_file_that_is_as_good_is_the_smallest_that_is(pictures: list[Path], format: str) -> None:
    picture = Image.open(pictures[0]).convert("RGB")
    bits, reached, quality, _ = as_good_as(picture, format, 28.0)
    assert reached >= 28.0
    assert bits == encoded_size(picture, format, quality=quality)[0]
    assert psnr(picture, encoded_size(picture, format, quality=quality - 1)[1]) < 28.0
    assert as_good_as(picture, format, 99.0)[2] == 100  # as good as it gets


def test_what_a_cell_touches_is_measured_in_pixels() -> None:
    change = torch.zeros(3, 40, 40)
    change[:, 18:22, 16:24] = 5.0
    touched = _touched(change, (19.5, 19.5))
    assert touched.seen == 32 and touched.pixels == 1600
    assert touched.box == (8, 4)
    assert touched.half < touched.most < 4.1
    assert _touched(torch.zeros(3, 8, 8), (3.5, 3.5)).seen == 0


def test_sharpness_is_none_of_a_flat_picture_and_falls_when_blurred(pictures: list[Path]) -> None:
    picture = Image.open(pictures[0]).convert("RGB")
    assert sharpness(Image.new("RGB", (8, 8), "red")) == 0
    assert sharpness(picture.resize((16, 12)).resize((64, 48))) < sharpness(picture)


def test_fewer_bits_and_more_noise_cost_quality(found: Study) -> None:
    for name in found.originals:
        for experiment, count in (("rounded", len(BITS)), ("noise added", len(NOISE))):
            quality = [f.quality.psnr for f in found.of(name, experiment) if f.quality]
            assert len(quality) == count
            assert all(a > b - 0.05 for a, b in pairwise(quality)), experiment
            assert quality[0] - quality[-1] > 1
        bits = [f.bits_per_pixel for f in found.of(name, "rounded")]
        assert bits == sorted(bits, reverse=True)  # type: ignore[type-var]


def test_every_channel_is_dropped_and_swapped_and_each_costs_something(found: Study) -> None:
    plain = found.mean("as it is")[0][2]
    for experiment in ("channel dropped", "channels swapped"):
        rows = found.mean(experiment)
        assert [value for _, value, _, _ in rows] == [0, 1, 2, 3]
        assert all(mean < plain for _, _, mean, _ in rows)


def test_another_vae_decodes_the_same_latents(found: Study, pictures: list[Path]) -> None:
    mini, other = vaekit.load("mini", dtype="float32"), vaekit.load("mini-mse", dtype="float32")
    picture = Image.open(pictures[0]).convert("RGB")
    expected = psnr(picture, other.decode(mini.encode(picture)).convert("RGB"))  # type: ignore[union-attr]
    (one,) = found.of(next(iter(found.originals)), "another VAE")
    assert one.variant == "mini-mse"
    assert one.quality is not None and one.quality.psnr == pytest.approx(expected, abs=1e-6)


def test_between_two_pictures_both_mixtures_are_there(found: Study) -> None:
    second = list(found.originals)[1]
    assert len(found.of(second, "latents mixed")) == len(found.of(second, "pixels mixed")) == 3
    assert found.of(next(iter(found.originals)), "latents mixed") == []
    halfway = found.of(second, "pixels mixed")[1].result
    a, b = (np.asarray(picture, float) for picture in found.originals.values())
    assert np.abs(np.asarray(halfway, float) - (a + b) / 2).max() <= 1


def test_the_report_shows_it_and_the_csv_holds_it(found: Study, tmp_path: Path) -> None:
    table = page.write(found, tmp_path / "study.html")
    html = (tmp_path / "study.html").read_text()
    assert html.count("<svg") == 4 and html.count("data:image/jpeg") > 40
    assert "http" not in html.replace("http-equiv", "")
    assert "What one cell touches" in html and "Between two pictures" in html
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.findings) + 3 * len(found.originals)
    assert {row["experiment"] for row in rows} >= {"rounded", "noise added", "one cell changed", "as good a file"}
    with pytest.raises(OutputError):
        page.write(found, tmp_path / "study.html")


def test_names_of_pictures_are_text_and_no_markup(found: Study, tmp_path: Path) -> None:
    from dataclasses import replace

    evil = '<img src=x onerror="1">'
    renamed = replace(
        found,
        originals={evil: next(iter(found.originals.values()))},
        touched={evil: next(iter(found.touched.values()))},
        findings=tuple(
            replace(f, picture=evil, variant=evil) for f in found.of(next(iter(found.originals)), "as it is")
        ),
    )
    page.write(renamed, tmp_path / "evil.html")
    assert "<img src=x" not in (tmp_path / "evil.html").read_text()


def test_charts_leave_out_what_is_not_finite() -> None:
    drawn = charts.lines({"a <b>": [(1.0, 2.0), (2.0, math.nan), (4.0, 3.0)]}, "x", "y", logarithmic=True)
    assert drawn.count('r="3.5"') == 2
    assert "a &lt;b&gt;" in drawn
    assert charts.lines({"a": [(1.0, math.nan)]}, "x", "y") == ""
    assert charts.bars({"a": math.nan}, "y") == ""
    assert charts.bars({"a": 1.0, "b": 2.0}, "y", 3.0).count("<rect") == 2


def test_what_cannot_be_studied_is_refused(pictures: list[Path]) -> None:
    mini = vaekit.load("mini")
    with pytest.raises(FamilyError):
        study(pictures, mini, [vaekit.load("mini-b")])
    with pytest.raises(OptionError, match="at least one"):
        study([], mini)
    with pytest.raises(OptionError, match="16"):
        study(pictures, mini, side=8)
    from dataclasses import replace

    half = small_vae(replace(SMALL_KL, decoder_channels=()))
    with pytest.raises(OptionError, match="half"):
        study(pictures, half)


def test_relatives_are_named_or_those_of_the_family_here() -> None:
    mini = vaekit.load("mini")
    assert [vae.name for vae in relatives(mini, ["mini-tiny"])] == ["mini-tiny"]
    found = {vae.name for vae in relatives(mini)}
    assert {"mini-mse", "mini-ema"} <= found and not found & {"mini", "mini-b"}


def test_the_command(pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["latents", "study", str(pictures[0]), "--other", "mini-mse", "--side", "32"]
    assert main([*arguments, "-o", str(tmp_path / "s.html")]) == 0
    assert "rounded" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"s.html", "s.csv"}
    assert main([*arguments, "-o", str(tmp_path / "s.html")]) == 2
    assert main([*arguments, "-o", str(tmp_path / "s.png")]) == 2
