"""How hostile text (a file's name, what a library says about it) is put into one clear line."""

from __future__ import annotations


def printable(path: str) -> str:
    """A path as it stands, or quoted where it would be invisible or break the line."""
    return path if path and path.isprintable() else repr(path)


def one_line(told: object) -> str:
    """What a library said, on one line of bounded length; its type where it said nothing."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(told)).split())
    return text[:120] or type(told).__name__
