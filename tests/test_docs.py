"""The documentation tells the truth."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_page_of_commands_is_what_help_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    spec = importlib.util.spec_from_file_location("update_commands", ROOT / "docs" / "update_commands.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "commands.md").read_text("utf-8") == module.render(), "run python docs/update_commands.py"


def test_every_command_shows_an_example() -> None:
    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    pages = text.split("\n## vaekit ")[2:]
    assert len(pages) == 29
    for page in pages:
        assert "Example: vaekit " in page


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/models.md",
        "docs/own-files.md",
        "docs/web.md",
        "docs/where-the-vae-sits.md",
    ],
)
def test_links_and_pictures_are_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    for target in targets:
        assert ((ROOT / page).parent / target).exists(), target


def test_every_room_of_the_house_is_on_the_map() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for path in (ROOT / "src" / "vaekit").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        if not name.startswith("__pycache__") and path.suffix != ".toml":
            assert f"`{name}`" in text, name
