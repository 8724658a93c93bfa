import base64
import html.parser
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from vaekit import assets, demo, images
from vaekit.demo import drawing
from vaekit.errors import OptionError, OutputError
from vaekit.families import Family, family
from vaekit.latents import Latents
from vaekit.quality import Quality


@dataclass
class Pooling:
    """A VAE of a few lines: the mean colour of each cell, and the cells enlarged."""

    name: str = "mini"
    family: Family = field(default_factory=lambda: family("sd1"))
    can_encode: bool = True
    can_decode: bool = True
    interrupted: bool = False

    def encode(self, picture):
        pixels = images.read(picture).pixels
        height, width = pixels.shape[2:]
        side = self.family.downscale
        padded = F.pad(pixels, (0, -width % side, 0, -height % side), mode="replicate")
        cells = F.avg_pool2d(padded, side)
        rest = self.family.latent_channels - 3
        return Latents(F.pad(cells, (0, 0, 0, 0, 0, rest)), self.family, (width, height))

    def decode(self, latents):
        if self.interrupted:
            raise KeyboardInterrupt
        width, height = latents.size
        enlarged = F.interpolate(latents.tensor[:, :3], scale_factor=self.family.downscale)
        return images.to_pil(enlarged[..., :height, :width])[0]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    small.resize((150, 117), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def tour(photo, tmp_path_factory):
    """One run with two VAEs of one family and one of another."""
    lines = []
    vaes = [Pooling(), Pooling("mini <b>16", family("sd3")), Pooling("other", can_encode=False)]
    folder = tmp_path_factory.mktemp("run") / "vaekit-demo"
    return demo.run(folder, photo=photo, vaes=vaes, progress=lines.append), lines


class Page(html.parser.HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def page(tour):
    return Page(tour[0].page)


def picture_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def test_the_page_asks_nothing_of_the_network(page):
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data-picture"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert not re.search(r"https?://|@import|fetch\(|XMLHttpRequest", page.source)
    assert not re.search(r"url\((?!\"\$\{)", page.source)  # the lens alone, with a picture of the page


def test_every_picture_on_the_page_opens_and_says_what_it_is(page):
    pictures = [attributes for attributes in page.all("img") if attributes.get("src")]
    assert len(pictures) > 20
    for attributes in pictures:
        picture_of(attributes["src"]).load()
        assert "alt" in attributes


def test_every_control_has_a_label_and_every_id_that_is_named_exists(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.all("section"):
        assert attributes.get("aria-label") or attributes["aria-labelledby"] in ids
    unlabelled = [attributes for attributes in page.all("button") if "aria-label" not in attributes]
    assert len(unlabelled) == page.source.count("<button>Close</button>") == 1
    for name in re.findall(r'byId\("([^"]+)"\)', page.source):
        assert name in ids
    ranges = [attributes for attributes in page.all("input") if attributes["type"] == "range"]
    assert [attributes["id"] for attributes in ranges] == ["cut", "probe-x", "probe-y"]


def test_the_channels_stand_on_the_page_one_pixel_a_cell(page):
    cells = [attributes for attributes in page.all("img") if (attributes.get("alt") or "").startswith("Channel ")]
    assert len(cells) == 2 * (4 + 16)
    assert {picture_of(attributes["src"]).size for attributes in cells} == {(19, 15)}


def test_the_numbers_told_are_those_of_the_picture_and_its_latents(page):
    assert "150×117×3 = 52,650 numbers" in page.text
    assert f"{19 * 15 * 4:,} numbers" in page.text
    assert f"{52650 / (19 * 15 * 4):.3g}×" in page.text


def test_shrinkage_counts_numbers_bytes_and_bits():
    shrinkage = demo.Shrinkage(width=1280, height=1280, columns=160, rows=160, channels=4)
    assert str(shrinkage) == (
        "1280×1280×3 → 160×160×4: 4,915,200 → 102,400 numbers, 48× fewer; "
        "4,915,200 → 204,800 bytes in half precision, 24 → 1.00 bits per pixel"
    )


def test_the_values_in_the_page_are_the_latents(tour, page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.source, re.S)[1])
    steps = np.frombuffer(base64.b64decode(data["values"]), "<i2").reshape(4, data["rows"], data["columns"])
    assert np.allclose(steps * data["step"], tour[0].journeys[0].latents.tensor[0], atol=data["step"])


def test_names_are_escaped(page):
    assert "mini <b>16" in page.text
    assert "mini <b>16" not in page.source


def test_the_page_tells_the_measures_of_every_vae_and_of_the_baseline(tour, page):
    result, _ = tour
    qualities = [back.quality for journey in result.journeys for back in journey.reconstructions]
    assert len(qualities) == 3
    for quality in [*qualities, result.baseline]:
        assert f"{quality.psnr:.2f} dB" in page.text


def test_a_vae_without_encoder_decodes_what_another_of_its_family_encoded(tour):
    first = tour[0].journeys[0]
    assert (first.family.name, first.encoder) == ("sd1", "mini")
    assert [back.name for back in first.reconstructions] == ["mini", "other"]


def test_the_files_are_the_pictures_told(tour, photo):
    result, _ = tour
    files = {path.name: path for path in result.folder.iterdir()}
    assert files["original.png"].read_bytes() == photo.read_bytes()
    with Image.open(files["sd1-channel-3.png"]) as channel:
        assert channel.size == (19 * 8, 15 * 8)
    with Image.open(files["mini-decoded.png"]) as decoded:
        assert np.array_equal(decoded, result.journeys[0].reconstructions[0].picture)
    assert {"sd3-channel-15.png", "sd1-preview.png", "other-difference-x4.png", "mini-b-16-crop-1.png"} < set(files)


def test_progress_is_told_in_order_and_the_result_is_json(tour):
    result, lines = tour
    assert [line.split()[0] for line in lines] == ["Encoding"] + ["Decoding", "Measuring"] * 2 + [
        "Encoding", "Decoding", "Measuring", "Writing",
    ]  # fmt: skip
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [journey["latents"] for journey in told["journeys"]] == [[1, 4, 15, 19], [1, 16, 15, 19]]
    assert told["journeys"][0]["decoded"][0]["psnr"] > 10


def test_a_family_without_preview_factors_has_a_page_too(photo, tmp_path):
    plain = family("sd1").model_copy(update={"preview": None, "name": "plain"})
    result = demo.run(tmp_path / "out", photo=photo, vaes=[Pooling(family=plain)])
    assert "plain has none yet" in Page(result.page).text
    assert not (result.folder / "plain-preview.png").exists()


def test_the_bundled_photo_is_credited_and_fits_the_page_in_twelve_megabytes(tmp_path, monkeypatch):
    # Measuring 1280×1280 pixels takes most of the time, and has tests of its own.
    monkeypatch.setattr("vaekit.demo.tour.measure", lambda original, result: Quality(30.0, 0.9, 2.0))
    result = demo.run(tmp_path / "out", vaes=[Pooling()])
    assert "John Severns" in Page(result.page).text
    assert "160×160×4" in Page(result.page).text
    assert result.page.stat().st_size < 12_000_000


def test_a_folder_that_is_not_empty_is_refused_before_any_work(photo, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not empty.*--force"):
        demo.run(tmp_path, photo=photo, vaes=[Pooling(interrupted=True)])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_force_renews_the_demo_and_keeps_other_files(photo, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "index.html").write_text("old")
    demo.run(tmp_path, photo=photo, vaes=[Pooling()], force=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert "<!DOCTYPE html>" in (tmp_path / "index.html").read_text("utf-8")


def test_an_empty_folder_is_taken(photo, tmp_path):
    (tmp_path / "empty").mkdir()
    assert demo.run(tmp_path / "empty", photo=photo, vaes=[Pooling()]).page.exists()


def test_a_file_in_the_place_of_the_folder_is_refused(photo, tmp_path):
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="file"):
            demo.run(target, photo=photo, vaes=[Pooling()], force=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_where_the_page_should_be_is_refused_and_nothing_changes(photo, tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.raises(OutputError, match=r"index\.html"):
        demo.run(tmp_path, photo=photo, vaes=[Pooling()], force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_stop_while_decoding_leaves_nothing(photo, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path / "out", photo=photo, vaes=[Pooling(interrupted=True)])
    assert list(tmp_path.iterdir()) == []


def test_a_stop_while_writing_leaves_nothing(photo, tmp_path, monkeypatch):
    write = images.write

    def stop_at_the_difference(picture, path, **options):
        if "difference" in path.name:
            raise KeyboardInterrupt
        write(picture, path, **options)

    monkeypatch.setattr(images, "write", stop_at_the_difference)
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path / "out", photo=photo, vaes=[Pooling()])
    assert list(tmp_path.iterdir()) == []


def test_a_demo_without_any_vae_is_refused(photo, tmp_path):
    with pytest.raises(OptionError, match="needs a VAE"):
        demo.run(tmp_path / "out", photo=photo, vaes=[])
    for half in (Pooling(can_encode=False), Pooling(can_decode=False)):
        with pytest.raises(OptionError, match="an encoder and a decoder of sd1"):
            demo.run(tmp_path / "out", photo=photo, vaes=[half])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 4), st.randoms())
def test_worst_crops_lie_inside_do_not_overlap_and_start_with_the_worst(width, height, side, count, random):
    rng = np.random.default_rng(random.randrange(2**32))
    original, result = (Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(2))
    crops = drawing.worst_crops(original, result, count=count, side=side)
    side = min(side, width, height)
    error = np.square(np.asarray(original, float) - np.asarray(result, float)).sum(axis=2)
    sums = torch.from_numpy(error)[None].unfold(1, side, 1).unfold(2, side, 1).sum((-1, -2))
    left, top, right, bottom = crops[0].box
    assert error[top:bottom, left:right].sum() == pytest.approx(sums.max().item())
    covered = np.zeros((height, width), int)
    for crop in crops:
        left, top, right, bottom = crop.box
        covered[top:bottom, left:right] += 1
        assert np.array_equal(crop.result, np.asarray(result)[top:bottom, left:right])
    assert covered.max() == 1
    assert covered.sum() == len(crops) * side**2
    assert len(crops) <= count


def test_the_difference_is_four_times_the_distance_and_stops_at_white():
    a, b = Image.new("RGB", (2, 2), (10, 200, 0)), Image.new("RGB", (2, 2), (13, 100, 0))
    assert drawing.difference(a, b).getpixel((1, 1)) == (12, 255, 0)
    assert drawing.difference(b, a).getpixel((1, 1)) == (12, 255, 0)


def test_the_planes_of_a_picture_add_up_to_it():
    picture = Image.new("RGB", (2, 1), (10, 20, 30))
    assert [plane.getpixel((0, 0)) for plane in drawing.planes(picture)] == [(10, 0, 0), (0, 20, 0), (0, 0, 30)]


def test_the_bundled_pictures_are_there_in_the_sizes_told():
    with Image.open(assets.photo()) as photo:
        assert photo.size == (1280, 1280)
    assert assets.photo().stat().st_size <= 450_000
    assert len(assets.sample_photos()) >= 3
    card = assets.path("pictures/README.md").read_text("utf-8")
    for path in [assets.photo(), *assets.sample_photos()]:
        assert f"`{path.name}`" in card
    for path in assets.sample_photos():
        with Image.open(path) as sample:
            assert max(sample.size) == 512
        assert path.stat().st_size <= 80_000


def test_an_unknown_asset_or_model_is_refused():
    with pytest.raises(OptionError, match="no-such"):
        assets.path("pictures/no-such.jpg")
    with pytest.raises(OptionError, match="no bundled VAE is called 'minni'"):
        assets.model_folder("minni")
    for name in assets.bundled_models():
        assert (assets.model_folder(name) / "config.json").is_file()
