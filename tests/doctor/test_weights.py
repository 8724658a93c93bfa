"""Broken weights, and layers against float16's limit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from checkpoints.making import TINY, kl_state, numbered, save_safetensors, save_torch, tiny_state
from checkpoints.whole import checkpoint
from conftest import SMALL_KL, random_state
from torch import Tensor

from vaekit.checkpoints.read import Weights, read
from vaekit.doctor.samples import run_samples
from vaekit.doctor.weights import FLOAT16_MAX, check_activations, check_weights, measure_activations, watch
from vaekit.engine.half import Half
from vaekit.errors import FileError, NotAVAEError
from vaekit.families import family
from vaekit.networks.kl import KL

CPU = torch.device("cpu")
LAYER = "decoder.up.1.block.0.conv1"


def loud(factor: float, layer: str = LAYER) -> dict[str, Tensor]:
    """A VAE that decodes as before, though one layer gives `factor` times as much: the norm after it takes it back."""
    state = dict(random_state(SMALL_KL))
    for name in (f"{layer}.weight", f"{layer}.bias"):
        state[name] = state[name] * factor
    return state


def as_read(state: dict[str, Tensor], folder: Path) -> Weights:
    return read(save_safetensors(state, folder / "vae.safetensors"))


def test_a_sound_vae_has_no_broken_weights(tmp_path: Path) -> None:
    assert check_weights(save_safetensors(kl_state(), tmp_path / "vae.safetensors")) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_broken_weights_are_told_with_tensor_and_count(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    state = {name: tensor.to(dtype) for name, tensor in kl_state().items()}
    state["decoder.conv_in.weight"][0, 0, 0, :2] = value
    (finding,) = check_weights(save_torch(state, tmp_path / "vae.pt"))
    assert (finding.fault, finding.where, finding.sure) == ("broken-weights", "decoder.conv_in.weight", "certain")
    count = state["decoder.conv_in.weight"].numel()
    assert finding.what == f"2 of {count:,} weights are NaN or infinite"


def test_only_the_vae_of_a_checkpoint_is_looked_at(tmp_path: Path) -> None:
    """The rest of this one is full of NaN."""
    state = dict(random_state(SMALL_KL))
    assert check_weights(checkpoint(tmp_path / "sound.safetensors", state)) == []
    state["encoder.conv_out.bias"] = state["encoder.conv_out.bias"] * math.nan
    (finding,) = check_weights(checkpoint(tmp_path / "broken.safetensors", state))
    assert finding.where == "first_stage_model.encoder.conv_out.bias"


def test_both_files_of_a_pair_are_looked_at(tmp_path: Path) -> None:
    state = tiny_state()
    state["decoder.1.bias"][0] = math.nan
    for half in ("encoder", "decoder"):
        save_torch(numbered(state, half), tmp_path / f"taesd_{half}.pth")
    (finding,) = check_weights(tmp_path)
    assert finding.where == "1.bias"


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    cut = save_safetensors(kl_state(), tmp_path / "cut.safetensors")
    cut.write_bytes(cut.read_bytes()[:-100])  # still being downloaded
    with pytest.raises(FileError, match="truncated"):
        check_weights(cut)
    with pytest.raises(NotAVAEError):
        check_weights(save_safetensors({"lora_unet.alpha": torch.ones(1)}, tmp_path / "lora.safetensors"))


def test_watching_tells_every_layer_and_changes_nothing() -> None:
    network = KL(SMALL_KL).eval()
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network.decode(z)
        with watch(network) as peaks:
            during = network.decode(z)
            network.decode(z / 2)
        largest = {name: peaks[name] for name in peaks}
        network.decode(1000 * z)
        outputs = [network.decode(z), network.decode(z / 2)]
        assert network.decoder is not None and network.post_quant_conv is not None
        first = network.decoder.conv_in(network.post_quant_conv(z))
    assert torch.equal(before, during)
    assert largest == peaks, "the hooks are still there"
    assert set(peaks) == {n for n, _ in network.named_modules() if n.startswith(("decoder", "post_quant_conv"))} - {
        name for name, module in network.named_modules() if isinstance(module, torch.nn.ModuleList)
    }
    assert peaks["decoder.conv_in"] >= float(first.abs().max())
    assert peaks["decoder"] == pytest.approx(max(float(output.abs().max()) for output in outputs))
    assert list(peaks)[:2] == ["post_quant_conv", "decoder.conv_in"]


def test_a_layer_beyond_float16_is_named_with_its_factor(tmp_path: Path, small_photos: list[Path]) -> None:
    samples = run_samples(as_read(loud(1e7), tmp_path), CPU)
    (finding,) = check_activations(samples.peaks, [family("sd1")])
    assert (finding.fault, finding.where, finding.sure) == ("float16-overflow", LAYER, "certain")
    factor = samples.peaks[LAYER] / FLOAT16_MAX
    assert finding.what == f"overflows in float16 at {LAYER}, {factor:.3g} times its limit"
    assert "bfloat16" in finding.advice
    assert "fixed" not in finding.advice
    measured = measure_activations(samples.peaks)
    assert measured["worst_layer"] == LAYER
    assert measured["of_float16"] == pytest.approx(factor)
    assert measured["layers"]["decoder.conv_in"] < 100


def test_what_is_told_to_overflow_does_and_what_is_not_does_not(tmp_path: Path, small_photos: list[Path]) -> None:
    for factor, overflows in ((1.0, False), (1e7, True)):
        weights = as_read(loud(factor), tmp_path)
        told = check_activations(run_samples(weights, CPU).peaks, [])
        half = Half("decode", weights.identity.config, weights.state, dtype=torch.float16, device=CPU)
        half.decode(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
        assert (half.dtype == torch.float32) == overflows
        assert bool(told) == overflows


def test_the_fixed_vae_is_named_where_it_may_be_sdxl() -> None:
    (finding,) = check_activations({"decoder.mid": 1e6}, [family("sd1"), family("sdxl")])
    assert "sdxl-vae-fp16-fix" in finding.advice


def test_the_first_and_the_worst_layer_are_told_apart() -> None:
    (finding,) = check_activations({"a": 1.0, "b": 1e5, "c": 1e6, "d": 2e5}, [])
    assert finding.where == "b"
    assert "at b first and most at c" in finding.what


def test_near_the_limit_is_possible_and_far_below_nothing() -> None:
    (finding,) = check_activations({"a": 40_000.0}, [])
    assert finding.sure == "possible"
    assert check_activations({"a": 30_000.0}, []) == []


def test_nan_in_float32_is_a_fault_of_its_own(tmp_path: Path, small_photos: list[Path]) -> None:
    """Weights that are finite and still too large for float32."""
    state = dict(random_state(SMALL_KL))
    last = state["decoder.conv_out.weight"]
    state["decoder.conv_out.weight"] = last / last.abs().max() * 3e38
    samples = run_samples(as_read(state, tmp_path), CPU)
    (finding,) = check_activations(samples.peaks, [])
    assert (finding.fault, finding.where) == ("broken-output", "decoder.conv_out")
    assert samples.decoded == []
    assert measure_activations(samples.peaks)["of_float16"] is None


def test_an_encoder_alone_is_measured_as_far_as_it_goes(tmp_path: Path, small_photos: list[Path]) -> None:
    encoder = {name: tensor for name, tensor in tiny_state().items() if name.startswith("encoder.")}
    samples = run_samples(as_read(encoder, tmp_path), CPU)
    assert samples.decoded == []
    assert "encoder.0" in samples.peaks
    assert TINY.has_decoder
