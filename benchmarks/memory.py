"""Decoding and encoding inside a memory budget: how exact, how small, how slow, and how well foretold.

    python benchmarks/memory.py                          # all of it; hours on two cores
    python benchmarks/memory.py exact --pictures PHOTOS  # against one piece, beside diffusers' tiling
    python benchmarks/memory.py peak --sizes 1024x1024,8192x1024 --dtype bfloat16
    python benchmarks/memory.py time --sizes 1024x1024
    python benchmarks/memory.py picture                  # docs/images/memory-plan.svg

`peak` and `time` decode random latents with a VAE of SD 1.x's architecture and random
weights, each run in a process of its own whose peak resident memory (VmHWM) is read from
outside, beside what it held after loading and one small decode. What one piece takes is
measured where it fits into --limit, else predicted. `time` runs one piece and the
budgets by turns, --repeat times, and takes medians. Exits with 1 where a run went over its budget.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

SHARES = (2, 4, 8, 16)
GIB = 2**30
BUNDLED = "mini"
TILE = 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["all", "exact", "peak", "time", "picture"], default="all")
    parser.add_argument("--pictures", nargs="*", default=[], help="for `exact`; else the bundled samples, enlarged")
    parser.add_argument("--sizes", default="1024x1024,2048x2048,8192x1024,4096x4096", help="width x height, in pixels")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="budgets: one piece divided by each")
    parser.add_argument("--vae", help="another VAE than the random one")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--direction", default="decode", choices=["decode", "encode"])
    parser.add_argument("--limit", type=float, default=16, help="GiB that a run in one piece may take here")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(json.loads(options.child))
        return 0
    code = 0
    if options.part == "picture":
        picture((4096, 4096), "2GiB", Path("docs/images/memory-plan.svg"))
    if options.part in ("all", "exact"):
        exact(options.pictures)
    if options.part in ("all", "peak", "time"):
        with tempfile.TemporaryDirectory() as folder:
            source = options.vae or str(random_vae(Path(folder)))
            for part, measure in (("peak", peaks), ("time", times)):
                if options.part in ("all", part):
                    code = max(code, measure(source, options))
    return code


# In a process of its own


def child(job: dict[str, Any]) -> None:
    """Load, make ready, wait; run as often as asked; say how long each took."""
    import torch

    from vaekit.engine.strips.stores import give_back_heap

    vae = load(job["source"], job["dtype"])
    width, height = job["size"]

    def work(width: int, height: int, memory: int | None) -> None:
        if job["direction"] == "decode":
            vae.decode(torch.randn(1, 4, height // 8, width // 8), memory=memory)
        else:
            vae.encode(torch.rand(1, 3, height, width) * 2 - 1, memory=memory)

    torch.manual_seed(0)
    work(64, 64, None)
    give_back_heap()  # what is free there already is not to hide what a run takes
    answer({"ready": True})
    for line in sys.stdin:
        start = time.perf_counter()
        work(width, height, json.loads(line)["memory"])
        answer({"seconds": time.perf_counter() - start})


def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


class Process:
    """A child and its memory, seen from outside."""

    def __init__(self, source: str, options: argparse.Namespace, size: tuple[int, int]):
        job = {"source": source, "size": size, "dtype": options.dtype, "direction": options.direction}
        command = [sys.executable, __file__, "--child", json.dumps(job)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._line()
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # VmHWM begins anew
        self._before = self._status("VmRSS")

    def run(self, memory: int) -> float:
        """Seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"memory": memory}) + "\n")
        self._process.stdin.flush()
        return float(self._line()["seconds"])

    @property
    def peak(self) -> int:
        """Bytes of resident memory at the peak, beside what there was after loading."""
        return self._status("VmHWM") - self._before

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a run ended without a result; try it by itself with --child")
        return json.loads(line)

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self._process.pid}/status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


# Peak and time


def random_vae(folder: Path) -> Path:
    """A VAE of SD 1.x's architecture with random weights."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    vae.save_pretrained(folder)
    return folder


def load(source: str, dtype: str) -> Any:
    import vaekit

    return vaekit.load(source, family="sd1" if Path(source).is_dir() else None, dtype=dtype)


def peaks(source: str, options: argparse.Namespace) -> int:
    over, rates = False, calibrated(source, options)
    print(f"\nPeak resident memory beside the loaded model, {options.direction}, {options.dtype}, MiB")
    print(
        "size        budget      of one piece   predicted    measured    of budget   seconds  (predicted)  of one piece"
    )
    for size in sizes(options.sizes):
        whole, alone = one_piece(source, options, size, rates)
        for share, budget in budgets(source, options, size, whole).items():
            plan = forecast(source, options, size, budget, rates)
            process = Process(source, options, size)
            seconds = process.run(budget)
            peak = process.peak
            process.close()
            over |= peak > budget
            told = f"{size[0]}x{size[1]}".ljust(10)
            print(
                f"{told} {mib(budget)}        1/{share:<2}        {mib(plan.memory)}    {mib(peak)}"
                f"     {peak / budget:7.2f}   {seconds:8.1f}  ({plan.seconds:.1f})   {seconds / alone:.2f}"
                + ("   OVER" if peak > budget else ""),
                flush=True,
            )
    return int(over)


def calibrated(source: str, options: argparse.Namespace) -> Any:
    """In a process of its own: it loads what a first run has to load, which forecasts count."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(rates_of, source, options.dtype, options.direction).result()


def rates_of(source: str, dtype: str, direction: str) -> Any:
    return load(source, dtype).calibrate(direction)


def times(source: str, options: argparse.Namespace) -> int:
    print(f"\nSeconds against one piece in the same process, {options.direction}, {options.dtype}")
    print("size        of one piece   seconds   ratio   (spread)")
    for size in sizes(options.sizes):
        whole, _ = one_piece(source, options, size)
        if whole > options.limit * GIB:
            print(f"{size[0]}x{size[1]}: one piece does not fit into {options.limit:g} GiB")
            continue
        runs = {"one piece": 1 << 50}
        runs |= {f"1/{share}": budget for share, budget in budgets(source, options, size, whole).items()}
        process = Process(source, options, size)
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.repeat):
            for name, budget in runs.items():
                taken[name].append(process.run(budget))
        process.close()
        base = median(taken["one piece"])
        for name, all_of_them in taken.items():
            spread = f"{min(all_of_them):.1f} to {max(all_of_them):.1f}"
            told = f"{size[0]}x{size[1]}".ljust(10)
            middle = median(all_of_them)
            print(f"{told}  {name:<10} {middle:10.1f} {middle / base:8.2f}   ({spread})", flush=True)
    return 0


def one_piece(source: str, options: argparse.Namespace, size: tuple[int, int], rates: Any = None) -> tuple[int, float]:
    """Bytes and seconds that one piece takes: measured where the bytes are there, else predicted."""
    predicted = forecast(source, options, size, 1 << 50, rates)
    told = f"{size[0]}x{size[1]} in one piece: "
    if predicted.memory > options.limit * GIB:
        print(f"{told}{mib(predicted.memory)}, {predicted.seconds:.1f} s (both predicted)")
        return predicted.memory, predicted.seconds
    process = Process(source, options, size)
    seconds = process.run(1 << 50)
    peak = process.peak
    process.close()
    print(
        f"{told}{mib(peak)} (predicted {mib(predicted.memory)}), {seconds:.1f} s ({predicted.seconds:.1f})", flush=True
    )
    return peak, seconds


def forecast(source: str, options: argparse.Namespace, size: tuple[int, int], budget: int, rates: Any = None) -> Any:
    found = load(source, options.dtype).forecast(size, direction=options.direction, memory=budget)
    return found if rates is None else found.at(rates)


def sizes(text: str) -> list[tuple[int, int]]:
    return [(int(width), int(height)) for width, height in (size.split("x") for size in text.split(","))]


def budgets(source: str, options: argparse.Namespace, size: tuple[int, int], whole: int) -> dict[int, int]:
    """Each share of one piece in bytes, without those that no strips fit into."""
    from vaekit import VaekitError

    found = {}
    for share in map(int, options.shares.split(",")):
        try:
            forecast(source, options, size, whole // share)
        except VaekitError as error:
            print(f"{size[0]}x{size[1]} at 1/{share}: {error}", flush=True)
        else:
            found[share] = whole // share
    return found


def mib(count: float) -> str:
    return f"{count / 2**20:8,.0f}"


# Exactness


def exact(pictures: list[str]) -> None:
    """Bundled weights and real pictures: strips at an eighth, and diffusers' tiles, against one piece."""
    import torch
    from diffusers import AutoencoderKL

    import vaekit
    from vaekit import assets, images
    from vaekit.engine.placement import computes_in_bfloat16

    fast = computes_in_bfloat16()  # else it takes hours
    wide, narrow = (vaekit.load(BUNDLED, dtype=dtype) for dtype in ("float32", "bfloat16"))
    tiled = AutoencoderKL.from_pretrained(assets.model_folder(BUNDLED))
    tiled.enable_tiling()
    tiled.tile_latent_min_size, tiled.tile_sample_min_size = TILE // 8, TILE
    print(f"\n{BUNDLED}, against float32 in one piece; diffusers' tiles of {TILE} pixels")
    print(f"{'picture':<24}  strips: difference     dB   bfloat16: whole    strips    tiles: difference     dB")
    for path in images.find(pictures) if pictures else assets.sample_photos():
        z = wide.encode(path, memory=1 << 50)
        whole = wide.decode(z, output="tensor", memory=1 << 50)
        budget = wide.forecast(z.size, memory=1 << 50, output="tensor").memory // 8
        strips = wide.decode(z, output="tensor", memory=budget)
        halves = [narrow.decode(z, output="tensor", memory=memory) if fast else None for memory in (1 << 50, budget)]
        with torch.inference_mode():
            raw = tiled.decode(z.tensor / tiled.config.scaling_factor).sample
        cut = raw[..., : z.size[1], : z.size[0]].clamp(-1, 1)
        print(
            f"{path.name[:24]:<24} {far(strips, whole):22.1e} {decibel(strips, whole):6.1f}"
            + "".join(f" {'-' if one is None else format(decibel(one, whole), '.2f'):>14}" for one in halves)
            + f" {far(cut, whole):18.3f} {decibel(cut, whole):7.1f}",
            flush=True,
        )


def far(one: Any, other: Any) -> float:
    """The largest difference, of the range [-1, 1]."""
    return float((one - other).abs().max())


def decibel(one: Any, other: Any) -> float:
    return float(10 * (4 / (one - other).square().mean()).log10())


# A picture of a plan


def picture(size: tuple[int, int], memory: str, target: Path) -> None:
    """A plan for SD 1.x's decoder as an SVG: a bar for each pass, its parts by what takes the memory."""
    from vaekit.engine.strips import planning
    from vaekit.engine.strips.budget import parse
    from vaekit.engine.strips.line import line
    from vaekit.engine.strips.task import Task
    from vaekit.networks.config import KLConfig

    config = KLConfig(4, (), (128, 256, 512, 512), decoder_blocks=3)
    task = Task(line(config, "decode"), size[1] // 8, size[0] // 8, result=4 * size[0] * size[1])
    plan = planning.plan(task, parse(memory))
    assert plan is not None
    colours = {"keep": "#2f6fb0", "spill": "#c9772c", "redo": "#8b8f97", "result": "#3a8f55"}
    words = {"keep": "kept", "spill": "spilled", "redo": "done again", "result": "the result"}
    row, left, width = 19, 250, 520
    lines = []
    for i, one in enumerate(plan.passes):
        y, place = 52 + i * row, plan.places[one.sweep.target]
        name = task.line.steps[one.sweep.target].name.removeprefix("decoder.")
        again = f" after {len(one.sweep.redone)} again" if one.sweep.redone else ""
        length = width * one.memory / parse(memory)
        lines += [
            f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{name}{again}</text>',
            f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{row - 5}" rx="2" fill="{colours[place]}"/>',
            f'<text x="{left + length + 6:.1f}" y="{y + 11}">{one.strips} × {one.rows} rows</text>',
        ]
    height = 70 + len(plan.passes) * row
    legend = "".join(
        f'<rect x="{left + i * 130}" y="28" width="12" height="12" fill="{colours[place]}"/>'
        f'<text x="{left + 18 + i * 130}" y="38">{words[place]}</text>'
        for i, place in enumerate(colours)
    )
    body = "".join(lines)
    target.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 140} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/><text x="10" y="18" font-size="13">'
        f"{size[0]}×{size[1]} in {memory}: each pass, its memory of the budget (dashed), and what becomes of its result"
        f'</text>{legend}{body}<line x1="{left + width}" x2="{left + width}" y1="46" y2="{height - 14}" '
        f'stroke="#b22" stroke-dasharray="4 3"/></svg>\n',
        "utf-8",
    )


if __name__ == "__main__":
    sys.exit(main())
