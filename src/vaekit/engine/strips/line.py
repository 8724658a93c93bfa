"""A network as a line of steps, each a convolution with what surrounds it. Imports no torch.

The kl and tiny networks are chains of one pattern, with attention once in the
middle:

    result = after(convolution(before(norm(source))) + shortcut(residual))

A step names the modules that do it, so that the runner finds them in the plain
network, and tells the planner what it needs: how wide and how large its result
is, which rows of its source a row of it looks at, how much arithmetic it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import Any, Literal

from vaekit.networks.config import KLConfig, NetworkConfig, PaddingMode, TinyConfig

Kind = Literal["input", "conv", "point", "up", "down", "keys", "attend"]
Direction = Literal["encode", "decode"]
Rows = tuple[int, int]
"""From the first row to before the last."""

LANES = 16
"""Channels that Winograd's convolution (vaekit.engine.fast.winograd) takes at once; where widths are no multiple of it,
it is not taken."""
NARROW, FEW, SHORT = 32, 24 * 24, 1e11
"""Channels and pixels below which direct convolution is quicker, and operations of a picture as a whole below which
loading the other takes longer than it saves."""
TILES, TILES_TOGETHER, WIDE = 12, 288, 128
"""Its tiles are multiplied in multiples of the first, all threads together take at most the second at a time, and they
make so many channels of the result at once."""
ACTIVATED = 1 << 21
"""Numbers that one piece normalises and activates at once for it, so that they still lie in the cache."""


@dataclass(frozen=True)
class Step:
    """One step; `source`, `residual` and `keys` are the places of other steps in the line, 0 is the input.

    kind: "conv" (3×3), "point" (1×1), "up" (twice as large, then 3×3), "down"
    (3×3 with stride 2), "keys" (the keys and values of an attention, side by
    side), "attend" (the rest of it). zoom: its side is the input's times 2**zoom.
    pad: rows and columns of zeros that a "down" sees above and to the left.
    normed: some later step normalises its result, so its statistics are needed.
    """

    kind: Kind
    name: str
    channels: int
    zoom: int
    source: int = 0
    norm: str | None = None
    before: Literal["silu", "relu", "clamp", "unit"] | None = None
    after: Literal["relu", "signed"] | None = None
    residual: int | None = None
    shortcut: str | None = None
    keys: int | None = None
    pad: int = 0
    normed: bool = False

    @cached_property
    def reads(self) -> tuple[int, ...]:
        """The steps whose rows it reads; an attention's keys, read as a whole, are not among them."""
        return (self.source,) if self.residual in (None, self.source) else (self.source, self.residual or 0)

    def rows_of(self, other: int, rows: Rows, height: int) -> Rows:
        """The rows of step `other`, `height` high, that these rows of this step are made of."""
        a, b = rows
        first, last = a, b
        if other == self.source:
            if self.kind == "conv":
                first, last = a - 1, b + 1
            elif self.kind == "up":
                first, last = (a - 1) // 2, b // 2 + 1
            elif self.kind == "down":
                first, last = 2 * a - self.pad, 2 * b + 1 - self.pad
        if other == self.residual:
            first, last = min(first, a), max(last, b)
        return max(0, first), min(height, last)


@dataclass(frozen=True, eq=False)
class Line:
    """The steps of one direction of a network; steps[0] is its input, the last its result.

    window: rows above and below that an attention looks at; None for all.
    """

    steps: tuple[Step, ...]
    padding: PaddingMode = "zeros"
    window: int | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def side(self, step: int, side: int) -> int:
        """A side of a step's result, where the input's is `side`."""
        zoom = self.steps[step].zoom
        return side << zoom if zoom >= 0 else side >> -zoom

    def last_use(self) -> dict[int, int]:
        """For each step, the last one that reads its result; the end for the result of all."""
        last = {len(self) - 1: len(self)}
        for place, step in enumerate(self.steps[1:], 1):
            last |= dict.fromkeys((*step.reads, *(() if step.keys is None else (step.keys,))), place)
        return last

    def width_of_source(self, step: int) -> int:
        return self.steps[self.steps[step].source].channels

    def operations(self, step: int, height: int, width: int, *, at_points: bool = False) -> float:
        """Multiplications and additions, each counted, for a picture whose input is height × width.

        at_points: by Winograd's convolution, of which only the products of matrices are counted.
        """
        this, cells = self.steps[step], self.side(step, height) * self.side(step, width)
        before, after = self.width_of_source(step), this.channels
        if this.kind == "input":
            return 0.0
        if this.kind == "attend":  # queries and projection, then every cell with every other
            return 4.0 * cells * after * after + self.of_attention(step, height, width)
        taps = 36 / 16 if at_points else {"conv": 9, "down": 9, "up": 4, "point": 1, "keys": 1}[this.kind]
        return 2.0 * cells * taps * before * after + self.of_shortcut(step, height, width)

    def of_shortcut(self, step: int, height: int, width: int) -> float:
        """Those of them that a step's shortcut takes."""
        this, cells = self.steps[step], self.side(step, height) * self.side(step, width)
        return 2.0 * cells * self.steps[this.residual or 0].channels * this.channels if this.shortcut else 0.0

    def of_attention(self, step: int, height: int, width: int) -> float:
        """Those of them in which an attention's cells look at each other."""
        if self.steps[step].kind != "attend":
            return 0.0
        cells = self.side(step, height) * self.side(step, width)
        return 4.0 * self.steps[step].channels * cells * self.attended(step, height, width)

    def attended(self, step: int, height: int, width: int) -> int:
        """How many cells an attention looks at for each."""
        rows = self.side(step, height)
        return self.side(step, width) * (rows if self.window is None else min(rows, 2 * self.window + 1))

    def at_points(self, step: int, height: int, width: int) -> bool:
        """Whether a step is quicker by Winograd's convolution, where it can be had, for an input of height × width."""
        this = self.steps[step]
        widths = self.width_of_source(step), this.channels
        if this.kind not in ("conv", "up") or not all(map(suits_winograd, widths)):
            return False
        return self.side(step, height) * self.side(step, width) >= FEW and self.winograd_pays(height, width)

    def winograd_pays(self, height: int, width: int) -> bool:
        """Whether a picture takes so long that loading Winograd's convolution is worth it."""
        return _operations(self, height, width) >= SHORT

    def operations_in_one_piece(self, step: int, height: int, width: int) -> float:
        """The same for the plain network, which first enlarges and then convolves."""
        folded = self.operations(step, height, width)
        return folded * 9 / 4 if self.steps[step].kind == "up" else folded


def suits_winograd(channels: int) -> bool:
    """Whether Winograd's convolution takes so many, and is quicker."""
    return channels >= NARROW and channels % LANES == 0


def tiles_at_once(channels: int, width: int, tiles: int, threads: int) -> int:
    """How many tiles of Winograd's convolution a thread takes at a time: few stay in its cache, but where weights are
    large, many share the reading of them."""
    turns = -(-tiles // (threads * _most_tiles(channels, width, threads)))
    return -(-tiles // (threads * turns))


def points_numbers(channels: int, width: int, tiles: int, threads: int) -> int:
    """How many numbers all threads work in; with fewer tiles no more."""
    at_once = min(_most_tiles(channels, width, threads), -(-tiles // (threads * TILES)) * TILES)
    return 36 * threads * at_once * (channels + min(width, WIDE))


def _most_tiles(channels: int, width: int, threads: int) -> int:
    """A multiple of TILES."""
    most = 2 * TILES if channels * width <= 256 * 256 else 6 * TILES
    return min(most, max(TILES, TILES_TOGETHER // threads // TILES * TILES))


@lru_cache(maxsize=1000)
def _operations(line: Line, height: int, width: int) -> float:
    """Of all steps."""
    return sum(line.operations(step, height, width) for step in range(len(line)))


@cache
def line(config: NetworkConfig, direction: Direction) -> Line:
    """The line of steps of an encoder or a decoder."""
    writer = _Writer()
    if isinstance(config, KLConfig):
        (_kl_encoder if direction == "encode" else _kl_decoder)(writer, config)
        return writer.line(config.padding_mode, config.attention_window)
    (_tiny_encoder if direction == "encode" else _tiny_decoder)(writer, config)
    return writer.line("zeros")


class _Writer:
    """Writes steps one after the other; `add` gives the new step's place."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(self, kind: Kind, name: str, channels: int, zoom: int = 0, source: int | None = None, **more: Any) -> int:
        """zoom: in relation to the source's, which is the last step where none is named."""
        last = len(self.steps) - 1
        source = max(last, 0) if source is None else source
        base = self.steps[source].zoom if self.steps else 0
        self.steps.append(Step(kind, name, channels, base + zoom, source, **more))
        return last + 1

    @property
    def last(self) -> int:
        return len(self.steps) - 1

    def line(self, padding: PaddingMode, window: int | None = None) -> Line:
        normed = {step.source for step in self.steps if step.norm}
        steps = (replace(step, normed=i in normed) for i, step in enumerate(self.steps))
        return Line(tuple(steps), padding, window)


def _kl_encoder(w: _Writer, config: KLConfig) -> None:
    widths = config.encoder_channels
    w.add("input", "pictures", 3)
    w.add("conv", "encoder.conv_in", widths[0])
    for i, width in enumerate(widths):
        for j in range(config.encoder_blocks):
            _resnet(w, f"encoder.down.{i}.block.{j}", width)
        if i < len(widths) - 1:
            w.add("down", f"encoder.down.{i}.downsample.conv", width, -1)
    _middle(w, "encoder.mid", config.encoder_attention)
    outputs = 2 * config.latent_channels
    w.add("conv", "encoder.conv_out", outputs, norm="encoder.norm_out", before="silu")
    if config.quant_conv:
        w.add("point", "quant_conv", outputs)


def _kl_decoder(w: _Writer, config: KLConfig) -> None:
    widths = config.decoder_channels
    w.add("input", "latents", config.latent_channels)
    if config.post_quant_conv:
        w.add("point", "post_quant_conv", config.latent_channels)
    w.add("conv", "decoder.conv_in", widths[-1])
    _middle(w, "decoder.mid", config.decoder_attention)
    for i in reversed(range(len(widths))):
        for j in range(config.decoder_blocks):
            _resnet(w, f"decoder.up.{i}.block.{j}", widths[i])
        if i > 0:
            w.add("up", f"decoder.up.{i}.upsample.conv", widths[i], 1)
    w.add("conv", "decoder.conv_out", 3, norm="decoder.norm_out", before="silu")


def _resnet(w: _Writer, name: str, channels: int) -> None:
    x = w.last
    w.add("conv", f"{name}.conv1", channels, norm=f"{name}.norm1", before="silu")
    shortcut = f"{name}.nin_shortcut" if w.steps[x].channels != channels else None
    w.add("conv", f"{name}.conv2", channels, norm=f"{name}.norm2", before="silu", residual=x, shortcut=shortcut)


def _middle(w: _Writer, name: str, attention: bool) -> None:
    width = w.steps[w.last].channels
    _resnet(w, f"{name}.block_1", width)
    if attention:
        x, norm = w.last, f"{name}.attn_1.norm"
        keys = w.add("keys", f"{name}.attn_1", 2 * width, norm=norm)
        w.add("attend", f"{name}.attn_1", width, source=x, norm=norm, keys=keys, residual=x)
    _resnet(w, f"{name}.block_2", width)


def _tiny_encoder(w: _Writer, config: TinyConfig) -> None:
    width, last = config.width, len(config.encoder_blocks) - 1
    w.add("input", "pictures", 3)
    w.add("conv", "encoder.0", width, before="unit")
    index = 1
    for stage, blocks in enumerate(config.encoder_blocks):
        if stage > 0:
            w.add("down", f"encoder.{index}", width, -1, pad=1)
            index += 1
        for _ in range(blocks):
            _tiny_block(w, f"encoder.{index}", width, config.encoder_pooled and stage == last)
            index += 1
    w.add("conv", f"encoder.{index}", config.latent_channels)


def _tiny_decoder(w: _Writer, config: TinyConfig) -> None:
    width, index = config.width, 3
    w.add("input", "latents", config.latent_channels)
    w.add("conv", "decoder.1", width, before="clamp", after="relu")
    for stage, blocks in enumerate(config.decoder_blocks):
        if stage > 0:
            w.add("up", f"decoder.{index + 1}", width, 1)
            index += 2
        for _ in range(blocks):
            _tiny_block(w, f"decoder.{index}", width, config.decoder_pooled and stage == 0)
            index += 1
    w.add("conv", f"decoder.{index}", 3, after="signed")


def _tiny_block(w: _Writer, name: str, width: int, pooled: bool) -> None:
    if pooled:
        x = w.last
        w.add("point", f"{name}.pool.0", 4 * width)
        w.add("point", f"{name}.pool.3", width, norm=f"{name}.pool.1", before="relu", residual=x)
    x = w.last
    w.add("conv", f"{name}.conv.0", width, after="relu")
    w.add("conv", f"{name}.conv.2", width, after="relu")
    w.add("conv", f"{name}.conv.4", width, residual=x, after="relu")
