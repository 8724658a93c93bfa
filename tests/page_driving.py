"""What tests of the page do again and again in it."""

from __future__ import annotations

from typing import Any


def draw(page: Any, **fields: object) -> str:
    """Draw on the open tab; the source of the picture that comes."""
    wished = {"Prompt": "a red apple", "Sampling steps": 2, "Seed": 3, "Width": 32, "Height": 32} | fields
    for label, value in wished.items():
        page.get_by_label(label, exact=True).fill(str(value))
    page.evaluate("document.getElementById('gallery').replaceChildren()")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    return str(page.locator("#gallery img").first.get_attribute("src"))
