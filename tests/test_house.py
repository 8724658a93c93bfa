"""Imports point down the list of rooms in docs/architecture.md, never up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "vaekit"


def rooms() -> list[str]:
    """The rooms from the top of the house to the bottom."""
    table = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## The rooms")[1]
    names = re.findall(r"^\| `([\w.]+?)(?:/|\.py)` \|", table, re.MULTILINE)
    return ["vaekit" if name == "__init__" else name for name in names]


def imported(path: Path) -> Iterator[str]:
    """The rooms that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vaekit":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "vaekit":
                    yield [*alias.name.split("."), "vaekit"][1]


def test_imports_point_down() -> None:
    order = rooms()
    assert len(order) > 12
    upward = []
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py").replace("__init__", "vaekit")
        for other in imported(path):
            if order.index(other) < order.index(room):
                upward.append(f"{path.relative_to(ROOT)} imports {other}")
    assert upward == []
