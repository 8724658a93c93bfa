"""What a pickle would do, found out without running it: the globals it names, and how far it unfolds."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import BinaryIO

MOST_OPERATIONS = 1_000_000
LARGEST_UNFOLDED = 10_000_000
DEEPEST = 100

_IN_PLACE = frozenset(("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"))


def globals_named(pickled: BinaryIO) -> Iterator[str]:
    """Every global that the pickle at the stream's position names, as "module.name", in its order.

    Raises one of ValueError, IndexError, KeyError, OverflowError and UnicodeError where
    it is broken, and ValueError where shared parts let it unfold beyond reason.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if count > MOST_OPERATIONS:
            raise ValueError("a pickle of impossible length")
        named = machine.step(opcode, argument)
        if named is not None:
            yield named
    machine.refuse_bomb()


class _Machine:
    """The stack machine of pickles, on numbers instead of objects: each object is the number of a node.

    parts: the nodes that each node was made of; weights: what a plain value may
    cost whoever hashes or prints it; texts: the strings.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}
        self.parts: dict[int, list[int]] = {}
        self.weights: list[int] = []
        self.texts: dict[int, str] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> str | None:
        """Do one operation; the global that it names, if it names one."""
        name = opcode.name
        if name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[_index(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[_index(argument)])
        else:
            taken = self._take(opcode)
            self.stack += self._make(opcode, argument, taken)
            return self._global(name, argument, taken)
        return None

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        before = opcode.stack_before
        if pickletools.markobject in before:
            start = self.marks.pop() - before.index(pickletools.markobject)
        else:
            start = len(self.stack) - len(before)
        if start < 0:
            raise IndexError("takes more from its stack than there is")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _make(self, opcode: pickletools.OpcodeInfo, argument: object, taken: list[int]) -> list[int]:
        if not opcode.stack_after:
            return []
        if opcode.name == "DUP":
            return taken * 2
        if opcode.name in _IN_PLACE:
            self.parts.setdefault(taken[0], []).extend(taken[1:])
            return taken[:1]
        node = len(self.weights)
        self.weights.append(_weight(argument))
        if taken:
            self.parts[node] = taken
        if isinstance(argument, str):
            self.texts[node] = argument
        return [node]

    def _global(self, name: str, argument: object, taken: list[int]) -> str | None:
        if name in ("GLOBAL", "INST"):
            return str(argument).replace(" ", ".")
        if name == "STACK_GLOBAL":
            return ".".join(self.texts.get(node, "?") for node in taken)
        return f"copyreg extension {argument}" if name.startswith("EXT") else None

    def refuse_bomb(self) -> None:
        """Raise ValueError for a few bytes that unfold without end, or so deep that hashing overflows the C stack."""
        sizes, depths, total = dict(enumerate(self.weights)), dict[int, int](), 0
        try:
            for node in TopologicalSorter(self.parts).static_order():
                parts = self.parts.get(node, ())
                sizes[node] += sum(sizes[part] for part in parts)
                depths[node] = 1 + max((depths[part] for part in parts), default=0)
                total += sizes[node]
                if total > LARGEST_UNFOLDED or depths[node] > DEEPEST:
                    raise ValueError("nested beyond reason")
        except CycleError:
            raise ValueError("an object that holds itself") from None


def _index(argument: object) -> int:
    return argument if isinstance(argument, int) else int(str(argument))


def _weight(argument: object) -> int:
    if isinstance(argument, (str, bytes)):
        return 1 + len(argument) // 100
    # integers beyond a machine word can be made to collide in a dict, each with all others
    return 1000 if isinstance(argument, int) and argument.bit_length() > 32 else 1
