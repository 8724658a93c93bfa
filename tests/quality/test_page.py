import base64
import hashlib
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image
from quality.pooling import Pooling, green, pale

from vaekit import images
from vaekit.quality.compare import compare, compare_into
from vaekit.quality.page import Page

EVIL = "</script><img src=x onerror=alert(1)>\"'.png"


class Read(html.parser.HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))


def photo(seed: int = 0, size=(150, 110)) -> Image.Image:
    small = np.random.default_rng(seed).integers(30, 220, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "out"
    vaes = {"plain": Pooling(), "pale <b>": Pooling(look=pale), "green": Pooling(look=green)}
    comparison = compare_into(folder, {EVIL: photo(), "second": photo(1)}, vaes, with_charts=False, round_trips=2)
    return comparison, Read((folder / "index.html").read_text("utf-8"))


def test_the_page_asks_nothing_of_the_network(found):
    page = found[1]
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", page.source)


def test_nothing_runs_but_the_one_script_that_is_allowed_by_its_hash(found):
    page = found[1]
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_names_are_escaped(found):
    page = found[1]
    assert EVIL in page.text and EVIL not in page.source
    assert "pale <b>" in page.text and "pale <b>" not in page.source
    assert not [a for a in page.all("img") if a.get("src") == "x"]


def test_every_picture_opens_and_the_slider_finds_one_for_each_choice(found):
    page = found[1]
    pictures = [a for a in page.all("img") if a.get("src")]
    for attributes in pictures:
        picture = Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2])))
        assert picture.size == (int(attributes["width"]), int(attributes["height"]))
        assert attributes["alt"]
    views = [(a["data-view"], a["data-place"]) for a in pictures if "data-view" in a]
    places = [len(one.places) for one in found[0].compared]
    labels = 1 + 3 + 3  # the original, what came back once, and twice
    assert len(views) == sum(labels * (1 + count) for count in places)
    assert [int(a["data-places"]) for a in page.all("details")] == places


def test_every_control_has_a_label_and_every_id_that_is_named_exists(found):
    page = found[1]
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for name in re.findall(r'byId\("([^"]+)"\)', page.source):
        assert name in ids
    for a in page.all("section"):
        assert a.get("aria-label") or a["aria-labelledby"] in ids
    for option in (a["value"] for a in page.all("option")):
        assert option in ids


def test_places_are_in_the_page_pixel_by_pixel(found):
    comparison, page = found
    box = comparison.compared[0].places[0]
    (first,) = [
        a for a in page.all("img")[:200] if (a.get("data-view"), a.get("data-place")) == ("0", "1") and EVIL in a["alt"]
    ]
    crop = Image.open(io.BytesIO(base64.b64decode(first["src"].partition(",")[2])))
    assert np.array_equal(crop, np.asarray(photo())[box[1] : box[3], box[0] : box[2]])


def test_the_numbers_told_are_those_of_the_comparison(found):
    comparison, page = found
    (table,) = comparison.tables(2)
    for row in table.rows.values():
        assert f"{row['psnr']:.2f}" in page.text
        assert f"{row['contrast']:.2f}" in page.text
    for trial in comparison.compared[1].trials:
        assert f"{trial.vae} {trial.trips[0].psnr:.2f} dB" in page.text
        assert f"{trial.vae}, 2 round trips {trial.trips[1].psnr:.2f} dB" in page.text
    assert "mean of 2 pictures" in page.text
    assert "− is greener than the reference" in page.text
    assert "After 2 round trips" in page.text


def test_latents_are_told_to_have_no_original(tmp_path):
    latents = Pooling().encode(images.read(photo()).pixels)
    compare_into(tmp_path, {"z": latents}, [Pooling("first"), Pooling("other", look=pale)])
    page = Read((tmp_path / "index.html").read_text("utf-8"))
    assert "There is no original: everything is measured against what first made of them" in page.text
    assert "the original" not in page.text


@pytest.mark.parametrize(
    "expected, side", [(3, 300), (64_000_000 // 256**2, 256), (10**6, 256), (64_000_000 // 280**2, 280)]
)
def test_the_more_pictures_the_smaller_they_are_shown(tmp_path, expected, side):
    found = compare(photo(size=(300, 60)), [Pooling()], with_charts=False)
    page = Page(expected)
    page.add(found.compared[0], found.galleries[0])
    page.write(tmp_path / "page.html", found)
    widths = [
        int(a["width"])
        for a in Read((tmp_path / "page.html").read_text("utf-8")).all("img")
        if a.get("data-place") == "0"
    ]
    assert widths == [side, side]


def test_pictures_that_compress_badly_are_shown_too(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2, (512, 512, 3), dtype=np.uint8) * 255
    found = compare(noise, [Pooling()], with_charts=False)
    page = found.save(tmp_path / "out")
    shown = next(a for a in Read(page.read_text("utf-8")).all("img") if a.get("src"))
    assert len(shown["src"]) > 512 * 512
