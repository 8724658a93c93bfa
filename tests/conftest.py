"""What several rooms' tests need: small VAEs with random weights, and the measuring material where it is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from vaekit.engine.placement import Placement
from vaekit.engine.strips import working
from vaekit.families import Family, family
from vaekit.networks.config import KLConfig, NetworkConfig, TinyConfig
from vaekit.networks.kl import KL
from vaekit.networks.tiny import Tiny
from vaekit.vae import VAE

SHARED = Path(__file__).parent.parent.parent / "shared"

os.environ["VAEKIT_FAMILIES"] = os.devnull  # none of whoever runs the tests
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels are proved without a GPU, where Triton is installed
os.environ["VAEKIT_DTYPE"] = "float32"  # the same numbers on every processor; tests of what is picked take it away

SMALL_KL = KLConfig(4, (32, 32, 32, 32), (32, 32, 32, 32), encoder_blocks=1, decoder_blocks=2)
SMALL_TINY = TinyConfig(4, 8, (1, 1, 1, 1), (1, 1, 1, 1))


def random_state(config: NetworkConfig, seed: int = 0) -> dict[str, Tensor]:
    """Weights as a fresh network has them."""
    torch.manual_seed(seed)
    network = KL(config) if isinstance(config, KLConfig) else Tiny(config)
    return network.state_dict()


def small_vae(
    config: NetworkConfig = SMALL_KL,
    *,
    of: str | Family = "sd1",
    dtype: torch.dtype = torch.float32,
    state: dict[str, Tensor] | None = None,
) -> VAE:
    placement = Placement(torch.device("cpu"), dtype, dtype, "for a test")
    chosen = family(of) if isinstance(of, str) else of
    return VAE("small", chosen, config, state or random_state(config), placement)


@contextmanager
def winograd_everywhere(everywhere: bool = True) -> Iterator[None]:
    """Winograd's convolution for every 3×3 one, where otherwise only wide ones on many pixels take it."""
    if not everywhere:
        yield
        return
    working._largest.cache_clear()
    with patch.multiple("vaekit.engine.strips.line", NARROW=1, FEW=1, SHORT=0):
        yield
    working._largest.cache_clear()


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """The 12 photographs for measuring, which lie beside the project and not in it."""
    found = sorted((SHARED / "photos").glob("*.png"))
    if len(found) != 12:
        pytest.skip("the 12 photographs for measuring are not beside the project")
    return found


@pytest.fixture(scope="session")
def taef2() -> Path:
    """The published FLUX.2 tiny autoencoder, which lies beside the project and not in it."""
    folder = SHARED / "weights"
    if not (folder / "taef2_encoder.pth").exists():
        pytest.skip("the FLUX.2 tiny autoencoder is not beside the project")
    return folder


LOG = logging.getLogger("vaekit")
UNTOUCHED = (LOG.handlers, LOG.level, LOG.propagate)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command line takes vaekit's log for itself; what runs after it in this process has it back."""
    yield
    LOG.handlers, LOG.propagate = UNTOUCHED[0], UNTOUCHED[2]
    LOG.setLevel(UNTOUCHED[1])
