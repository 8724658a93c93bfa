"""A text-to-image model ready to draw: UNet, text encoders, tokenizers, and the noise it was trained with.

From a checkpoint in a single file, a folder in the layout of diffusers, or the
hub. Nothing is unpickled freely, and nothing is fetched for a file that is here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checkpoints.pipelines import shape_of_unet, unet_name
from vaekit.checkpoints.sources import Source, open_source
from vaekit.checkpoints.texts import find_texts, read_text
from vaekit.engine.placement import Dtype, parse_dtype, place
from vaekit.errors import FileError, OptionError
from vaekit.generate.architectures import Architecture, in_folder, published

log = logging.getLogger("vaekit")

UNET = "model.diffusion_model."
ATTENTION_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Of the text that the UNet listens to: what tells the published models apart."""
REFINER_WIDTH = 1280
REFINER = "the refiner of SDXL, which goes on with what SDXL has begun; vaekit draws with SDXL itself"
FIRST = UNET + "input_blocks.0.0.weight"
"""Of a UNet's tensors: its shape tells how many channels the UNet takes."""

PREDICTIONS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
UNET_WEIGHTS = tuple(
    "diffusion_pytorch_model" + end
    for end in (".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".bin", ".fp16.bin")
)
TEXT_WEIGHTS = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin")


@dataclass(eq=False)
class Model:
    """What draws latents. path: the checkpoint's file or folder; device and dtype: where and in what it runs."""

    name: str
    path: Path
    architecture: Architecture
    unet: Any
    texts: tuple[Any, ...]
    device: torch.device
    dtype: torch.dtype
    scheduler: dict[str, Any] = field(default_factory=dict)

    @property
    def is_xl(self) -> bool:
        return self.architecture.is_xl

    @property
    def channels(self) -> int:
        """Of the latents."""
        return int(self.unet.config.out_channels)

    @property
    def inpaints(self) -> bool:
        """Whether its UNet is shown a mask, and the latents of what that leaves, beside the latents."""
        return int(self.unet.config.in_channels) == 2 * self.channels + 1

    @property
    def side(self) -> int:
        """Cells of the latents on each side of the pictures it was trained on."""
        size = self.unet.config.sample_size
        return int(size if isinstance(size, int) else max(size))


def load_model(
    path: Path,
    *,
    name: str | None = None,
    config: Path | None = None,
    prediction: str | None = None,
    device: str | torch.device = "auto",
    dtype: Dtype | None = None,
) -> Model:
    """Load a checkpoint's file, or a diffusers folder, for drawing.

    config: a diffusers folder that tells a single file's networks and tokenizer,
    where they are not those of SD 1.x, 2.x or SDXL. prediction: "epsilon" or "v",
    where the file does not tell. dtype: float32 on a CPU, float16 on a GPU.

    Raises FileError (broken, parts missing, of another kind), UnsafeFileError,
    OptionError, ResourceError.
    """
    where = place(device).device
    runs_in = parse_dtype(dtype) if dtype else torch.float16 if where.type == "cuda" else torch.float32
    if path.is_dir():
        if config is not None:
            raise OptionError(f"{path}: a folder has its own configuration; --config is for single files")
        model = _from_folder(path, name or path.name, where, runs_in)
    else:
        model = _from_file(path, name or path.stem, config, where, runs_in)
    model.scheduler |= {"prediction_type": _prediction(model, prediction)}
    if model.unet.config.in_channels != model.channels and not model.inpaints:
        few, many = model.channels, 2 * model.channels + 1
        raise FileError(
            f"{path}: a model whose UNet takes {model.unet.config.in_channels} channels; vaekit draws with those that "
            f"take {few}, or {many} for inpainting"
        )
    size = sum(p.numel() for network in (model.unet, *model.texts) for p in network.parameters())
    log.info(
        "%s: %s, %.0f M parameters beside the VAE, predicts %s; on %s, %s",
        model.name,
        model.architecture.title,
        size / 1e6,
        {"epsilon": "noise", "v_prediction": "v"}.get(model.scheduler["prediction_type"], "pictures"),
        where,
        str(runs_in).removeprefix("torch."),
    )
    return model


def _prediction(model: Model, asked: str | None) -> str:
    if asked is None:
        return str(model.scheduler.get("prediction_type", "epsilon"))
    if asked not in PREDICTIONS:
        raise OptionError(f"no prediction is called {asked!r}; there are epsilon and v")
    return PREDICTIONS[asked]


# A diffusers folder


def _from_folder(folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> Model:
    architecture = in_folder(folder)
    if architecture.unet.get("cross_attention_dim") == REFINER_WIDTH and architecture.is_xl:
        raise FileError(f"{folder}: {REFINER}")

    def unet_state(names: Iterable[str]) -> dict[str, Tensor]:
        return _plain_state(folder / "unet", UNET_WEIGHTS, names)

    unet = _built(lambda: _unet(architecture), unet_state, device, dtype, folder)
    texts = []
    for number, part in enumerate(("text_encoder", "text_encoder_2")[: len(architecture.texts)]):

        def text_state(names: Iterable[str], part: str = part) -> dict[str, Tensor]:
            return _plain_state(folder / part, TEXT_WEIGHTS, names)

        texts.append(_built(lambda n=number: _text(architecture, n), text_state, device, dtype, folder))  # type: ignore[misc]
    return Model(name, folder, architecture, unet, tuple(texts), device, dtype, dict(architecture.scheduler))


def _plain_state(folder: Path, files: Iterable[str], names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors under the names that the class has now; transformers wrote a text encoder's with and without prefix."""
    weights = next((folder / file for file in files if (folder / file).exists()), None)
    if weights is None:
        raise FileError(f"{folder}: no weights in it")
    source = open_source(weights)
    theirs = {}
    for name in names:
        spellings = (name, f"text_model.{name}", name.removeprefix("text_model."))
        found = next((spelling for spelling in spellings if spelling in source.tensors), None)
        if found is None:
            raise FileError(f"{weights}: has no {name}, which its config.json asks for")
        theirs[name] = found
    loaded = source.load(theirs.values())
    return {name: loaded[there] for name, there in theirs.items()}


# A single file


def _from_file(path: Path, name: str, config: Path | None, device: torch.device, dtype: torch.dtype) -> Model:
    source = open_source(path)
    prefixes = find_texts(source.tensors)
    if not any(key.startswith(UNET) for key in source.tensors) or not prefixes:
        raise FileError(f"{path}: no checkpoint of SD 1.x, 2.x or SDXL: it lacks a UNet or a text encoder")
    architecture = in_folder(config) if config is not None else _recognised(path, source, prefixes)
    if len(prefixes) != len(architecture.texts):
        raise FileError(
            f"{path}: {len(prefixes)} text encoders in it, {architecture.title} has {len(architecture.texts)}"
        )

    def unet_state(names: Iterable[str]) -> dict[str, Tensor]:
        return _unet_state(source, architecture, names)

    unet = _built(lambda: _unet(architecture), unet_state, device, dtype, path)
    texts = []
    for number, prefix in enumerate(prefixes):

        def text_state(names: Iterable[str], prefix: str = prefix) -> dict[str, Tensor]:
            return read_text(source, names, prefix)

        texts.append(_built(lambda n=number: _text(architecture, n), text_state, device, dtype, path))  # type: ignore[misc]
    scheduler = dict(architecture.scheduler) | _told_prediction(source)
    return Model(name, path, architecture, unet, tuple(texts), device, dtype, scheduler)


def _recognised(path: Path, source: Source, prefixes: list[str]) -> Architecture:
    """Which published model it is, by the width of the text that its UNet listens to."""
    widths = {info.shape[-1] for key, info in source.tensors.items() if key.endswith(".attn2.to_k.weight")}
    found = ATTENTION_WIDTHS.get(next(iter(widths), 0)) if len(widths) == 1 else None
    if widths == {REFINER_WIDTH}:
        raise FileError(f"{path}: {REFINER}")
    if found is None or (found == "sdxl") != (len(prefixes) == 2):
        raise FileError(
            f"{path}: its UNet is that of no model whose configuration vaekit has (SD 1.x, SD 2.x, SDXL); "
            "name a diffusers folder that has it: --config FOLDER"
        )
    return _taking(published(found), source.tensors[FIRST].shape[1] if FIRST in source.tensors else 4)


def _taking(architecture: Architecture, channels: int) -> Architecture:
    """The same whose UNet takes that many; the inpainting model of SD 2 predicts noise, unlike its sibling."""
    if channels == 4:
        return architecture
    return replace(
        architecture,
        title=f"{architecture.title} for inpainting",
        unet={**architecture.unet, "in_channels": channels},
        scheduler={**architecture.scheduler, "prediction_type": "epsilon"},
    )


def _told_prediction(source: Source) -> dict[str, Any]:
    """What the file itself tells of how it was trained: modelspec's metadata, or the marks of NoobAI's kind."""
    told = PREDICTIONS.get(source.metadata.get("modelspec.prediction_type", ""))
    if told is None and "v_pred" in source.tensors:
        told = "v_prediction"
    rescaled = {"rescale_betas_zero_snr": True} if "ztsnr" in source.tensors else {}
    return rescaled | ({"prediction_type": told} if told else {})


def _unet_state(source: Source, architecture: Architecture, names: Iterable[str]) -> dict[str, Tensor]:
    blocks, attention_up = shape_of_unet({"layers_per_block": 2, **architecture.unet})
    theirs = {name: UNET + unet_name(name, blocks, attention_up) for name in names}
    missing = next((there for there in theirs.values() if there not in source.tensors), None)
    if missing:
        raise FileError(
            f"it has no {missing}, which the UNet of {architecture.title} needs; another model? --config FOLDER"
        )
    loaded = source.load(theirs.values())
    return {name: loaded[there] for name, there in theirs.items()}


# Networks


def _unet(architecture: Architecture) -> nn.Module:
    from diffusers import UNet2DConditionModel

    network: nn.Module = UNet2DConditionModel.from_config(dict(architecture.unet))
    return network


def _text(architecture: Architecture, number: int) -> nn.Module:
    import transformers

    kind, config = architecture.texts[number]
    network: nn.Module = getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
    return network


def _built(
    build: Callable[[], nn.Module],
    read: Callable[[Iterable[str]], Mapping[str, Tensor]],
    device: torch.device,
    dtype: torch.dtype,
    path: Path,
) -> Any:
    """A network with the weights that `read` gives for the names of its tensors, each checked for its shape."""
    try:
        with torch.device("meta"):
            network = build()
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:
        raise FileError(
            f"{path}: a configuration that fits no network ({' '.join(str(error).split())[:160]})"
        ) from error
    expected = network.state_dict()
    try:
        state = read(expected)
    except FileError as error:
        text = str(error)
        raise FileError(text if text.startswith(("/", str(path))) else f"{path}: {text}") from error
    for name, tensor in state.items():
        if tensor.numel() != expected[name].numel():
            raise FileError(
                f"{path}: {name} is {list(tensor.shape)}, and {list(expected[name].shape)} by the configuration; "
                "another model? --config FOLDER"
            )
    ready = {name: t.reshape(expected[name].shape).to(device, dtype) for name, t in state.items()}
    network.load_state_dict(ready, assign=True)
    _count_positions(network, device)
    return network.eval().requires_grad_(False)


def _count_positions(network: nn.Module, device: torch.device) -> None:
    """The one thing that no file holds: which position is which, in text encoders."""
    for module in network.modules():
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                if name != "position_ids":
                    raise OptionError(f"a network with a {name} that vaekit does not know")
                module._buffers[name] = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
