"""From the download of the data to the weights and the card of a bundled model, in one command that can be stopped.

    python recipes/make.py NAME WORK [--photos PHOTOS] [--device auto]

NAME: a model of src/vaekit/assets/models. WORK: where data, runs and results are kept; the same command goes on there.
PHOTOS: pictures to measure with, never trained on; without them the model is made and no card is written. Time and
hardware of the weights that ship stand on their cards.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parent
MODELS = RECIPES.parent / "src" / "vaekit" / "assets" / "models"


class Work:
    """The folder of one making. A step that was finished is marked under done/ and not repeated."""

    def __init__(self, folder: Path, device: str):
        self.folder, self.device = folder.resolve(), device
        (self.folder / "done").mkdir(parents=True, exist_ok=True)

    def emoji(self) -> str:
        return self._step("emoji", "emoji.py", "fetch", "emoji")

    def photographs(self) -> str:
        return self._step("photographs", "photographs.py", "photographs")

    def pictures(self) -> list[str]:
        """Photographs and drawings, with their shares of the crops."""
        drawings = self._step("drawings", "drawings.py", self.emoji(), "drawings")
        return ["--data", f"{self.photographs()}:0.8", "--data", f"{drawings}:0.2"]

    def vae(self, name: str) -> str:
        return self._train("vae", name, self.pictures())

    def mini(self, last: str = "mini") -> str:
        """Six runs, with the norms regrouped after the first (recipes/mini-second.toml); `last` is the sixth."""
        data = self.photographs()
        first = self._train("vae", "mini-first", ["--data", data])
        self._step("mini-regrouped", "regroup.py", first, "mini-regrouped", "--groups", "8", "--data", data)
        for part in ("mini-second", "mini-third", "mini-fourth", "mini-fifth"):
            self.vae(part)
        return self.vae(last)

    def mini16(self) -> str:
        """The best linear code and mini's decoder, then three runs (recipes/mini16-first.toml)."""
        data = ["--data", self.photographs()]
        self._step("mini16-principal", "principal.py", "mini", "mini16-principal", "--channels", "16", *data)
        self.vae("mini16-first")
        self.vae("mini16-second")
        return self.vae("mini16")

    def text_to_image(self, name: str) -> str:
        captions = self._step("captions", "emoji.py", "captions", self.emoji(), "captions")
        return self._train("diffusion", name, ["--data", captions])

    def _train(self, kind: str, name: str, data: list[str]) -> str:
        run = ["--run", f"runs/{name}", "--out", name, "--device", self.device]
        return self._once(name, "-m", "vaekit", "train", kind, str(RECIPES / f"{name}.toml"), *data, *run)

    def _step(self, name: str, script: str, *arguments: str) -> str:
        return self._once(name, str(RECIPES / script), *arguments)

    def _once(self, name: str, *command: str) -> str:
        """Run Python with the command in the work folder, which makes what is called so; return the name."""
        done = self.folder / "done" / name
        if not done.exists():
            print("+ python", *command, flush=True)
            if code := subprocess.run([sys.executable, *command], cwd=self.folder, check=False).returncode:
                raise SystemExit(code)
            done.touch()
        return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(path.name for path in MODELS.iterdir() if path.is_dir()))
    parser.add_argument("work", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    work = Work(given.work, given.device)
    special = {
        "mini": work.mini,
        "mini-ema": lambda: work.mini("mini-ema"),
        "mini16": work.mini16,
        "mini-sd": lambda: work.text_to_image("mini-sd"),
    }
    made = work.folder / special.get(given.name, lambda: work.vae(given.name))()
    shutil.copytree(made, MODELS / given.name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("family.toml"))
    print(f"{MODELS / given.name}: written; the numbers of a new family belong into families.toml: {made}")
    if given.photos:
        cards = [str(RECIPES / "cards.py"), "--photos", str(given.photos), "--runs", str(work.folder / "runs")]
        subprocess.run([sys.executable, *cards], check=True)


if __name__ == "__main__":
    main()
