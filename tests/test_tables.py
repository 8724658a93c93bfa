"""A user's TOML files: what is wrong in them is told with file and line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from vaekit import tables
from vaekit.errors import FileError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = 0


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    number: int = 0
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own.toml"


def test_a_table_becomes_a_model_over_what_is_known(own: Path) -> None:
    own.write_text('[a]\nnumber = 2\n["b.c"]\n[[b.several]]\n', "utf-8")
    file = tables.read(own)
    assert list(file.tables) == ["a", "b.c", "b"]
    assert file.check("a", Thing, {"number": 1, "several": ({"number": 5},)}) == Thing(
        name="a", number=2, several=(Inner(number=5),)
    )
    assert file.check("b.c", Thing) == Thing(name="b.c")


def test_an_empty_file_has_no_tables(own: Path) -> None:
    own.write_text("", "utf-8")
    assert tables.read(own).tables == {}


MISTAKES = {
    "a key": ("[x]\n# no\n\nnumber = 'no'\n", 4, "[x] number: "),
    "an unknown key": ("[x]\nnumber = 1\ncolour = 1\n", 3, "[x] colour: "),
    "a key in quotes": ("[x]\n'col our' = 1\n", 2, "[x] col our: "),
    "a table inside": ("[x]\n[x.inner]\nnumber = 'no'\n", 3, "[x] inner.number: "),
    "a key with a dot": ("[x]\nnumber = 1\ninner.number = 'no'\n", 3, "[x] inner.number: "),
    "an inline table": ("[x]\n\ninner = { number = 'no' }\n", 3, "[x] inner.number: "),
    "the second of several": ("[x]\n[[x.several]]\n[[x.several]]\nnumber = 'no'\n", 4, "[x] several.1.number: "),
    "separators that end no line": ("[x] # \u2028 \x85\nnumber = 'no'\n", 2, "[x] number: "),
    "lines that end as on Windows": ("[x]\r\n\r\nnumber = 'no'\r\n", 3, "[x] number: "),
    "a value outside": ("\nx = 1\n", 2, "[x] stands outside"),
    "a name with a dot": ("[x.y]\nnumber = 1\n", 1, '["x.y"]'),
    "a name inside": ("[x]\nname = 'y'\n", 2, "brackets"),
    "a line break in a key": ('[x]\n"a\\nb" = 1\n', 2, "[x] a b: "),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_file_and_line(mistake: str, own: Path) -> None:
    text, line, told = MISTAKES[mistake]
    own.write_bytes(text.encode())
    file = tables.read(own)
    with pytest.raises(FileError) as raised:
        file.check("x", Thing)
    message = str(raised.value)
    assert message.startswith(f"{own}:{line}: "), message
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "place", "word"),
    [
        (b"[x]\ny = \n", ":2: ", "TOML"),
        (b'[x]\ny = """\n\n', ":4: ", "TOML"),
        (b"[x]\n[x]\n", ":2: ", "TOML"),
        (b"[x]\n\n# \xff", ":3: ", "UTF-8"),
        (b"a = " + b"[" * 100_000, ":1: ", "TOML"),
        (b"#" * (tables.LARGEST_FILE + 1), ": ", "too large"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(content: bytes, place: str, word: str, own: Path) -> None:
    own.write_bytes(content)
    with pytest.raises(FileError) as raised:
        tables.read(own)
    assert str(raised.value).startswith(f"{own}{place}")
    assert word in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("name", ["no-such.toml", ".", "a\0b"])
def test_what_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"^[^\n]+$"):
        tables.read(tmp_path / name)


KEYS = st.from_regex(r"[a-z]{1,6}", fullmatch=True).filter(lambda key: key not in Thing.model_fields)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(st.sampled_from(["", "# number = 'x'", "number = 1"]), unique=True), key=KEYS, quoted=st.booleans()
)
def test_the_line_of_any_unknown_key_is_found(before: list[str], key: str, quoted: bool, own: Path) -> None:
    text = "\n".join(["[x]", *before, f'"{key}" = 1' if quoted else f"{key}=1"])
    assert key in tomllib.loads(text)["x"]
    own.write_text(text, "utf-8")
    with pytest.raises(FileError, match=re.escape(f"{own}:{len(before) + 2}: [x] {key}: ")):
        tables.read(own).check("x", Thing)
