"""The ways to run one direction of a VAE, each made from the same weights."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.bench.subject import FAMILY, Subject
from vaekit.checkpoints.arrange import arrange
from vaekit.checkpoints.folder import diffusers_config
from vaekit.engine.fast import openvino
from vaekit.engine.half import Half
from vaekit.engine.placement import Engine, Quality, computes_in_bfloat16, place
from vaekit.errors import OptionError
from vaekit.networks.config import KLConfig

CPU = torch.device("cpu")
INT8 = "vaekit, int8"
Runs = Callable[[Tensor], Tensor]
"""The input in float32 to the result in float32."""


@dataclass(frozen=True)
class Peer:
    """One way. make: gets it ready. slow: takes minutes to get ready, so that a quick run leaves it out.

    half: computes in bfloat16 in PyTorch, which takes minutes where the processor does not.
    """

    name: str
    make: Callable[[Subject], Runs]
    slow: bool = False
    half: bool = False


def installed(subject: Subject, device: torch.device, *, quick: bool) -> tuple[list[Peer], list[str]]:
    """Those that can run there, vaekit's default first, then diffusers as people use it; and who is missing, why."""
    missing = ["stable-diffusion.cpp: its Python package runs whole models and no VAE alone"]
    peers = [Peer("vaekit", lambda one: runs(half(one, device)))]
    peers += [Peer("vaekit, reference", lambda one: runs(half(one, device, "reference")))] if not quick else []
    if subject.ranges is not None:
        peers.append(Peer(INT8, lambda one: runs(half(one, device, quality="fast"))))
    try:
        diffusers_config(subject.config, FAMILY)
    except OptionError as error:
        return peers, [*missing, f"diffusers and all that is made from it: {error}"]
    found, lacking = _on_cpu() if device.type == "cpu" else _on_gpu(device)
    return [peer for peer in (*peers, *found) if not (quick and peer.slow)], [*missing, *lacking]


def half_precision(device: torch.device) -> torch.dtype:
    """What a device computes in faster than in float32."""
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if emulated else torch.bfloat16


def _on_gpu(device: torch.device) -> tuple[list[Peer], list[str]]:
    dtype = half_precision(device)
    name = str(dtype).removeprefix("torch.")
    peers = [
        Peer("diffusers float32", lambda one: _diffusers(one, torch.float32, device, last=False)),
        Peer(f"diffusers {name}", lambda one: _diffusers(one, dtype, device, last=False)),
        Peer(f"diffusers {name} channels_last", lambda one: _diffusers(one, dtype, device)),
    ]
    if importlib.util.find_spec("triton"):
        compiled = Peer(f"diffusers {name} compiled", lambda one: _compiled(one, dtype, device), slow=True)
        return [*peers, compiled], []
    return peers, ["diffusers compiled: Triton is not installed"]


def _on_cpu() -> tuple[list[Peer], list[str]]:
    missing = []
    peers = [
        Peer("diffusers float32", lambda one: _diffusers(one, torch.float32, last=False)),
        Peer("diffusers float32 channels_last", lambda one: _diffusers(one, torch.float32)),
        Peer("diffusers bfloat16 channels_last", lambda one: _diffusers(one, torch.bfloat16), half=True),
    ]
    if shutil.which("c++") or shutil.which("g++"):
        peers += [
            Peer("diffusers float32 compiled", lambda one: _compiled(one, torch.float32), slow=True),
            Peer("diffusers bfloat16 compiled", lambda one: _compiled(one, torch.bfloat16), slow=True, half=True),
        ]
    else:
        missing.append("diffusers compiled: no C++ compiler")
    dtype = torch.bfloat16 if computes_in_bfloat16() else torch.float32
    name = f"OpenVINO {str(dtype).removeprefix('torch.')}, diffusers' graph"
    for needs, peer in (
        (("openvino",), Peer(name, lambda one: _openvino(one, dtype))),
        (("onnxruntime", "onnx"), Peer("onnxruntime float32", _onnxruntime, slow=True)),
    ):
        if all(importlib.util.find_spec(name) for name in needs):
            peers.append(peer)
        else:
            missing.append(f"{peer.name}: {' and '.join(needs)} not installed")
    return peers, missing


def half(subject: Subject, device: torch.device, engine: Engine = "auto", quality: Quality = "full") -> Half:
    """vaekit's own way: the one it picks by default, or for this engine or quality. Raises OptionError like `load`."""
    placement = place(device, engine=engine, quality=quality).suited_to(subject.config)
    dtype = placement.encode_dtype if subject.direction == "encode" else placement.decode_dtype
    return Half(
        subject.direction,
        subject.config,
        subject.state,
        dtype=dtype,
        device=placement.device,
        engine=placement.engine,
        ranges=subject.ranges if quality == "fast" else None,
    )


def runs(one: Half) -> Runs:
    """An encoder gives the mean."""
    if one.direction == "decode":
        return one.decode
    return lambda x: one.encode(x).mean


class _Direction(nn.Module):
    """One direction of diffusers' class, tensors in and out."""

    def __init__(self, subject: Subject):
        super().__init__()
        import diffusers

        config = diffusers_config(subject.config, FAMILY)
        chosen = getattr(diffusers, config["_class_name"])
        with torch.device("meta"):  # as its from_pretrained does
            self.vae = chosen.from_config({k: v for k, v in config.items() if not k.startswith("_")}).eval()
        self.vae.load_state_dict(arrange(subject.state, subject.config, "diffusers"), assign=True)
        self.vae.float()
        self.decodes, self.kl = subject.direction == "decode", isinstance(subject.config, KLConfig)
        self.tiny_encode = not self.decodes and not self.kl

    def forward(self, x: Tensor) -> Tensor:
        if self.decodes:
            return self.vae.decode(x, return_dict=False)[0]
        encoded = self.vae.encode(x, return_dict=False)[0]
        return encoded.mean if self.kl else encoded


def _diffusers(subject: Subject, dtype: torch.dtype, device: torch.device = CPU, *, last: bool = True) -> Runs:
    module = _module(subject, dtype, device, last=last)
    return lambda x: module(x.to(dtype)).float()


def _compiled(subject: Subject, dtype: torch.dtype, device: torch.device = CPU) -> Runs:
    compiled: Any = torch.compile(_module(subject, dtype, device, last=True), dynamic=False)
    return lambda x: compiled(x.to(dtype)).float()


def _module(subject: Subject, dtype: torch.dtype, device: torch.device, *, last: bool) -> Any:
    module: Any = _Direction(subject)
    module = module.to(device=device, dtype=dtype)
    return module.to(memory_format=torch.channels_last) if last else module


def _openvino(subject: Subject, dtype: torch.dtype) -> Runs:
    library = openvino.library()
    x = subject.example(64, 1)
    with warnings.catch_warnings(action="ignore"):  # of tracing, about diffusers' own checks
        traced = library.convert_model(_Direction(subject), example_input=x, input=[(-1, x.shape[1], -1, -1)])
    ready = library.Core().compile_model(traced, "CPU", {"INFERENCE_PRECISION_HINT": openvino.HINTS[dtype]})
    return lambda x: torch.from_numpy(ready(x.numpy())[0].copy())


def _onnxruntime(subject: Subject) -> Runs:
    import onnxruntime

    sizes = {0: "batch", 2: "height", 3: "width"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder) / "vae.onnx"
        torch.onnx.export(
            _Direction(subject),
            (subject.example(64, 1),),
            path,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": sizes, "y": sizes},
            dynamo=False,
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
