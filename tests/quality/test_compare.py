import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_state, small_vae
from PIL import Image
from quality.pooling import Pooling, green, pale

import vaekit
from vaekit.errors import FamilyError, LatentsError, NumericsError, OptionError, OutputError, PictureError
from vaekit.families import family
from vaekit.latents import Latents
from vaekit.quality import charts, measure
from vaekit.quality.compare import compare, compare_into
from vaekit.quality.measures import bits_per_pixel, measure_all


@pytest.fixture
def photo() -> Image.Image:
    small = np.random.default_rng(0).integers(30, 220, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((53, 37), Image.Resampling.BICUBIC)


@pytest.fixture
def latents(photo) -> Latents:
    return Pooling().encode(vaekit.images.read(photo).pixels)


@pytest.fixture
def small_charts(monkeypatch) -> None:
    """The charts in the size of the pictures here."""
    colours, text = charts.colour_chart().resize((64, 64), Image.Resampling.NEAREST), charts.text_page()
    monkeypatch.setattr(charts, "colour_chart", lambda: colours)
    monkeypatch.setattr(charts, "text_page", lambda: text.crop((0, 96, 64, 160)))


def without_charts(sources, vaes, **options):
    return compare(sources, vaes, with_charts=False, **options)


def test_it_is_part_of_the_public_face():
    assert vaekit.compare is compare


def test_what_is_told_is_measured_on_the_pictures_that_came_back(photo):
    vaes = {"a": small_vae(), "b": small_vae(of="sdxl", state=random_state(small_vae().config, 1))}
    found = without_charts(photo, vaes)
    (one,), (gallery,) = found.compared, found.galleries
    assert np.array_equal(gallery.original, photo)
    for trial in one.trials:
        vae = vaes[trial.vae]
        z = vae.encode(photo)
        back = vae.decode(z)
        assert np.array_equal(gallery.results[trial.vae], back)
        assert trial.trips == (measure_all(photo, back),)
        assert trial.bits_per_pixel == bits_per_pixel(z)
        assert trial.trips[0].psnr == measure(photo, back).psnr
        assert trial.encode_seconds > 0 and trial.decode_seconds > 0
    assert [c.family for c in found.contenders] == ["sd1", "sdxl"]
    assert found.contenders[0].fingerprint == vaes["a"].fingerprint.vae


def test_vaes_of_several_families_each_encode_for_themselves(photo):
    found = without_charts(photo, [Pooling("four"), Pooling("sixteen", family("sd3"))])
    assert [(t.vae, t.encoder) for t in found.compared[0].trials] == [("four", "four"), ("sixteen", "sixteen")]
    assert found.compared[0].trials[1].bits_per_pixel == 4 * found.compared[0].trials[0].bits_per_pixel


def test_a_decoder_takes_what_the_first_encoder_of_its_family_gave(photo):
    vaes = [Pooling("other", family("sd3")), Pooling("whole"), Pooling("half", look=pale, can_encode=False)]
    half = without_charts(photo, vaes).compared[0].trials[2]
    assert (half.encoder, half.encode_seconds) == ("whole", None)
    with pytest.raises(OptionError, match="half only decodes, and no other VAE of sd1"):
        compare(photo, [vaes[0], vaes[2]])


def test_looks_are_told_with_their_signs(photo):
    found = without_charts(photo, [Pooling(), Pooling("pale", look=pale), Pooling("green", look=green)])
    plain, paler, greener = (trial.trips[0] for trial in found.compared[0].trials)
    assert paler.contrast < plain.contrast - 0.1
    assert paler.saturation < plain.saturation - 0.1
    assert paler.brightness > plain.brightness + 2
    assert greener.green_magenta < plain.green_magenta - 2
    assert greener.contrast == pytest.approx(plain.contrast, abs=0.03)


def test_the_charts_come_after_the_pictures_and_count_in_no_mean(photo, small_charts):
    found = compare([photo, photo.rotate(180)], [Pooling(), Pooling("green", look=green)])
    assert [one.kind for one in found.compared] == ["picture", "picture", "chart", "chart"]
    pictures, colours, text = found.tables()
    assert (pictures.title, colours.title, text.title) == ("mean of 2 pictures", charts.COLOURS, charts.TEXT)
    first, second = (one.trials[0].trips[0] for one in found.compared[:2])
    assert pictures.rows["plain"]["ciede2000"] == pytest.approx((first.ciede2000 + second.ciede2000) / 2)
    assert colours.rows["green"]["green_magenta"] < colours.rows["plain"]["green_magenta"] - 2
    assert np.array_equal(found.galleries[2].original, charts.colour_chart())
    assert text.rows["plain"]["edges"] < 0.5 < colours.rows["plain"]["edges"]


def test_every_round_trip_begins_with_the_eight_bit_result_of_the_one_before(photo):
    vae = Pooling(look=pale)
    (one,), (gallery,) = (found := without_charts(photo, [vae], round_trips=3)).compared, found.galleries
    trips = one.trials[0].trips
    assert found.round_trips == len(trips) == 3
    assert trips[0].contrast > trips[1].contrast > trips[2].contrast
    back = photo
    for trip, given in zip(trips, list(vae.encoded), strict=True):
        assert torch.equal(given, vaekit.images.read(back).pixels)
        back = vae.decode(vae.encode(given))
        assert trip == measure_all(photo, back)
    assert np.array_equal(gallery.last["plain"], back)
    assert list(gallery.labelled(3)) == ["the original", "plain", "plain, 3 round trips"]


def test_latents_are_measured_against_the_first_decoder(latents):
    found = compare(latents, [Pooling(), Pooling("green", look=green, can_encode=False)])
    (one,) = found.compared
    assert (one.kind, one.reference, one.size) == ("latents", "plain", (53, 37))
    assert one.trials[0].trips[0].psnr == math.inf
    assert one.trials[1].trips[0].green_magenta < -2
    assert one.trials[1].encode_seconds is None
    assert found.galleries[0].original is None
    assert len(found.tables()) == 1


def test_latents_of_a_batch_are_compared_one_by_one(latents):
    both = replace(latents, tensor=torch.cat([latents.tensor, -latents.tensor]))
    found = compare({"two": both}, [Pooling(), Pooling("green", look=green)])
    assert [one.name for one in found.compared] == ["two-0", "two-1"]


def test_latents_of_another_family_are_refused_before_any_work(latents):
    vae = Pooling("xl", family("sdxl"), broken=True)
    with pytest.raises(FamilyError, match="of sd1, and xl decodes sdxl; take VAEs of sd1"):
        compare(latents, [Pooling(broken=True), vae])


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"round_trips": 0}, "one is the least"),
        ({"round_trips": 2}, "latents are decoded once"),
        ({"with_charts": True}, "without them"),
    ],
)
def test_what_latents_cannot_have_is_refused(latents, options, sentence):
    with pytest.raises(OptionError, match=sentence):
        compare(latents, [Pooling()], **options)


def test_pictures_and_latents_do_not_mix(photo, latents):
    with pytest.raises(OptionError, match="one by one"):
        compare([photo, latents], [Pooling()])


def test_no_vae_and_an_encoder_alone_are_refused(photo):
    with pytest.raises(OptionError, match="at least one VAE"):
        compare(photo, [])
    with pytest.raises(OptionError, match="enc has no decoder"):
        compare(photo, [Pooling("enc", can_decode=False)])


def test_two_vaes_of_one_name_and_two_pictures_of_one_name_are_told_apart(photo, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        photo.save(tmp_path / folder / "photo.png")
    found = without_charts([tmp_path / "a/photo.png", tmp_path / "b/photo.png"], [Pooling(), Pooling()])
    assert [one.name for one in found.compared] == ["a/photo.png", "b/photo.png"]
    assert [trial.vae for trial in found.compared[0].trials] == ["plain", "plain (2)"]
    assert list(found.copies()) == [["plain", "plain (2)"]]


def test_transparency_is_laid_over_a_colour_or_left_out(photo):
    photo.putalpha(100)
    kept = without_charts(photo, [Pooling()]).galleries[0].original
    white = without_charts(photo, [Pooling()], alpha="white").galleries[0].original
    assert np.array_equal(kept, photo.convert("RGB"))
    assert np.asarray(white).mean() > np.asarray(kept).mean() + 50


def test_the_first_error_ends_it_where_nobody_is_told(photo):
    with pytest.raises(NumericsError, match="NaN"):
        compare([photo, photo], [Pooling(), Pooling("bad", broken=True)])
    with pytest.raises(PictureError, match=r"nowhere\.png"):
        compare([photo, "nowhere.png"], [Pooling()])


def test_what_goes_wrong_is_told_and_the_others_go_on(photo, tmp_path):
    told = []
    vaes = [Pooling("bad", broken=True), Pooling(), Pooling("green", look=green)]
    sources = {"one": photo, "two": tmp_path / "nowhere.png", "three": photo.rotate(90)}
    found = compare_into(tmp_path / "out", sources, vaes, with_charts=False, failed=told.append)
    assert [str(error).partition(":")[0].rpartition("/")[2] for error in told] == [
        "bad on one", "nowhere.png", "bad on three",
    ]  # fmt: skip
    assert [type(error) for error in told] == [NumericsError, PictureError, NumericsError]
    assert [one.name for one in found.compared] == ["one", "three"]
    assert list(found.tables()[0].rows) == ["plain", "green"]
    assert (tmp_path / "out" / "index.html").exists()


def test_a_vae_that_fails_on_a_later_round_trip_leaves_nothing_of_itself(photo, tmp_path):
    told = []

    def look(x):
        if x.mean() > 0.3:
            raise NumericsError("too bright")
        return 0.5 * x + 0.3

    vaes = [Pooling(), Pooling("late", look=look)]
    found = compare_into(tmp_path / "out", [photo], vaes, with_charts=False, round_trips=4, failed=told.append)
    assert [str(error) for error in told] == ["late on picture 1: too bright"]
    assert [trial.vae for trial in found.compared[0].trials] == ["plain"]
    assert "late, 4 round trips" not in (tmp_path / "out/index.html").read_text("utf-8")


def test_a_single_picture_that_cannot_be_read_leaves_no_folder(tmp_path):
    with pytest.raises(PictureError, match="nowhere"):
        compare_into(tmp_path / "out", [tmp_path / "nowhere.png"], [Pooling()], failed=print)
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_nothing_can_be_done_with_is_no_picture_that_failed(photo, tmp_path):
    with pytest.raises(OptionError, match="no-colour"):
        compare_into(tmp_path / "out", [photo, photo], [Pooling()], alpha="no-colour", failed=print)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_compared_no_chart_is_either(photo, tmp_path):
    told = []
    with pytest.raises(PictureError, match="nothing could be compared"):
        compare_into(tmp_path / "out", ["no.png", "none.png"], [Pooling()], failed=told.append)
    assert len(told) == 2
    assert list(tmp_path.iterdir()) == []


def test_latents_with_nan_are_an_error(latents):
    latents.tensor[0, 0, 0, 0] = math.nan
    with pytest.raises(LatentsError, match="NaN"):
        compare(latents, [small_vae()])


def test_a_batch_of_pictures_and_a_picture_of_one_pixel(photo):
    batch = np.stack([np.asarray(photo), np.asarray(photo.rotate(180))])
    assert [one.name for one in without_charts(batch, [Pooling()]).compared] == ["picture 1-0", "picture 1-1"]
    one = without_charts(np.zeros((1, 1, 3), np.uint8), [Pooling()]).compared[0]
    assert (one.size, one.places) == ((1, 1), ((0, 0, 1, 1),))


# The folder


def test_the_folder_holds_the_page_sheets_json_and_csv(photo, tmp_path, small_charts):
    found = compare_into(tmp_path / "out", {"a photo.png": photo}, [Pooling(), Pooling("green", look=green)])
    assert found.galleries == ()
    names = [f"{name}.{kind}.png" for name in ("a-photo", "64-colours", "small-text") for kind in SHEETS]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *names,
        "index.html",
        "comparison.json",
        "comparison.csv",
    }
    told = json.loads((tmp_path / "out/comparison.json").read_text("utf-8"))
    assert told == json.loads(json.dumps(found.to_dict()))
    assert told["measures"]["green_magenta"].startswith("mean a* of the result minus")
    assert told["means"][0]["results"][1]["vae"] == "green"
    assert "greener" in told["means"][0]["results"][1]["look"]
    assert told["compared"][0]["results"][0]["psnr"] == found.compared[0].trials[0].trips[0].psnr


SHEETS = ("grid", "places", "differences")


def test_the_csv_has_a_line_for_each_picture_vae_and_round_trip_and_for_the_means(photo, tmp_path):
    sources = {"one": photo, '=two, "quoted"': photo.rotate(180)}
    found = compare_into(tmp_path, sources, [Pooling(), Pooling("x", family("sd3"))], with_charts=False, round_trips=2)
    with (tmp_path / "comparison.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["picture"], line["vae"], line["round_trip"]) for line in lines[:4]] == [
        ("one", "plain", "1"), ("one", "x", "1"), ("=two, \"quoted\"", "plain", "1"), ("=two, \"quoted\"", "x", "1"),
    ]  # fmt: skip
    assert len(lines) == 2 * 2 * 2 + 2 * 2
    assert [line["kind"] for line in lines].count("mean") == 4
    last = next(line for line in lines if line["round_trip"] == "2")
    assert float(last["ciede2000"]) == found.compared[0].trials[0].trips[1].ciede2000
    assert lines[1]["family"] == "sd3" and lines[0]["ssim"] and not lines[0]["ms_ssim"]


def test_equal_pictures_have_no_infinity_in_json_and_csv(latents, tmp_path):
    found = compare_into(tmp_path, latents, [Pooling(), Pooling("green", look=green)])
    text = (tmp_path / "comparison.json").read_text("utf-8")
    assert "Infinity" not in text and "NaN" not in text
    first, second = found.compared[0].to_dict()["results"]
    assert (first["psnr"], first["identical"], second["identical"]) == (None, True, False)
    assert "inf" not in (tmp_path / "comparison.csv").read_text("utf-8")


def test_a_comparison_can_be_saved_afterwards(photo, tmp_path):
    found = without_charts(photo, [Pooling(), Pooling("green", look=green)], round_trips=2)
    page = found.save(tmp_path / "out")
    assert "2 round trips" in page.read_text("utf-8")
    with Image.open(tmp_path / "out" / "picture-1.grid.png") as grid:
        assert grid.width > 3 * 53


def test_a_folder_that_is_not_empty_is_refused_before_any_work_and_kept_with_force(photo, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not empty.*--force"):
        compare_into(tmp_path, [photo], [Pooling(broken=True)])
    with pytest.raises(OutputError, match=r"mine\.txt"):
        compare_into(tmp_path / "mine.txt", [photo], [Pooling(broken=True)], force=True)
    compare_into(tmp_path, [photo], [Pooling()], with_charts=False, force=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "index.html").exists()


def test_a_stop_in_the_middle_leaves_whole_files_only(photo, tmp_path):
    def stop(error):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_into(tmp_path / "out", {"a": photo, "b": "no.png"}, [Pooling()], with_charts=False, failed=stop)
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as picture:
            picture.load()


def test_progress_goes_over_every_picture_and_chart(photo, tmp_path, small_charts):
    seen = []

    def track(items, what):
        seen.append((len(items), what))
        return items

    compare_into(tmp_path / "out", [photo], [Pooling()], track=track)
    assert seen == [(3, "comparing")]
