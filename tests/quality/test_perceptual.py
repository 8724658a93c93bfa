"""LPIPS with stand-ins for its package and weights, which are not here."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from vaekit.quality import perceptual


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The packages can be imported, the weights are not here; gives where they would lie, and the networks made."""
    made = []

    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            made.append(net)

        def forward(self, a, b):
            assert a.shape == b.shape and a.shape[1] == 3 and a.abs().max() <= 1
            return (a - b).abs().mean().view(1, 1, 1, 1)

    weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url="https://example.invalid/models/alexnet-0.pth"))
    parts = {"lpips": {"LPIPS": LPIPS}, "torchvision": {}, "torchvision.models": {"AlexNet_Weights": weights}}
    for name, content in parts.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    perceptual._network.cache_clear()
    yield tmp_path / "checkpoints" / "alexnet-0.pth", made
    perceptual._network.cache_clear()


BLACK, GREY = np.zeros((64, 80, 3), np.uint8), np.full((64, 80, 3), 51, np.uint8)


def test_without_its_weights_on_the_disk_nothing_is_made_that_would_fetch_them(installed):
    _, made = installed
    assert perceptual.lpips(BLACK, GREY) is None
    assert made == []


def test_with_them_pictures_go_in_between_minus_one_and_one(installed):
    weights, made = installed
    weights.parent.mkdir()
    weights.touch()
    assert perceptual.lpips(BLACK, GREY) == pytest.approx(51 / 127.5)
    assert perceptual.lpips(BLACK, BLACK) == 0
    assert made == ["alex"]  # once
    assert perceptual.lpips(BLACK[:63], GREY[:63]) is None


def test_without_the_package_there_is_none(monkeypatch):
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    perceptual._network.cache_clear()
    assert perceptual.lpips(BLACK, GREY) is None
    perceptual._network.cache_clear()
