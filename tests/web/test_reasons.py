"""Every reason that the server gives for a refusal has its words in every language that has reasons."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vaekit
from vaekit.web.app import PAGE

SOURCE = Path(vaekit.__file__).parent
ROOMS = ("web/*.py", "generate/settings.py", "generate/samplers.py", "catalog/choice.py", "catalog/addresses.py")
GAP = "␣"
LANGUAGES = [path for path in (PAGE / "texts").glob("*.json") if "reasons" in json.loads(path.read_text("utf-8"))]


def pattern(node: ast.AST) -> str | None:
    """A text with gaps in the place of values; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
        return "".join(map(str, parts)).replace(f"{GAP}×{GAP}", GAP)  # a size is one value
    return None


def texts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        found = pattern(node)
        if found is not None:
            yield found


def raised(path: Path) -> Iterator[str]:
    """What errors are made with."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            text = pattern(node.args[0])
            if re.search(r"(Error|Busy)$", node.func.id) and text is not None:
                yield text


def patterns(language: Path) -> set[str]:
    told = json.loads(language.read_text("utf-8"))["reasons"]
    return {re.sub(r"{\w+}", GAP, english) for english in told}


def known(text: str, patterns: set[str]) -> bool:
    """As the page looks it up: as a whole, or behind the name of what it is about."""
    rest = text.removeprefix(f"{GAP}: ")
    return text in patterns or rest in patterns or not re.search(r"\w", rest.replace(GAP, ""))


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda path: path.stem)
def test_every_reason_has_its_words(language: Path) -> None:
    told = patterns(language)
    files = [path for room in ROOMS for path in SOURCE.glob(room)]
    missing = {text for path in files for text in raised(path) if not known(text, told)}
    assert missing == set()


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda path: path.stem)
def test_no_reason_is_told_that_nothing_gives(language: Path) -> None:
    given = {text for path in SOURCE.rglob("*.py") for text in texts(path)}
    ends = {text.removeprefix(f"{GAP}: ") for text in given}
    joined = "\n".join(given)
    theirs = {one for one in patterns(language) if not one.startswith("Input should be ")}  # pydantic's
    stale = {one for one in theirs if one not in given | ends and not all(part in joined for part in one.split(GAP))}
    assert stale == set()


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda path: path.stem)
def test_its_words_have_the_same_gaps(language: Path) -> None:
    for english, own in json.loads(language.read_text("utf-8"))["reasons"].items():
        assert set(re.findall(r"{\w+}", own)) <= set(re.findall(r"{\w+}", english)), english
