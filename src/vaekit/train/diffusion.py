"""Training a text-to-image latent diffusion model in miniature, on pictures with names.

The parts are those of Stable Diffusion (Rombach et al. 2022), from diffusers and
transformers: a CLIP-type text encoder, here trained with the rest, a UNet with
cross-attention, and the latents of a VAE. The network predicts v (Salimans and
Ho 2022, "Progressive Distillation").
"""

from __future__ import annotations

import hashlib
import logging
import string
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from vaekit.errors import FileError
from vaekit.files import atomic_write
from vaekit.loading import load
from vaekit.train.captions import HUES, Captioned, phrase, read_captions, recolour, without_colour
from vaekit.train.run import Losses, Phase, Recipe, Run
from vaekit.vae import VAE

log = logging.getLogger("vaekit")

TIMESTEPS, BETAS = 1000, (0.00085, 0.012)
SCHEDULER = {
    "num_train_timesteps": TIMESTEPS,
    "beta_start": BETAS[0],
    "beta_end": BETAS[1],
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion's noise, for any of diffusers' schedulers."""

START, END = "<|startoftext|>", "<|endoftext|>"


class TextNetwork(BaseModel):
    """The text encoder: a CLIPTextModel for so many tokens, with this width and depth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: PositiveInt = 32
    width: PositiveInt = 192
    layers: PositiveInt = 3
    heads: PositiveInt = 6


class DiffusionRecipe(Recipe):
    """Stable Diffusion's parts, each as large as said here.

    start: the VAE. size: pixels. widths: of the UNet's stages; the first has no
    attention. heads: of each attention in the UNet. recolours: how many copies in another colour each picture gets.
    held_out: "colour name" that no copy and no prompt says. no_caption: share of
    the batch that trains without a prompt, for classifier-free guidance (Ho and
    Salimans 2022). vocabulary: how many tokens the tokenizer may have. Of a
    phase's crops only the count matters.
    """

    kind: Literal["diffusion"] = "diffusion"
    start: str
    size: PositiveInt = 128
    widths: tuple[PositiveInt, ...] = (96, 128, 160)
    blocks: PositiveInt = 1
    heads: PositiveInt = 4
    text: TextNetwork = TextNetwork()
    vocabulary: PositiveInt = 4096
    recolours: int = Field(default=2, ge=0)
    held_out: tuple[str, ...] = ()
    no_caption: float = Field(default=0.1, ge=0, le=1)
    ema: float = Field(default=0.999, ge=0, lt=1)


@dataclass(frozen=True)
class Batch:
    """latents: [B, C, h, w], scaled. tokens: [B, length]."""

    latents: Tensor
    tokens: Tensor


def train_tokenizer(captions: list[str], vocabulary: int, length: int, folder: Path) -> Any:
    """A CLIPTokenizer for the words of the captions, written to the folder; the same one for the same captions."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import CLIPTokenizer

    blank = CLIPTokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer, tokenizer.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    characters = sorted(set("".join(captions).lower()) - set(string.whitespace))
    trainer = trainers.BpeTrainer(
        special_tokens=[c + "</w>" for c in characters],  # else they are numbered in an order that changes
        vocab_size=vocabulary - 2,
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted({c for c in "".join(captions) if c.isascii()} | set("abcdefghijklmnopqrstuvwxyz")),
    )
    tokenizer.train_from_iterator(captions, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    _append_marks(folder / "vocab.json")
    made = CLIPTokenizer.from_pretrained(folder, model_max_length=length)
    made.save_pretrained(folder)
    return made


def _read_tokenizer(folder: Path) -> Any:
    """The tokenizer that an earlier part of the run made; None where there is none yet. Raises FileError."""
    from transformers import CLIPTokenizer

    if not (folder / "tokenizer.json").exists():
        return None
    try:
        return CLIPTokenizer.from_pretrained(folder)
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FileError(f"{folder}: not the tokenizer of a run ({reason}); take another --run folder") from error


def _append_marks(path: Path) -> None:
    """CLIP's two special tokens come last: the end of the text is the highest number."""
    import json

    vocabulary = json.loads(path.read_text("utf-8"))
    for mark in (START, END):
        vocabulary[mark] = len(vocabulary)
    path.write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")


class LatentPictures:
    """Captioned pictures and their recoloured copies, encoded once and kept in the run's folder."""

    def __init__(self, folder: Path, recipe: DiffusionRecipe, cache: Path):
        originals = read_captions(folder, recipe.size)
        rng = np.random.default_rng(recipe.seed)
        held_out = frozenset(recipe.held_out)
        originals = [_unnamed(one, held_out) for one in originals]
        copies = [copy for one in originals for copy in _copies(one, recipe.recolours, held_out, rng)]
        self.entries = originals + copies
        self.originals = len(originals)
        self.latents = _encoded(self.entries, load(recipe.start, dtype="float32"), cache / "latents.safetensors")
        self.tokenizer = _read_tokenizer(cache / "tokenizer") or train_tokenizer(
            [phrase(one, rng, recoloured=False) for one in originals for _ in range(8)],
            recipe.vocabulary,
            recipe.text.tokens,
            cache / "tokenizer",
        )
        self.no_caption = recipe.no_caption

    def tokens(self, prompts: list[str]) -> Tensor:
        given = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        return torch.as_tensor(given.input_ids)

    def draw(self, phase: Phase, rng: np.random.Generator) -> Batch:
        """As many pictures as the phase says, half of them in their own colours at least."""
        count = phase.crops[0][1]
        copies = len(self.entries) - self.originals
        use_copy = (rng.random(count) < 0.4) if copies else np.zeros(count, bool)
        picks = np.where(
            use_copy,
            self.originals + rng.integers(max(copies, 1), size=count),
            rng.integers(self.originals, size=count),
        )
        prompts = [
            "" if rng.random() < self.no_caption else phrase(self.entries[i], rng, recoloured=i >= self.originals)
            for i in picks
        ]
        return Batch(self.latents[picks].float(), self.tokens(prompts))


def _unnamed(one: Captioned, held_out: frozenset[str]) -> Captioned:
    """The same without its colour, where naming that would say what is held out."""
    return replace(one, colour=None) if f"{one.colour} {without_colour(one.name)}" in held_out else one


def _copies(one: Captioned, count: int, held_out: frozenset[str], rng: np.random.Generator) -> list[Captioned]:
    words = [str(word) for word in rng.permutation(list(HUES))]
    copies = [copy for word in words if (copy := recolour(one, word)) is not None]
    return [copy for copy in copies if f"{copy.colour} {copy.name}" not in held_out][:count]


def _encoded(entries: list[Captioned], vae: VAE, cache: Path) -> Tensor:
    """Latents [N, C, h, w], float16, from the cache where it is of the same VAE and pictures."""
    pictures = hashlib.sha256(vae.fingerprint.vae.encode())
    for one in entries:
        pictures.update(one.picture.tobytes())
    name = pictures.hexdigest()
    if cache.exists() and name in (kept := load_file(cache)):
        return kept[name]
    log.info("encoding %d pictures", len(entries))
    batches = [entries[i : i + 16] for i in range(0, len(entries), 16)]
    latents = torch.cat([vae.encode([one.picture for one in batch]).tensor.half() for batch in batches])
    with atomic_write(cache, force=True, lasting=False) as part:
        save_file({name: latents}, part)
    return latents


class TextToLatents(nn.Module):
    """The two networks that are trained together.

    Attention is plain matrix products: the fused kernel's backward takes a third of a step on CPUs at these sizes.
    """

    def __init__(self, recipe: DiffusionRecipe, tokenizer: Any):
        from diffusers import UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        text, stages = recipe.text, len(recipe.widths)
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=text.width,
                intermediate_size=4 * text.width,
                projection_dim=text.width,
                num_hidden_layers=text.layers,
                num_attention_heads=text.heads,
                max_position_embeddings=text.tokens,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        vae = load(recipe.start)
        self.unet = UNet2DConditionModel(
            sample_size=recipe.size // vae.family.downscale,
            in_channels=vae.family.latent_channels,
            out_channels=vae.family.latent_channels,
            block_out_channels=recipe.widths,
            layers_per_block=recipe.blocks,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (stages - 1)),
            up_block_types=(*["CrossAttnUpBlock2D"] * (stages - 1), "UpBlock2D"),
            cross_attention_dim=text.width,
            attention_head_dim=recipe.heads,  # diffusers' name for the number of heads
        )
        self.unet.set_attn_processor(AttnProcessor())

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """noisy: [B, C, h, w]; timesteps: [B]; tokens: [B, length] -> v, [B, C, h, w]."""
        told = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, told).sample


class DiffusionRun(Run):
    """Latents and prompts in, v out."""

    model: TextToLatents
    average: TextToLatents
    recipe: DiffusionRecipe

    def __init__(self, recipe: DiffusionRecipe, tokenizer: Any, device: torch.device):
        self.tokenizer = tokenizer
        super().__init__(recipe, device)
        betas = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, TIMESTEPS) ** 2
        self.kept = torch.cumprod(1 - betas, dim=0).to(device)

    def build(self) -> nn.Module:
        torch.manual_seed(self.recipe.seed)
        return TextToLatents(self.recipe, self.tokenizer)

    def muon_parameters(self, trained: list[nn.Parameter]) -> list[nn.Parameter]:
        """All matrices between embeddings and outputs, those of linear layers too."""
        apart = {
            id(p)
            for name, p in self.model.named_parameters()
            if "embedding" in name or "conv_in" in name or "conv_out" in name
        }
        return [p for p in trained if p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 32 and id(p) not in apart]

    def loss(self, batch: Batch) -> tuple[Tensor, Losses]:
        x = batch.latents.to(self.device, memory_format=self.layout)
        noise = torch.randn(x.shape, generator=self.noise).to(x)
        steps = torch.randint(len(self.kept), (len(x),), generator=self.noise).to(self.device)
        kept = self.kept[steps].view(-1, 1, 1, 1)
        noisy, v = kept.sqrt() * x + (1 - kept).sqrt() * noise, kept.sqrt() * noise - (1 - kept).sqrt() * x
        with self.autocast():
            out = self.model(noisy, steps, batch.tokens.to(self.device))
        return functional.mse_loss(out.float(), v), {}
