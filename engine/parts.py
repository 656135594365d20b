"""What a student is built of: its arguments, and custom networks. What does not fit is refused here.

    from egodistill.engine import parts

    network = parts.build_part(MyEncoder)                    # or an instance, or a function that returns one

`student.EgoDistill` asks this module before it builds anything, so that no weights are downloaded in vain. A copy of
student.py alone does not ask.
"""

from __future__ import annotations

import inspect
import numbers
import re
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..recordings.spec import MAX_CLIP
from ..support.defaults import MAX_TOLERANCE, SAMPLING, UNSURE
from . import image_encoders
from .spectrum import IMUSpectrum

__all__ = ["HANDCRAFTED_ENCODERS", "build_part", "custom_network", "handcrafted_encoder", "require_arguments"]

MAX_SIZE = 1 << 17  # classes, frames, pixels, samples, ...: a number beyond it is an error
MAX_DEPTH = 1000  # layers of the fusion network
HANDCRAFTED_ENCODERS = ("spectrum", "filterbank", "filterbank-unsure")  # IMU encoders without weights


def require_arguments(given: Mapping[str, Any], resnets: Collection[str]) -> None:
    """Raise ValueError unless a student can have these arguments of `EgoDistill`; `resnets` are networks it builds."""
    a = SimpleNamespace(**given)
    if a.imu_vector not in ("flatten", "mean"):
        raise ValueError(f"imu_vector must be 'flatten' or 'mean', not {a.imu_vector!r}")
    if a.aggregator not in ("gru", "concat"):
        raise ValueError(f"aggregator must be 'gru' or 'concat', not {a.aggregator!r}")
    _require_sizes(a)
    if a.sampling not in SAMPLING:
        raise ValueError(f"sampling={a.sampling!r} must be one of {', '.join(SAMPLING)}")
    if not isinstance(a.imu_axes, str):
        raise ValueError(f"imu_axes={a.imu_axes!r} must be a name, such as 'gopro'")
    if not 0 <= a.tolerance <= MAX_TOLERANCE or (a.tolerance and not a.exact):  # NaN: False
        raise ValueError(
            f"tolerance={a.tolerance!r} must be from 0 to {MAX_TOLERANCE}, and 0 for key frames (exact=False)"
        )
    if a.class_names is not None and len(a.class_names) != a.num_classes:
        raise ValueError(f"{len(a.class_names)} class names for num_classes={a.num_classes}")
    _require_encoders(a, resnets)


def _require_sizes(a: SimpleNamespace) -> None:
    for name, value in (("imu_rate", a.imu_rate), ("clip_seconds", a.clip_seconds)):
        if not 0 < value <= MAX_SIZE:  # NaN: False
            raise ValueError(f"{name}={value!r} must be above 0 and at most {MAX_SIZE}")
    samples = max(1, round(a.imu_rate * a.clip_seconds)) if a.imu_samples is None else a.imu_samples
    sizes = {"num_classes": a.num_classes, "feature_dim": a.feature_dim, "hidden": a.hidden, "imu_width": a.imu_width}
    sizes |= {"imu_samples": samples, "num_frames (--num-frames)": a.num_frames}
    sizes |= {} if a.frame_size is None else {"frame_size": a.frame_size}
    for name, size in sizes.items():
        if not (isinstance(size, numbers.Integral) and 1 <= size <= MAX_SIZE):
            raise ValueError(f"{name} must be a whole number, at least 1 and at most {MAX_SIZE}; got {size!r}")
    if not (isinstance(a.fusion_layers, numbers.Integral) and 0 <= a.fusion_layers <= MAX_DEPTH):
        raise ValueError(f"fusion_layers={a.fusion_layers!r} must be a whole number, at most {MAX_DEPTH}")
    if a.num_frames * (a.frame_size or 1) ** 2 > MAX_CLIP:
        raise ValueError(f"num_frames={a.num_frames} (--num-frames) of frame_size={a.frame_size} pixels are too large")


def _require_encoders(a: SimpleNamespace, resnets: Collection[str]) -> None:
    image, imu = a.image_encoder, a.imu_encoder
    if image is None and imu is None:
        raise ValueError("a student needs image_encoder (--image-encoder), imu_encoder (--imu-encoder) or both")
    weightless = a.image_weights is None or (isinstance(a.image_weights, str) and a.image_weights == "imagenet")
    if image is None and not (a.num_frames == 1 and weightless):
        frames = "num_frames (--num-frames) and image_weights (--image-weights) are for frames"
        raise ValueError(f"{frames}, which image_encoder=None (--image-encoder none) does not read")
    if a.optional_inputs and (image is None or imu is None or imu == "filterbank-unsure"):
        raise ValueError(
            "optional_inputs (--optional-inputs) is for a student of frames and head motion, either of which may be "
            "missing, that is never unsure"
        )
    if isinstance(image, str) and image not in resnets and not re.fullmatch(r"resnet10x[1-9]\d*", image):
        _require_image_encoder(image, a.frame_size)
    if isinstance(imu, str) and imu != "cnn":
        _require_handcrafted(a)


def _require_image_encoder(name: str, frame_size: int | None) -> None:
    if name not in image_encoders.IMAGE_ENCODERS:
        reason = "it is not one of the tested classification networks of torchvision"
        reason = image_encoders.UNFIT_ENCODERS.get(name, reason)
        reason = "FILE.py:NAME is for commands, in Python give the class itself" if ":" in name else reason
        raise ValueError(
            f"image_encoder={name!r} (--image-encoder) cannot be used: {reason}. Give 'resnet18', "
            f"'mobilenet_v3_large' or another (engine.image_encoders.IMAGE_ENCODERS lists all), or 'resnet10xW', 10 "
            f"layers of width W"
        )
    side, *_ = image_encoders.preprocessing(name)
    if name.startswith("vit_") and frame_size not in (None, side):
        raise ValueError(
            f"image_encoder={name!r} (--image-encoder) needs {side}-pixel frames; got frame_size={frame_size}"
        )


def _require_handcrafted(a: SimpleNamespace) -> None:
    imu, names = a.imu_encoder, a.class_names
    if imu not in HANDCRAFTED_ENCODERS:
        raise ValueError(
            f"imu_encoder={imu!r} (--imu-encoder) must be 'cnn', {', '.join(map(repr, HANDCRAFTED_ENCODERS))}, a "
            f"network of your own, or None for frames alone"
        )
    if a.imu_vector != "flatten":
        raise ValueError(f"imu_vector='mean' (--imu-vector) is for a map over time; a {imu} has none")
    if imu == "filterbank-unsure" and (a.num_classes < 2 or names is None or names[-1] != UNSURE):
        raise ValueError(
            "imu_encoder='filterbank-unsure' needs class_names, two or more, the last of which is 'unsure': "
            "class_names=[*store.class_names, 'unsure']"
        )


def handcrafted_encoder(name: str, samples: int, rate: float, signed: bool, num_classes: int) -> nn.Module:
    """Return the IMU encoder without weights of this name; `signed` and "unsure" are for a filterbank."""
    if name == "spectrum":
        return IMUSpectrum(samples, rate)
    from .filterbank import IMUFilterbank

    known = num_classes - 1 if name == "filterbank-unsure" else 0
    return IMUFilterbank(samples, rate, signed=signed, known=known)


# ---------------------------------------------------------------------------------------------------------------
# Networks of one's own


def custom_network(
    name: str, part: Any, inputs: Sequence[Tensor | None], shapes: Sequence[tuple[int | str, ...]]
) -> tuple[nn.Module, Tensor]:
    """Return the network of an argument, and what it returns for two clips.

    Raise ValueError if it is none, fails, or returns none of the shapes behind [2], such as ("d",) for [2, any].
    """
    network = build_part(part)
    what = f"{name}={type(network).__name__}"
    given = ", ".join("None" if value is None else _shape(value) for value in inputs)
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            found = network.eval()(*inputs)
    except Exception as error:  # a network can raise any error
        raise ValueError(f"{what} fails for {given} ({type(error).__name__}: {error})") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    size = [*found.shape] if isinstance(found, Tensor) and found.is_floating_point() else []
    if not any(len(size) == 1 + len(shape) and all(map(_fits, size, (2, *shape))) for shape in shapes):
        wanted = " or ".join(f"[2, {', '.join(map(str, shape))}]" for shape in shapes)
        got = _shape(found) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(f"{what} must return float {wanted} for {given}; it returned {got}")
    return network, found


def build_part(part: Any) -> nn.Module:
    """Return a network of one's own: an instance, or what its class builds. Raise ValueError if there is none."""
    if not (isinstance(part, nn.Module) or callable(part)):
        raise ValueError(f"{part!r} is no network: give one, or its class; in commands, FILE.py:NAME")
    try:
        if not isinstance(part, nn.Module):
            inspect.signature(part).bind()
    except TypeError as error:
        raise ValueError(
            f"{getattr(part, '__name__', part)} cannot be built without arguments ({error}); give a network that is "
            f"built, or a function without arguments that returns it"
        ) from error
    network = part if isinstance(part, nn.Module) else part()
    if not isinstance(network, nn.Module):
        what, given = getattr(part, "__name__", repr(part)), type(network).__name__
        raise ValueError(f"{what} is no network: it gives a {given}, and must give a torch.nn.Module")
    return network


def _fits(size: int, wanted: int | str) -> bool:
    """Return whether the size of a dimension is the wanted one; a name is for any size."""
    return isinstance(wanted, str) or size == wanted


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
