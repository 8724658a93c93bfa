"""A VAE read whole, or put together from the encoder of one file and the decoder of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints.making import (
    KL,
    half_of,
    in_diffusers_names,
    kl_state,
    numbered,
    save_diffusers,
    save_safetensors,
    save_torch,
    tiny_state,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from vaekit.checkpoints.read import read
from vaekit.errors import FileError, NotAVAEError
from vaekit.networks.config import KLConfig
from vaekit.networks.kl import KL as KLNetwork


@settings(max_examples=15, deadline=None)
@given(
    config=st.builds(
        KLConfig,
        latent_channels=st.integers(1, 5),
        encoder_channels=st.lists(st.sampled_from([32, 64]), min_size=2, max_size=2).map(tuple),
        decoder_channels=st.lists(st.sampled_from([32, 64]), min_size=2, max_size=2).map(tuple),
        encoder_blocks=st.integers(1, 2),
        decoder_blocks=st.integers(1, 2),
        encoder_attention=st.booleans(),
        decoder_attention=st.booleans(),
        quant_conv=st.booleans(),
        post_quant_conv=st.booleans(),
        patch_size=st.sampled_from([1, 2]),
    )
)
def test_every_configuration_is_worked_out_and_its_weights_fit(
    config: KLConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = kl_state(config=config)
    found = read(save_safetensors(state, tmp_path_factory.mktemp("k") / "vae.safetensors"))
    assert found.identity.config == config
    KLNetwork(found.identity.config).load_state_dict(dict(found.state), strict=True)


def test_tensors_keep_the_dtypes_of_the_file(tmp_path: Path) -> None:
    state = {name: t.bfloat16() if name.startswith("decoder") else t.half() for name, t in kl_state().items()}
    for path in (save_safetensors(state, tmp_path / "a"), save_torch(state, tmp_path / "b")):
        found = read(path).state
        assert all(found[name].dtype == state[name].dtype and torch.equal(found[name], state[name]) for name in state)


# Two files


def test_the_encoder_of_one_file_joins_the_decoder_of_another(tmp_path: Path) -> None:
    first, second = kl_state(1), kl_state(2)
    one = save_safetensors(first, tmp_path / "one")
    other = save_torch({f"vae.{name}": t for name, t in in_diffusers_names(second).items()}, tmp_path / "other")
    found = read(one, decoder=other)
    assert found.identity.config == KL
    for name, tensor in found.state.items():
        source = first if name.startswith(("encoder.", "quant_conv.")) else second
        assert torch.equal(tensor, source[name]), name
    assert found.state.keys() == first.keys()


def test_a_decoder_of_another_width_joins(tmp_path: Path) -> None:
    wide = KLConfig(4, (32, 32), (64, 64), 1, 1, decoder_attention=False, post_quant_conv=False)
    encoder = save_safetensors(half_of(kl_state(), "encoder"), tmp_path / "encoder")
    decoder = save_safetensors(half_of(kl_state(config=wide), "decoder"), tmp_path / "decoder")
    assert read(encoder, decoder=decoder).identity.config == wide


def test_halves_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    other_channels = KLConfig(8, (32, 32), (32, 32), 1, 2)
    encoder = save_safetensors(half_of(kl_state(), "encoder"), tmp_path / "encoder")
    decoder = save_safetensors(half_of(kl_state(), "decoder"), tmp_path / "decoder")
    eight = save_safetensors(kl_state(config=other_channels), tmp_path / "eight")
    tiny = save_torch(tiny_state(), tmp_path / "tiny")
    other_norms = save_diffusers(in_diffusers_names(kl_state()), tmp_path / "norms", {"norm_num_groups": 16})
    own = save_diffusers(in_diffusers_names(kl_state()), tmp_path / "own", {"scaling_factor": 0.3})
    another = save_diffusers(in_diffusers_names(kl_state()), tmp_path / "another", {"scaling_factor": 0.4})
    for first, second, words in (
        (decoder, encoder, "has no encoder"),
        (encoder, encoder, "has no decoder"),
        (encoder, eight, "8 channels"),
        (encoder, tiny, "a decoder"),
        (encoder, other_norms, "norms"),
        (own, another, "another latent space"),
        (encoder, tmp_path / "missing", "no such file"),
    ):
        with pytest.raises(FileError, match=words) as refused:
            read(first, decoder=second)
        assert "\n" not in str(refused.value)


def test_tiny_halves_of_two_families_are_refused(tmp_path: Path) -> None:
    encoder = save_torch(numbered(tiny_state(), "encoder"), tmp_path / "taesd_encoder.pth")
    decoder = save_torch(numbered(tiny_state(), "decoder"), tmp_path / "taesdxl_decoder.pth")
    with pytest.raises(NotAVAEError, match="another latent space"):
        read(encoder, decoder=decoder)


# Files that hold something else


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_unet_down_blocks_0.lora_up.weight", "a LoRA"),
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", "a LoRA"),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", "CLIP text encoder"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "T5 text encoder"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a UNet"),
        ("something", "no VAE in it"),
    ],
)
@pytest.mark.parametrize("container", ["safetensors", "torch"])
def test_what_is_no_vae_is_named(name: str, words: str, container: str, tmp_path: Path) -> None:
    save = save_safetensors if container == "safetensors" else save_torch
    path = save({name: torch.ones(2)}, tmp_path / "model")
    with pytest.raises(NotAVAEError, match=words) as refused:
        read(path)
    assert str(path) in str(refused.value)


def test_a_vae_with_tensors_missing_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    state = kl_state()
    for name in ("decoder.norm_out.weight", "encoder.down.0.block.0.conv1.weight", "quant_conv.bias"):
        missing = {key: tensor for key, tensor in state.items() if key != name}
        with pytest.raises(NotAVAEError):
            read(save_safetensors(missing, tmp_path / "missing"))
        with pytest.raises(NotAVAEError):
            read(save_safetensors(state | {name: state[name][:-1]}, tmp_path / "shape"))
