"""txt2img and img2img, and a view into the latent space while it happens.

from vaekit.generate import Painter, Settings, deliver
painter = Painter.open("model.safetensors", vae="Automatic")
for drawn in painter.txt2img(Settings("a red apple", seed=1)):
    deliver(drawn, Path("apple.png"))
"""

from vaekit.generate.delivery import decode, deliver
from vaekit.generate.painter import Drawn, Painter
from vaekit.generate.sampling import Step
from vaekit.generate.settings import Change, Hires, Settings

__all__ = ["Change", "Drawn", "Hires", "Painter", "Settings", "Step", "decode", "deliver"]
