"""Export a student for a device: as a program, compiled or quantised; compare files with the original.

    from egodistill import EgoDistill, data, export

    model, store = EgoDistill.load("student.safetensors"), data.ClipStore("store")
    export.export(model, "student.pt2")                                              # runs with torch alone
    export.export(model, "fast.pt2", format="aoti", precision="int8", calibrate=store.split("train"))
    export.export(model, "student.onnx", format="onnx")
    for row in export.compare(model, store.split("test"), ["student.pt2", "fast.pt2", "student.onnx"]):
        print(row)
    feature, logits = export.load_exported("fast.pt2")(frames, imu)                           # a model like any other

    export.export_pair(model, "device.pt2")              # device.frame.pt2 and device.motion.pt2, for live inference
    feature, logits = export.load_pair("device.pt2")(frames, imu)

`export()` writes the whole student to one file. `export_pair()` writes two programs, for frames and IMU samples that
arrive at different times: `frame` computes the image feature of one picture, `motion` the answer from the kept image
features of a clip and its IMU samples, or from either alone if the student has `optional_inputs`. Both are stateless.

| format | content | requirements to write it |
| --- | --- | --- |
| `export` | a `torch.export` program, for all devices that torch supports | torch |
| `aoti` | machine code compiled by AOTInductor for this machine's processor; the fastest | torch 2.6, a C++ compiler |
| `onnx` | ONNX, for onnxruntime and others | torch 2.6, onnx, onnxscript (onnxruntime to run it) |

int8 is static quantisation after training of the convolutions and fully connected layers, with torchao's PT2E flow and
its quantiser for x86; the GRU of a student with several frames stays in fp32. In the format `export` an int8 file is
small but several times slower than fp32, because torch runs each rounding as a separate operation and computes in fp32;
`aoti` runs integer kernels. For a device that classifies one clip at a time, export with `batch_size=1`: weights are
then packed for the kernels of that size, which saves a tenth of the time in int8 and a fifth in fp32.

Normalisation of the frames and removal of the IMU's mean are part of the files. Everything else that the programmer of
a device needs (shapes, colour order, resizing, rate, units, class names, what to keep between calls) is in `FILE.json`
beside each, with hashes of the program and of the JSON itself. The JSON files are written last: an export without them
is incomplete. An int8 file's JSON also has the ranges of its calibration clips, and how far it is from fp32 on what
these may not have: dark pictures, noise pictures, strong head motion.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import io
import itertools
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..engine import batches, calibration, checkpoints, runtime
from ..engine.steps import differ
from ..recordings.spec import ANY_AXES, ClipSpec, spec_of
from ..student import EgoDistill, IMUEncoder, Output
from ..support import files
from ..support.defaults import EXPORT_PRECISIONS
from ..support.errors import NoteWarning, named
from ..support.version import __version__
from ..video import DRAWN
from .descriptions import (
    DESCRIPTION_FORMAT,
    KINDS,
    WHOLE,
    ExportError,
    description_of,
    instructions,
    pair_files,
    processor,
    seal,
)
from .exported import head_motion, load_exported, load_pair, picture_means, require_packages

__all__ = [
    "FORMATS",
    "Comparison",
    "ExportError",
    "compare",
    "export",
    "export_pair",
    "load_exported",
    "load_pair",
]

MIXES = ((True, True), (True, False), (False, True))  # of frames and IMU samples, what a clip may have
BATCH = 16  # clips at a time, in calibration and comparison
STRONG_MOTION = 3  # times that of clips
SMALLEST_STEP = 2.0**-30  # of int8 values
SLOW_INT8 = (  # docs/results.md
    "note: an int8 program that is not compiled is slower than fp32: at the paper's size 194 ms per clip instead of 52 "
    "on one core of an AMD EPYC (Zen 4). Compiled, with --format aoti --batch-size 1, it takes 11 ms"
)
FIRST_IMU_LAYER = "model.imu_encoder.cnn.1"  # name of the convolution in `Plain`


# ---------------------------------------------------------------------------------------------------------------
# Writing


def export(
    model: EgoDistill,
    path: str | os.PathLike,
    *,
    format: str = "export",
    precision: str = "fp32",
    calibrate: Any = None,
    calibration_clips: int = 256,
    batch_size: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a student to a file and its description to FILE.json; return the description.

    Args:
        model: The student.
        path: File to write, ending in .pt2, or in .onnx for the format "onnx".
        format: "export", "aoti" or "onnx"; see the table in the module's introduction.
        precision: "fp32", "bf16" or "int8"; not bf16 for the format "onnx".
        calibrate: For int8: a store whose clips set the range of activations; None: random inputs do, with a warning.
        calibration_clips: Number of clips of this store to use, evenly spaced.
        batch_size: The file takes exactly this number of clips; None: any number. A compiled file for one clip is
            faster.
        overwrite: Replace an existing file.

    Raises:
        ExportError: If a package is missing, options do not fit together, or a file would be overwritten.
        EgoDistillError: If the student is the result of stage 1.

    >>> from egodistill import EgoDistill, export
    >>> description = export.export(EgoDistill.load("student.safetensors"), "student.pt2")
    >>> print(description["run"].replace("; ", "\\n"))
    import torch
    torch.set_grad_enabled(False)
    feature, logits = torch.export.load('student.pt2').module()(frames, imu)
    >>> [entry["shape"] for entry in description["inputs"]]
    [['batch', 1, 3, 64, 64], ['batch', 422, 6]]
    """
    settings = Settings(format, precision, calibrate, calibration_clips, batch_size, overwrite)
    whole = Plain if "frames" in batches.inputs_of(model) else PlainMotion
    (description,) = write_files(model, {Path(path): whole}, settings)
    return description


def export_pair(
    model: EgoDistill,
    path: str | os.PathLike,
    *,
    format: str = "export",
    precision: str = "fp32",
    calibrate: Any = None,
    calibration_clips: int = 256,
    batch_size: int | None = None,
    overwrite: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a student as two programs, `frame` and `motion`, with a description each; return both descriptions.

    For the path STEM.pt2 (or STEM.onnx), the files are STEM.frame.pt2 and STEM.motion.pt2. `frame` takes pictures,
    uint8 [B, 3, H, W], and returns their image features, float32 [B, d]. `motion` takes the image features of each
    clip's frames in order of time, float32 [B, N, d], and the IMU samples, float32 [B, T, 6], unless the student reads
    frames alone; it returns feature [B, D] and logits [B, C]. Of a student with `optional_inputs`, it also takes which
    of the two each clip has, bool [B, 2].

    Args:
        model: The student.
        path: STEM.pt2, or STEM.onnx for the format "onnx".
        format: As in `export()`.
        precision: As in `export()`.
        calibrate: As in `export()`.
        calibration_clips: As in `export()`.
        batch_size: Exact number of pictures of `frame` and of clips of `motion`; None: any number.
        overwrite: Replace existing files.

    Raises:
        ExportError, EgoDistillError: As in `export()`.

    >>> from egodistill import EgoDistill, export
    >>> for description in export.export_pair(EgoDistill.load("student.safetensors"), "device.pt2"):
    ...     print(description["file"], {entry["name"]: entry["shape"] for entry in description["inputs"]})
    device.frame.pt2 {'frame': ['batch', 3, 64, 64]}
    device.motion.pt2 {'image_features': ['batch', 1, 64], 'imu': ['batch', 422, 6]}
    """
    inputs = batches.inputs_of(model)
    if getattr(model, "lacks", None):
        raise ExportError(
            f"this student reads {inputs[0]} alone; export the pair of the whole student, which does without either "
            f"input, or this one as a single file with export() (leave out --pair)"
        )
    if "frames" not in inputs:
        raise ExportError("a student without frames is one program, and has no pair; use export() (leave out --pair)")
    settings = Settings(format, precision, calibrate, calibration_clips, batch_size, overwrite)
    frame, motion = write_files(
        model, dict(zip(pair_files(path), (FrameProgram, MotionProgram), strict=True)), settings
    )
    return frame, motion


class Settings(NamedTuple):
    """The options of `export()` and `export_pair()`."""

    format: str
    precision: str
    calibrate: Any
    calibration_clips: int
    batch_size: int | None
    overwrite: bool


def write_files(model: EgoDistill, parts: Mapping[Path, type[Plain]], settings: Settings) -> list[dict[str, Any]]:
    """Write the parts of a student to their files, all or none of them; return their descriptions.

    Raise ExportError if the request cannot work or a file cannot be written.
    """
    check_request(model, list(parts), settings)
    if settings.precision == "int8" and settings.calibrate is None:
        text = f"int8 is calibrated on random inputs, so expect wrong classes; give {named('calibrate=STORE')}"
        warnings.warn(text, NoteWarning, stacklevel=3)
    model = copy.deepcopy(model).cpu().eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warnings here concern its internals
        built = [build_program(model, part, settings) for part in parts.values()]
        programs = [program for program, _ in built]
        descriptions = [
            describe(model, path, settings, part, compared)
            for (path, part), (_, compared) in zip(parts.items(), built, strict=True)
        ]
        folder = next(iter(parts)).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{next(iter(parts)).name}.", dir=folder) as new:
                for k, (path, program) in enumerate(zip(parts, programs, strict=True)):
                    FORMATS[settings.format].write(program, descriptions[k], Path(new, path.name))
                    description = descriptions[k] = seal(descriptions[k], Path(new, path.name))
                    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
                    Path(new, description_of(path).name).write_text(text, encoding="utf-8")
                for path in parts:  # without a description, an export is incomplete until all files are replaced
                    description_of(path).unlink(missing_ok=True)
                for path in [*parts, *map(description_of, parts)]:
                    files.replace_file(Path(new, path.name), path)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for all failures
            reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
            reason = reason.splitlines()[0]
            name = " and ".join(map(str, parts))
            raise ExportError(f"{name} cannot be written ({reason}); an older file is unchanged") from error
    return descriptions


def build_program(
    model: EgoDistill, part: type[Plain], settings: Settings
) -> tuple[torch.export.ExportedProgram, dict[str, Any] | None]:
    """Return a part of a student as a program, quantised if it should be, and how far int8 is from fp32."""
    store, plain = settings.calibrate, part(model)
    require_same(plain, model)
    if settings.precision != "int8":
        plain = plain if settings.precision == "fp32" else part(model, settings.precision)
        return trace(plain, model, settings.batch_size, part), None
    if store is None:
        examples: Iterable[tuple[Tensor, ...]] = [model_inputs(model, BATCH)]
    else:
        examples = store_clips(model, store, settings.calibration_clips)
    quantised = quantise(trace(plain, model, None, part), (part.take(model, *clips) for clips in examples))
    compared = None if store is None else compare_int8(plain, quantised, model, next(store_clips(model, store, BATCH)))
    return trace(quantised, model, settings.batch_size, part), compared


def require_same(plain: Plain, model: EgoDistill) -> None:
    """Raise ExportError unless a part in fp32 computes what the student computes, on random inputs."""
    given = model_inputs(model, 2)
    both = plain.outputs, plain(*plain.take(model, *given)), plain.wanted(model, *given)
    for name, found, wanted in zip(*both, strict=True):
        if differ(found, wanted):
            error, size = (found - wanted).abs().max(), wanted.abs().max()
            raise ExportError(
                f"the program {plain.name!r} would not be this {type(model).__name__}: its {name} differs by "
                f"{error:.3g} from the model's, which is at most {size:.3g}. Networks of your own need a class of "
                f"their own, and steps of your own belong in encode_frames(), aggregate(), encode_imu() and fuse(), "
                f"not in forward()"
            )


def check_request(model: Any, paths: Sequence[Path], settings: Settings) -> None:
    """Raise ExportError, before any work is done, if the arguments cannot work or a package is missing."""
    format, precision = settings.format, settings.precision
    if not isinstance(model, EgoDistill):
        raise ExportError(f"only models of the class EgoDistill can be exported; got {type(model).__name__}")
    batches.require_classifier(model)
    for name, value, known in (("format", format, tuple(FORMATS)), ("precision", precision, EXPORT_PRECISIONS)):
        if value not in known:
            raise ExportError(f"{named(name)} must be one of {known}; got {value!r}")
    if settings.batch_size is not None:
        batches.require_number(named("batch_size"), settings.batch_size, 1, whole=True)
    clips_option = named("calibration_clips", option="--calibrate-clips")
    batches.require_number(clips_option, settings.calibration_clips, 1, whole=True)
    suffix = FORMATS[format].suffix
    for path in paths:
        if path.suffix != suffix:
            other = next((name for name, one in FORMATS.items() if one.suffix == path.suffix), None)
            more = f", the end of {named('format', other)}" if other else ""
            raise ExportError(f"a file in the format {format!r} must end in {suffix}; got {path}{more}")
        for file in (path, description_of(path)):
            if file.exists() and not settings.overwrite:
                raise ExportError(f"{file} already exists; pass {named('overwrite', True)} to replace it")
    if (format, precision) == ("onnx", "bf16"):
        raise ExportError("onnxruntime has no bf16 convolution for CPUs; export ONNX as fp32 or int8")
    if format != "export" and torch_version() < (2, 6):
        raise ExportError(f"the format {format!r} needs torch 2.6 or later; this is {torch.__version__}")
    if format == "onnx":
        require_packages("onnx", "onnxscript", purpose="to write ONNX")
    if format == "aoti":
        compiler = os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))
        if shutil.which(compiler) is None:
            raise ExportError(
                f"the format 'aoti' needs a C++ compiler; {compiler} is not found, set $CXX to use another"
            )
    if precision == "int8":
        require_quantisation()


def torch_version() -> tuple[int, ...]:
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


def require_quantisation() -> list[ModuleType]:
    """Import torchao's modules for int8. Raise ExportError if they are missing or do not support the processor."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torchao lists its kernels for GPUs that cannot be loaded
    try:
        return require_packages(
            "torchao.quantization.pt2e.quantize_pt2e",
            "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer",
            "torchao.quantization.pt2e.observer",
            purpose="to quantise to int8",
        )
    except AttributeError as error:  # torch for Apple's processors lacks operators for x86 (torchao issue 4403)
        raise ExportError(f"int8 needs an x86 processor: torchao cannot be imported here ({error})") from error
    finally:
        logging.disable(before)


class Plain(nn.Module):
    """A copy of a student that returns a plain tuple of float32: a file with `Output` would need this library to load.

    An `IMUEncoder` becomes an `IMUEncoder2d`; any other network is exported as it is. In bf16 the networks are
    converted, while normalisation, the IMU's mean and encoders without weights stay in float32. It is
    the whole student; its subclasses are the parts of a pair, without the networks of the other.
    """

    name = WHOLE
    outputs = Output._fields
    without: tuple[str, ...] = ()  # networks and weights of the student that this part does not have

    def __init__(self, model: EgoDistill, precision: str = "fp32") -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval()
        for name in self.without:
            if hasattr(self.model, name):
                delattr(self.model, name)
        if type(getattr(self.model, "imu_encoder", None)) is IMUEncoder:
            self.model.add_module("imu_encoder", IMUEncoder2d(self.model.imu_encoder))
        if precision == "bf16":
            for weights in self.model.parameters(recurse=False):
                weights.data = weights.data.bfloat16()
            for name, child in list(self.model.named_children()):
                if not any(True for _ in child.parameters()):
                    setattr(self.model, name, nn.Sequential(child, Cast()))
                    continue
                child.bfloat16()
                if name in ("image_encoder", "imu_encoder"):
                    setattr(self.model, name, nn.Sequential(Cast(), child))

    def forward(self, frames: Tensor, imu: Tensor | None = None) -> tuple[Tensor, ...]:
        feature, logits = self.model(frames, imu)
        return feature.float(), logits.float()

    @staticmethod
    def inputs_of(model: EgoDistill) -> tuple[str, ...]:
        """Return the names of this part's inputs, in its order."""
        return model.inputs

    @staticmethod
    def take(model: EgoDistill, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return this part's inputs for inputs of the student."""
        return inputs

    @staticmethod
    def wanted(model: EgoDistill, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what this part must return for inputs of the student."""
        return tuple(model(*inputs))


class PlainMotion(Plain):
    """A whole student without frames."""

    def forward(self, imu: Tensor) -> tuple[Tensor, ...]:
        return super().forward(imu)


class FrameProgram(Plain):
    """The part of a student that runs once per picture: uint8 [B, 3, H, W] -> image feature [B, d]."""

    name = files.EXPORTED_PAIR[0]
    outputs = ("image_feature",)
    without = ("gru", "joint", "imu_encoder", "fusion", "classifier", "no_frames", "no_imu")

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        return (self.model.encode_frames(frame.unsqueeze(1), 1).flatten(1).float(),)

    @staticmethod
    def inputs_of(model: EgoDistill) -> tuple[str, ...]:
        return ("frame",)

    @staticmethod
    def take(model: EgoDistill, frames: Tensor, *imu: Tensor) -> tuple[Tensor, ...]:
        return (frames.flatten(0, 1),)

    @staticmethod
    def wanted(model: EgoDistill, frames: Tensor, *imu: Tensor) -> tuple[Tensor, ...]:
        return (model.encode_frames(frames).flatten(0, 1),)


class MotionProgram(Plain):
    """The part of a student that runs once per answer: image features [B, N, d] and IMU samples -> feature, logits.

    That of a student with `optional_inputs` also takes which of the two each clip has, bool [B, 2].
    """

    name = files.EXPORTED_PAIR[1]
    without = ("image_encoder",)

    def __init__(self, model: EgoDistill, precision: str = "fp32") -> None:
        super().__init__(model, precision)
        self.cast = Cast() if precision == "bf16" else nn.Identity()

    def forward(
        self, image_features: Tensor, imu: Tensor | None = None, present: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        image = self.model.aggregate(self.cast(image_features))
        motion = None if imu is None else self.model.encode_imu(imu)
        if present is not None:
            image = torch.where(present[:, :1], image, self.model.no_frames)
            motion = torch.where(present[:, 1:], motion, self.model.no_imu)
        feature, logits = self.model.fuse(image, motion)
        return feature.float(), logits.float()

    @staticmethod
    def inputs_of(model: EgoDistill) -> tuple[str, ...]:
        return ("image_features", *model.inputs[1:], *(["present"] if model.optional_inputs else []))

    @staticmethod
    def take(model: EgoDistill, frames: Tensor, *imu: Tensor) -> tuple[Tensor, ...]:
        """Return this part's inputs for inputs of the student; with `optional_inputs` all clips as each of `MIXES`."""
        given = model.encode_frames(frames), *imu
        if not model.optional_inputs:
            return given
        return *(torch.cat([x] * len(MIXES)) for x in given), torch.tensor(MIXES).repeat_interleave(len(frames), 0)

    @staticmethod
    def wanted(model: EgoDistill, *inputs: Tensor) -> tuple[Tensor, ...]:
        if not model.optional_inputs:
            return tuple(model(*inputs))
        given = [[x if has else None for x, has in zip(inputs, mix, strict=True)] for mix in MIXES]
        return tuple(map(torch.cat, zip(*(model(*mix) for mix in given), strict=True)))


class IMUEncoder2d(nn.Module):
    """An IMU encoder in evaluation mode as 2-D convolutions of maps with one row: [B, T, 6] -> [B, width, T].

    Compilers and quantisers for x86 pack, fuse and quantise 2-D convolutions only. Each one pads its own input, instead
    of one padding for all: before the first sample every map is constant, so the outputs are equal, with a fifth less
    arithmetic.
    """

    def __init__(self, encoder: IMUEncoder) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for layer in encoder.cnn:
            if isinstance(layer, nn.Conv1d):
                kernel, dilation = layer.kernel_size[0], layer.dilation[0]
                if kernel > 1:
                    layers.append(nn.ReplicationPad2d(((kernel - 1) * dilation, 0, 0, 0)))
                conv = nn.Conv2d(layer.in_channels, layer.out_channels, (1, kernel), dilation=(1, dilation))
                conv.weight, conv.bias = nn.Parameter(layer.weight.unsqueeze(2)), layer.bias
                layers.append(conv)
            elif isinstance(layer, nn.BatchNorm1d):
                norm = nn.BatchNorm2d(layer.num_features, layer.eps)
                norm.load_state_dict(layer.state_dict())
                layers.append(norm)
            elif isinstance(layer, nn.GELU):
                layers.append(layer)
        self.cnn = nn.Sequential(*layers).to(memory_format=torch.channels_last).eval()

    def forward(self, imu: Tensor) -> Tensor:
        maps = imu.transpose(1, 2).unsqueeze(2).contiguous(memory_format=torch.channels_last)  # [B, 6, 1, T]
        return self.cnn(maps).squeeze(2)


class Cast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.bfloat16()


def trace(
    module: nn.Module, model: EgoDistill, batch_size: int | None = None, part: type[Plain] = Plain
) -> torch.export.ExportedProgram:
    """Return a module as a program. It takes the inputs of `part`, of any batch size (None) or of exactly this one."""
    count = batch_size or 2  # with 1, torch would make the batch size a constant
    example = tuple(x[:count] for x in part.take(model, *model_inputs(model, count)))
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in example) if batch_size is None else None
    try:
        return torch.export.export(module, example, dynamic_shapes=shapes)
    except Exception as error:  # torch has no common class for these errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"this {type(model).__name__} cannot be written as a program ({reason}); torch.export follows tensors, not "
            f"Python's decisions about their values"
        ) from error


def model_inputs(model: EgoDistill, batch_size: int) -> tuple[Tensor, ...]:
    """Return random inputs, the same in each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return batches.example_inputs(model, batch_size)


def store_clips(model: EgoDistill, store: Any, count: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Yield the model's inputs in batches, for all clips of a store or for `count` evenly spaced ones.

    Raise ExportError for a store without clips, and EgoDistillError for one that does not fit the model.
    """
    names = batches.arrays_of(model, store)
    if not len(store):
        raise ExportError("the store has no clips; check the split, and store.failures")
    rows = np.arange(len(store))
    if count is not None and count < len(store):
        rows = np.linspace(0, len(store) - 1, count).round().astype(int)
    for k in range(0, len(rows), BATCH):
        yield tuple(torch.from_numpy(store.read(name, rows[k : k + BATCH])) for name in names)


def quantise(program: torch.export.ExportedProgram, clips: Iterable[tuple[Tensor, ...]]) -> nn.Module:
    """Return the program with static int8 quantisation; the ranges of activations are those of these clips.

    Ranges reach from the smallest to the largest value. torchao's default cuts off rare values, which gave more error
    on the demo's student, and its smallest step of 2**-12 is too coarse for the first layer of the fusion network. The
    IMU encoder's first layer is not quantised, because its channels have different units.
    """
    pt2e, x86, observer = require_quantisation()
    config = x86.get_default_x86_inductor_quantization_config()
    inputs = dataclasses.replace(
        config.input_activation, observer_or_fake_quant_ctr=observer.MinMaxObserver.with_args(eps=SMALLEST_STEP)
    )
    weights = dataclasses.replace(
        config.weight, observer_or_fake_quant_ctr=observer.PerChannelMinMaxObserver.with_args(eps=SMALLEST_STEP)
    )
    config = dataclasses.replace(config, input_activation=inputs, output_activation=inputs, weight=weights)
    quantizer = x86.X86InductorQuantizer().set_global(config)
    quantizer.set_module_name_qconfig(FIRST_IMU_LAYER, None)
    prepared = pt2e.prepare_pt2e(program.module(), quantizer)
    for batch in clips:
        prepared(*batch)
    converted = pt2e.convert_pt2e(prepared)
    used = {node.target for node in converted.graph.nodes if node.op == "get_attr"}
    for name in [*dict(converted.named_parameters()), *dict(converted.named_buffers())]:
        if name not in used:  # the float weights, which would make the file five times larger
            where, _, leaf = name.rpartition(".")
            delattr(converted.get_submodule(where), leaf)
    return converted


def compare_int8(
    plain: Plain, quantised: nn.Module, model: EgoDistill, clips: tuple[Tensor, ...]
) -> dict[str, dict[str, float]]:
    """Return how far a quantised part of a student is from fp32: {what inputs: {"equal_labels", "feature_error"}}.

    Both are shares; the error is the largest difference, relative to the largest value in fp32. A program that returns
    no logits has no labels.
    """
    found = {}
    for name, inputs in unusual_inputs(dict(zip(model.inputs, clips, strict=True))).items():
        if name == "strong head motion" and "imu" not in plain.inputs_of(model):
            continue
        given = plain.take(model, *inputs.values())
        wanted, got = plain(*given), quantised(*given)
        error = (got[0] - wanted[0]).abs().max() / wanted[0].abs().max().clamp_min(1e-30)
        labels = [output.argmax(1) for output in (wanted[-1], got[-1])]
        same = {"equal_labels": float((labels[0] == labels[1]).float().mean())} if len(wanted) > 1 else {}
        found[name] = same | {"feature_error": float(error)}
    return found


def unusual_inputs(given: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return {name: inputs} for clips as they are, and for what the clips of a calibration may not have."""
    found = {"calibration clips": given}
    if "frames" in given:
        frames = given["frames"]
        noise = torch.randint(256, frames.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        found |= {"dark pictures": given | {"frames": frames // 16}, "noise pictures": given | {"frames": noise}}
    if "imu" in given:
        mean = given["imu"].mean(dim=1, keepdim=True)
        found["strong head motion"] = given | {"imu": mean + STRONG_MOTION * (given["imu"] - mean)}
    return found


def which_frame(spec: ClipSpec) -> str:
    """Describe which frame of a video is the one for a time."""
    if not spec.exact:
        return "the key frame that is nearest to that time; the earlier one of two at the same distance"
    on_screen = "the frame on screen at that time: the last one that does not start after it"
    if not spec.tolerance:
        return on_screen
    return (
        f"of the frames that start at most {spec.tolerance:g} s before or after that time the nearest key frame, or "
        f"without a key frame the one that is first in decoding order; without any, {on_screen}"
    )


def describe(
    model: EgoDistill,
    path: Path,
    settings: Settings,
    part: type[Plain] = Plain,
    compared: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the description with everything that is needed to use the file without this library.

    `compared` is what `compare_int8()` returned.
    """
    spec, batch = spec_of(model).complete(), settings.batch_size or "batch"
    format, precision, names = settings.format, settings.precision, part.inputs_of(model)
    masked = "present" in names
    inputs = describe_inputs(spec, batch, model.image_dim)
    outputs = {
        "image_feature": {"shape": [batch, model.image_dim], "values": "an entry of `image_features` of `motion`"},
        "feature": {"shape": [batch, model.feature_dim]},
        "logits": {
            "shape": [batch, model.num_classes],
            "values": "class scores before the softmax, in the order of class_names; probabilities are "
            "softmax(logits / temperature)" + ", with that of `alone` for a clip without the other input" * masked,
        },
    }
    normalisation = "normalisation of the frames (ImageNet's mean and standard deviation)"
    inside = {
        "frames": normalisation,
        "frame": normalisation,
        "imu": "removal of the IMU's mean over the clip, channel by channel",
    }
    if getattr(model, "imu_with_mean", False):  # an encoder that removes what it does not need by itself
        del inside["imu"]
    modules = {"onnx": ("onnx", "onnxscript")}.get(format, ()) + (("torchao",) if precision == "int8" else ())
    return {
        "format": DESCRIPTION_FORMAT,
        "file": path.name,
        "part": part.name,
        "student": checkpoints.weights_fingerprint(model),
        "kind": format,
        "precision": precision,
        "calibration": describe_calibration(model, settings, compared),
        "run": FORMATS[format].run.format(
            file=path.name,
            inputs=", ".join(names),
            arrays=", ".join(f"{name!r}: {name}" for name in names),
            imports=IMPORTS[precision],
            outputs=", ".join(part.outputs) + "," * (len(part.outputs) == 1),
        ),
        "clip_spec": dataclasses.asdict(spec),
        "inputs": [inputs[name] for name in names],
        "batch": f"exactly {settings.batch_size}" if settings.batch_size else "any size, at least 1",
        "outputs": [{"name": name, "dtype": "float32", **outputs[name]} for name in part.outputs],
        "multiply_adds": count_multiply_adds(model, part),
        "class_names": model.class_names,
        "temperature": calibration.calibration_of(model).temperature,
        "alone": calibration.calibration_of(model).alone if masked else None,
        "events": calibration.calibration_of(model).events,
        "inside": [inside[name] for name in names if name in inside],
        "state": describe_state(spec, masked) if part in (FrameProgram, MotionProgram) else None,
        "compiled_for": processor() if format == "aoti" else None,
        "instructions": sorted(name for name, has in instructions().items() if has) if format == "aoti" else None,
        "versions": {"egodistill": __version__, "torch": torch.__version__}
        | {name: importlib.import_module(name).__version__ for name in modules},
    }


def count_multiply_adds(model: EgoDistill, part: type[Plain]) -> int:
    """Return the multiply-adds of a part for one picture or clip, in its exported form (see `IMUEncoder2d`)."""
    return round(runtime.multiply_adds(part(model), [x[:1] for x in part.take(model, *model_inputs(model, 1))]))


def describe_inputs(spec: ClipSpec, batch: int | str, image_dim: int) -> dict[str, dict[str, Any]]:
    """Describe all inputs that programs have, by name."""
    moments = spec.times(0.0).tolist() if spec.frames and spec.sampling not in DRAWN else None
    frames = {
        "name": "frames",
        "dtype": "uint8",
        "shape": [batch, spec.frames, 3, spec.size, spec.size],
        "axes": ["batch", "frame", "channel", "row", "column"],
        "colour": "RGB",
        "values": "0 to 255, not normalised",
        "resizing": "the whole upright frame is resized to the square, without cropping: area averaging if width or "
        "height shrinks, bilinear if neither does (FFmpeg's swscale, AREA and BILINEAR)",
        "seconds_from_clip_start": moments,
        "which": which_frame(spec),
    }
    frame = {"name": "frame", "shape": [batch, *frames["shape"][2:]], "axes": ["batch", *frames["axes"][2:]]}
    image_features = {
        "name": "image_features",
        "dtype": "float32",
        "shape": [batch, spec.frames, image_dim],
        "axes": ["batch", "frame", "feature"],
        "values": "outputs `image_feature` of the program `frame`, one per frame of the clip",
        "order": "in order of time, the oldest frame first",
        "seconds_from_clip_start": moments,
    }
    imu = {
        "name": "imu",
        "dtype": "float32",
        "shape": [batch, spec.imu_samples, 6],
        "axes": ["batch", "sample", "channel"],
        "channels": [f"{sensor} {axis}" for sensor in ("accelerometer", "gyroscope") for axis in "xyz"],
        "units": ["m/s2"] * 3 + ["rad/s"] * 3,
        "directions": {
            "gopro": "x left, y to the user, z up, as those of a GoPro",
            ANY_AXES: "of a sensor that is mounted in any way",
        }.get(str(spec.imu_axes), f"the axes {spec.imu_axes} of the recordings that the model was trained on"),
        "gravity": "included",
        "rate_hz": spec.imu_rate,
        "sampling": "sample k is at k / rate_hz seconds after the clip's start, interpolated linearly between the "
        "time stamps of the recording; of a sensor with more than 1.5 * rate_hz samples per second, the mean of those "
        "less than 1 / rate_hz away, with weights that fall linearly to 0",
    }
    present = {
        "name": "present",
        "dtype": "bool",
        "shape": [batch, 2],
        "axes": ["batch", "input"],
        "values": "whether the clip has image_features, and whether it has imu: one of them, or both; what is not "
        "there has any finite values, such as zeros, and changes nothing",
    }
    found = {"frames": frames, "frame": frames | frame, "image_features": image_features, "imu": imu}
    return found | {"present": present}


def describe_calibration(
    model: EgoDistill, settings: Settings, compared: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return how an int8 file was calibrated: on what clips, and how far it is from fp32; None without int8."""
    if settings.precision != "int8":
        return None
    if settings.calibrate is None:
        return {"clips": BATCH, "random": True, "ranges": None, "compared": None}
    count = min(settings.calibration_clips, len(settings.calibrate))
    ranges = ranges_of(store_clips(model, settings.calibrate, count))
    return {"clips": count, "random": False, "ranges": ranges, "compared": compared}


def ranges_of(examples: Iterable[tuple[Tensor, ...]]) -> dict[str, list[float]]:
    """Return the lowest and highest mean of a picture, and the largest head motion of each channel, of clips."""
    means, motions = [], []
    for one in itertools.chain(*examples):
        means += [picture_means(one)] if one.dtype == torch.uint8 else []
        motions += [head_motion(one)] if one.dtype != torch.uint8 else []
    pictures = torch.cat(means) if means else None
    found = {} if pictures is None else {"pictures": [float(pictures.min()), float(pictures.max())]}
    return found | ({"imu": torch.stack(motions).amax(0).tolist()} if motions else {})


def describe_state(spec: ClipSpec, masked: bool) -> dict[str, Any]:
    """Describe what an application keeps between calls of a pair, and when it can compute an answer."""
    ready = "once the image features of the clip's frames are there"
    if spec.imu_samples:
        last = (spec.imu_samples - 1) / spec.imu_rate
        ready += (
            f", and both sensors have a sample at or after the clip's last grid point, {last:.6f} s from its start: "
            "the samples on both sides of a grid point give its value"
        )
    if masked:
        ready += "; without one of the two, if `present` says so, once the other is there"
    return {
        "programs": "`frame` and `motion` keep nothing between calls; they are two files of one export",
        "clock": "seconds on one clock for frames and IMU samples; convert the camera's times to the IMU's clock",
        "clip_seconds": spec.seconds,
        "clip": "an answer is for the clip [stop - clip_seconds, stop]; times in a clip count from stop - clip_seconds",
        "image_features": "run `frame` once per picture, and keep its output in the application's memory, beside the "
        "time of the picture (the middle of its exposure), until no later clip needs it; clips may share it",
        "order": "give `motion` the image features of a clip in order of time, the oldest first",
        "ready": f"an answer can be computed {ready}",
    }


# ---------------------------------------------------------------------------------------------------------------
# Formats: how each is written


class Format(NamedTuple):
    """A file format: its suffix, the function that writes a file, and the call that runs it."""

    suffix: str
    write: Callable[[torch.export.ExportedProgram, Mapping[str, Any], Path], None]  # the second is the description
    run: str  # Python code for users of the file, part of the description.


def write_program(program: torch.export.ExportedProgram, description: Mapping[str, Any], path: Path) -> None:
    content = io.BytesIO()  # if torch wrote to a path, its C++ would abort the process on a full disk
    torch.export.save(program, content)
    path.write_bytes(content.getbuffer())


def write_compiled(program: torch.export.ExportedProgram, description: Mapping[str, Any], path: Path) -> None:
    # Freezing folds the weights, packs them for the processor, and enables integer kernels. The number of threads is
    # set when the file is run.
    configs: dict[str, Any] = {"freezing": True, "cpp.dynamic_threads": True}
    if not program.range_constraints:  # The batch size is fixed: measure which kernel is faster for each linear layer.
        configs |= {"max_autotune_gemm": True, "max_autotune_gemm_backends": "CPP,ATEN"}
    content = io.BytesIO()  # see write_program()
    with contextlib.redirect_stderr(io.StringIO()):  # the tables of these measurements
        torch._inductor.aoti_compile_and_package(program, package_path=content, inductor_configs=configs)
    path.write_bytes(content.getbuffer())


def write_onnx(program: torch.export.ExportedProgram, description: Mapping[str, Any], path: Path) -> None:
    names = {kind: [entry["name"] for entry in description[kind]] for kind in ("inputs", "outputs")}
    made = torch.onnx.export(
        program, input_names=names["inputs"], output_names=names["outputs"], dynamo=True, verbose=False
    )
    if hasattr(made, "rename_axes"):  # older torch keeps its own name of the batch size, such as s41
        made.rename_axes({str(symbol): "batch" for symbol in program.range_constraints})
    made.save(path, external_data=False)


IMPORTS = {
    "fp32": "import torch",
    "bf16": "import torch",
    "int8": "import torch, torch.ao.quantization.fx._decomposed",  # not needed by compiled code
}
FORMATS = {
    "export": Format(
        KINDS["export"][1],
        write_program,
        "{imports}; torch.set_grad_enabled(False); {outputs} = torch.export.load({file!r}).module()({inputs})",
    ),
    "aoti": Format(
        KINDS["aoti"][1],
        write_compiled,
        "import torch; {outputs} = torch._inductor.aoti_load_package({file!r})({inputs})  # "
        "in C++: AOTIModelPackageLoader",
    ),
    "onnx": Format(
        KINDS["onnx"][1],
        write_onnx,
        "import onnxruntime; {outputs} = onnxruntime.InferenceSession({file!r}).run(None, {{{arrays}}})  # arrays",
    ),
}


# ---------------------------------------------------------------------------------------------------------------
# Comparison with the original


class Comparison(NamedTuple):
    """The comparison of one exported file with its original model, from `compare()`.

    Attributes:
        file: The file; "original" for the model itself, in eager torch; for a pair its path, STEM.SUFFIX.
        kind: Format of the file; "eager" for the model itself.
        precision: Precision of the file; "fp32" for the model itself.
        agreement: Share of clips with the same best class as the original, 0 to 1.
        feature_difference: Largest absolute difference over all clips and dimensions.
        top1: Share of clips with the right class, 0 to 1; None if a clip of the store has no label.
        megabytes: Size of the file; of a pair, of both programs; of the model itself, of its weights.
        milliseconds: Processor time for one clip on one core.
    """

    file: str
    kind: str
    precision: str
    agreement: float
    feature_difference: float
    top1: float | None
    megabytes: float
    milliseconds: float


@torch.no_grad()
def compare(
    model: EgoDistill,
    store: Any,
    paths: Sequence[str | os.PathLike],
    *,
    pairs: Sequence[str | os.PathLike] = (),
    repeats: int = 20,
) -> list[Comparison]:
    """Compare exported files with their original on all clips of a store; the first row is the original.

    All models run on one thread. The time is the median of several runs with a single clip; the models take turns, and
    processor time is measured, so that other programs have less effect. Reading is not included.

    Args:
        model: The student that was exported.
        store: The clips, with or without labels.
        paths: Files of `export()`.
        pairs: Paths that were given to `export_pair()`; their rows follow those of `paths`.
        repeats: Number of timed runs of each model.

    Raises:
        ExportError: If a file cannot be loaded or the store has no clips.
        EgoDistillError: If the store does not fit the model.

    >>> from egodistill import EgoDistill, data, export
    >>> model, test = EgoDistill.load("student.safetensors"), data.ClipStore("store").split("test")
    >>> _ = export.export(model, "student.pt2")
    >>> for row in export.compare(model, test, ["student.pt2"], repeats=2):
    ...     print(row.file, row.kind, row.precision, row.agreement, row.feature_difference < 1e-4)
    original eager fp32 1.0 True
    student.pt2 export fp32 1.0 True
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        original = copy.deepcopy(model).cpu().eval()
        models = [original, *map(load_exported, paths), *map(load_pair, pairs)]
        batches = [[run(*clips) for run in models] for clips in store_clips(model, store)]
        outputs = [Output(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*batches, strict=True)]
        first = next(store_clips(model, store, 1))
        times = milliseconds(models, tuple(x[:1] for x in first), repeats)
    finally:
        torch.set_num_threads(threads)
    labels, wanted = torch.as_tensor(store.labels), outputs[0]
    written = [*([path] for path in paths), *map(pair_files, pairs)]
    sizes = [sum(x.nbytes for x in model.state_dict().values())]
    sizes += [sum(Path(file).stat().st_size for file in found) for found in written]
    names = [("original", "eager", "fp32")]
    names += [
        (str(path), run.description["kind"], run.description["precision"])
        for path, run in zip([*paths, *pairs], models[1:], strict=True)
    ]
    rows = []
    for name, output, size, spent in zip(names, outputs, sizes, times, strict=True):
        chosen = output.logits.argmax(1)
        rows.append(
            Comparison(
                *name,
                agreement=float((chosen == wanted.logits.argmax(1)).float().mean()),
                feature_difference=float((output.feature - wanted.feature).abs().max()),
                top1=float((chosen == labels).float().mean()) if (labels >= 0).all() else None,
                megabytes=size / 1e6,
                milliseconds=spent,
            )
        )
    return rows


def milliseconds(models: Sequence[nn.Module], inputs: tuple[Tensor, ...], repeats: int) -> list[float]:
    """Return the median processor time of each model in milliseconds; the models take turns, after 3 warm-up rounds.

    A model runs until the clock has advanced by at least 12 of its steps: once on Linux, for 0.2 s on Windows.
    """
    least = 12 * clock_step()
    times: list[list[float]] = [[] for _ in models]
    for _ in range(repeats + 3):
        for model, own in zip(models, times, strict=True):
            count, spent, began = 0, 0.0, time.process_time()
            while spent < least:
                model(*inputs)
                count += 1
                spent = time.process_time() - began
            own.append(1e3 * spent / count)
    return [statistics.median(own[3:]) for own in times]


def clock_step() -> float:
    """Return the resolution of the process clock in seconds: 15.6 ms on Windows, 1 us on Linux."""
    began = first = last = time.process_time()
    while first == began:
        first = last = time.process_time()
    while last == first:
        last = time.process_time()
    return last - first
