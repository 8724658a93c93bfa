from hypothesis import given
from hypothesis import strategies as st

from vaekit.quality.naming import distinct, file_names


def test_paths_are_told_apart_by_as_few_parts_as_it_takes():
    assert distinct(["x/vae.pt", "y/vae.pt", "y/other.pt"]) == ["x/vae.pt", "y/vae.pt", "other.pt"]
    assert distinct(["a/b/vae.pt", "c/b/vae.pt"]) == ["a/b/vae.pt", "c/b/vae.pt"]
    assert distinct(["vae.pt", "vae.pt"]) == ["vae.pt", "vae.pt (2)"]


def test_names_that_would_break_a_line_are_quoted():
    assert distinct(["a/evil\nname.png"]) == ["'evil\\nname.png'"]


def test_file_names_have_no_path_no_ending_and_no_tricks():
    assert file_names(["photo.png", "x.latents.safetensors", "../../etc/passwd", ".hidden", "a b<c>.jpg"]) == [
        "photo", "x", "etc-passwd", "hidden", "a-b-c",
    ]  # fmt: skip


def test_names_that_a_disk_may_take_for_one_are_told_apart():
    assert file_names(["Photo.png", "photo.jpg", "photo-2.png"]) == ["Photo", "photo-2", "photo-2-2"]


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_names_are_different_and_file_names_usable_whatever_they_come_from(names):
    assert len({label.casefold() for label in distinct(names)}) == len(names)
    files = file_names(names)
    assert len({file.casefold() for file in files}) == len(names)
    for file in files:
        assert file and not file.startswith(".") and "/" not in file and "\0" not in file
        assert len(file.encode()) <= 104
