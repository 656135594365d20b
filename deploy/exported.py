"""Run exported files: models that `export` wrote as programs.

    from egodistill.deploy import exported

    model = exported.load_exported("student.pt2")         # a file of `export.export()`, a model like any other
    feature, logits = model(frames, imu)
    pair = exported.load_pair("device.pt2")                 # the two files of `export.export_pair()`
    image_features = pair.encode_frames(frames)               # once per picture
    feature, logits = pair.fuse(image_features, imu)          # once per answer; None for what is optional and missing

`export` also offers `load_exported()` and `load_pair()`. Beside each file, `FILE.json` describes it (`descriptions`).
An exported file is code that can do anything when it is loaded: load only files whose source you trust.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..engine.calibration import Calibration
from ..recordings.spec import ClipSpec
from ..student import Output, require_optional
from ..support import files
from ..support.errors import NoteWarning
from .descriptions import (
    WHOLE,
    ExportError,
    check_processor,
    pair_files,
    read_description,
    shape_text,
)

__all__ = ["ExportError", "Exported", "Pair", "Program", "load_exported", "load_pair"]

CHANNELS = [f"{sensor} {axis}" for sensor in ("accelerometer", "gyroscope") for axis in "xyz"]
FAR_MOTION = 1.5  # times the largest head motion of the calibration
RANGE_EVERY = 16  # one of 16 calls for a single clip is compared with the calibration: it takes time

# ---------------------------------------------------------------------------------------------------------------
# Opening files


def require_packages(*packages: str, purpose: str) -> list[ModuleType]:
    """Import optional packages, or modules in them. Raise ExportError, with the command that installs them."""
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        names = " ".join(dict.fromkeys(package.split(".")[0] for package in packages))
        raise ExportError(
            f"{names.replace(' ', ' and ')} must be installed {purpose}: pip install {names} ({error})"
        ) from error


def open_program(path: Path, names: Sequence[str]) -> Callable[..., Sequence[Tensor]]:
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the operators of int8 files
    # Without this variable, torch unpickles parts of the file, including code; there is no argument for it.
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return torch.export.load(path).module()
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def open_compiled(path: Path, names: Sequence[str]) -> Callable[..., Sequence[Tensor]]:
    program = torch._inductor.aoti_load_package(str(path))
    # Called itself, it would parse how inputs and outputs are nested, each time; here both are lists of tensors.
    return lambda *inputs: program.loader.run(list(inputs))


def open_onnx(path: Path, names: Sequence[str]) -> Callable[..., Sequence[Tensor]]:
    (onnxruntime,) = require_packages("onnxruntime", purpose="to run ONNX")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(x) for x in session.run(None, given)]

    return run


# How a file of each format is opened: (path, names of the inputs) -> a function of the inputs
OPENERS: dict[str, Callable[[Path, Sequence[str]], Callable[..., Sequence[Tensor]]]] = {
    "export": open_program,
    "aoti": open_compiled,
    "onnx": open_onnx,
}


# ---------------------------------------------------------------------------------------------------------------
# Models


class Program:
    """An exported file that runs for any number of clips (or pictures): `inputs` in, a list of tensors out.

    It runs on the CPU, with the number of threads that torch has when the file is loaded. A file with a fixed
    `batch_size` runs as often as necessary. Inputs are compared with the description first: compiled code would read
    beyond them, or take their bytes for other numbers.

    `part` is what it must be of a student: "student", "frame" or "motion". Raise ExportError if the file, its
    description or a package is missing or damaged, if it is not this part, or was compiled for another processor.
    """

    def __init__(self, path: str | os.PathLike, part: str) -> None:
        self.path = Path(path)
        self.description = read_description(self.path)
        found = self.description["part"]
        if found != part:
            raise ExportError(
                f"{self.path} is the part {found!r} of a student, not {part!r}: load_exported() opens a whole student "
                f"(part {WHOLE!r}), load_pair('STEM.pt2') the files STEM.frame.pt2 and STEM.motion.pt2"
            )
        entries = self.description["inputs"]
        self.inputs: tuple[str, ...] = tuple(entry["name"] for entry in entries)
        self.kinds = [(getattr(torch, entry["dtype"]), tuple(entry["shape"][1:])) for entry in entries]
        self.sizes = [tuple(entry["shape"][1:]) for entry in self.description["outputs"]]
        calibration = self.description["calibration"]
        self.ranges: dict[str, list[float]] | None = calibration and calibration["ranges"]
        self.calls = 0
        batch = entries[0]["shape"][0]
        self.batch_size: int | None = batch if isinstance(batch, int) else None
        try:
            check_processor(self.path, self.description)
            self.run = OPENERS[self.description["kind"]](self.path, self.inputs)
        except ExportError:
            raise
        except Exception as error:  # torch and onnxruntime have no common class for these errors
            raise ExportError(
                f"{self.path} cannot be opened: it is damaged, or contains more than a program ({type(error).__name__})"
            ) from error

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        self.check(inputs)
        if self.ranges and (len(inputs[0]) > 1 or self.calls % RANGE_EVERY == 0):
            self.check_ranges(inputs)
        self.calls += 1
        if torch.is_autocast_enabled("cpu"):  # the dtypes of a program are fixed
            with torch.autocast("cpu", enabled=False):
                return self.answer(inputs)
        return self.answer(inputs)

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs, for inputs that were checked."""
        # Compiled code ignores strides, and the bits of torch's views that are negative or conjugate.
        inputs = tuple(x.resolve_conj().resolve_neg().contiguous() for x in inputs)
        count = len(inputs[0])
        size = self.batch_size or count
        if size == count:
            return self.outputs(inputs)
        parts = [self.outputs(part) for part in equal_parts(inputs, size)]
        return [torch.cat(outputs)[:count] for outputs in zip(*parts, strict=True)]

    def outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return what the program computes. Raise ExportError unless the shapes are those of the description."""
        found = list(self.run(*inputs))
        shapes = [tuple(x.shape) for x in found]
        if shapes != [(len(inputs[0]), *sizes) for sizes in self.sizes]:
            raise ExportError(
                f"{self.path}: its outputs have the shapes {shapes}, and its description says others; copy both files "
                f"of one export, or export again"
            )
        return found

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Raise ExportError unless number, types, shapes and values of the inputs are those of the description."""
        if len(inputs) != len(self.inputs):
            raise ExportError(f"{self.path} takes {' and '.join(self.inputs)}; got {len(inputs)} inputs")
        for name, value, (dtype, sizes) in zip(self.inputs, inputs, self.kinds, strict=True):
            dense = isinstance(value, Tensor) and value.is_cpu and value.layout is torch.strided
            if not dense or value.dtype != dtype or value.shape[1:] != sizes:
                wanted = f"{str(dtype).removeprefix('torch.')} {shape_text(sizes)}"
                raise ExportError(f"{self.path}: {name} must be {wanted} on the CPU; got {text_of(value)}")
            # A sum is finite if all values are, unless they are huge.
            if dtype.is_floating_point and not math.isfinite(value.sum().item()) and not value.isfinite().all():
                raise ExportError(f"{self.path}: {name} has values that are NaN or infinite")
        counts = [len(value) for value in inputs]
        if counts[0] < 1 or counts != [counts[0]] * len(counts):
            names = " and ".join(self.inputs)
            raise ExportError(f"{self.path}: {names} must be of the same number of clips, at least 1; got {counts}")

    def check_ranges(self, inputs: Sequence[Tensor]) -> None:
        """Warn, once, if inputs are far outside of those that an int8 program was calibrated with."""
        given, beyond = dict(zip(self.inputs, inputs, strict=True)), None
        if "imu" in given and "imu" in self.ranges:
            motion, known = head_motion(given["imu"]), self.ranges["imu"]
            for name, found, most in zip(CHANNELS, motion.tolist(), known, strict=True):
                if found > FAR_MOTION * most:
                    beyond = f"{name} is up to {found:.3g} from its mean over the clip, and was up to {most:.3g}"
        for name in ("frame", "frames"):
            if name in given:
                low, high = self.ranges["pictures"]
                found = picture_means(given[name])
                darkest, brightest = float(found.min()), float(found.max())
                if darkest < low / 2 or brightest > (high + 255) / 2:
                    beyond = f"pictures have means of {darkest:.0f} to {brightest:.0f}, and had {low:.0f} to {high:.0f}"
        if beyond:
            self.ranges = None
            text = f"{self.path}: these inputs are far outside of those that its int8 was calibrated with: {beyond}"
            warnings.warn(
                f"{text}. Its answers may differ from fp32; calibrate it with such clips", NoteWarning, stacklevel=2
            )


def head_motion(imu: Tensor) -> Tensor:
    """Return the largest distance of each channel from its mean over the clip, [B, T, 6] -> [6]."""
    return (imu - imu.mean(dim=1, keepdim=True)).abs().amax(dim=(0, 1))


def picture_means(frames: Tensor) -> Tensor:
    """Return the mean of each picture, uint8 [..., 3, H, W], from every eighth pixel of both directions."""
    return frames[..., ::8, ::8].flatten(-3).float().mean(-1).flatten()


class LoadedModel(nn.Module):
    """A model of exported programs; `program`, which returns feature and logits, has the description."""

    lacks: str | None = None  # the input that this copy of `without()` does not read

    def __init__(self, inputs: tuple[str, ...], program: Program, *others: Program) -> None:
        super().__init__()
        self.inputs, self.description, self.batch_size = inputs, program.description, program.batch_size
        self.clip_spec = ClipSpec(**self.description["clip_spec"])
        self.precision, self.class_names = self.description["precision"], self.description["class_names"]
        self.calibration = Calibration(**{name: self.description[name] for name in ("temperature", "events", "alone")})
        self.feature_dim, self.num_classes = (entry["shape"][1] for entry in self.description["outputs"])
        self.eval()

    if TYPE_CHECKING:  # A torch module's call has no types.

        def __call__(self, *inputs: Tensor) -> Output: ...


class Exported(LoadedModel):
    """An exported file as a model for `evaluate()` and `predict()`; see `load_exported()`.

    It takes the inputs that its `description` (the JSON) names, for any number of clips, and returns `Output`. It runs
    on the CPU only, with the number of threads that torch has when the file is loaded. A file with a fixed `batch_size`
    runs as often as necessary. Raise ExportError if the file, its description or a package is missing or damaged.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        program = Program(path, WHOLE)
        super().__init__(program.inputs, program)
        # torch's modules for loaded files raise an error in train() and eval(); in a `Program` they are not children.
        self.program = program

    def forward(self, *inputs: Tensor) -> Output:
        return Output(*self.program(*inputs))


class Pair(LoadedModel):
    """The two programs of `export_pair()` as one model: a `steps.Student` for `Stream`, `evaluate()` and `predict()`.

    `encode_frames()` runs the program `frame`, `fuse()` the program `motion`; nothing is computed between them. So what
    `aggregate()` returns are the image features of all N frames, [B, N, d], and what `encode_imu()` returns are the IMU
    samples. `description` is that of `motion`. Otherwise it is like `Exported`. Its path, STEM.SUFFIX, is that given to
    `export_pair()`. Raise ExportError if a file, its description or a package is missing or damaged, or if the two
    files are not of one export.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        stem, _, part = Path(path).stem.rpartition(".")
        if part in files.EXPORTED_PAIR and Path(path).is_file():
            whole = Path(path).with_name(stem + Path(path).suffix)
            raise ExportError(f"{path} is one of the two files of a pair; give {whole}, which stands for both")
        if Path(path).is_file() and not any(file.is_file() for file in pair_files(path)):
            read_description(Path(path))  # raises for what is no program
            raise ExportError(f"{path} is one whole student, not a pair; read it with load_exported()")
        frame, motion = (Program(file, part) for file, part in zip(pair_files(path), files.EXPORTED_PAIR, strict=True))
        for key in ("student", "kind", "precision", "clip_spec", "class_names"):
            if frame.description[key] != motion.description[key]:
                raise ExportError(
                    f"{frame.path} and {motion.path} are not of one export: {key!r} of their descriptions differs "
                    f"({files.shorten(frame.description[key])} and {files.shorten(motion.description[key])}); "
                    f"copy both files of one export, or export the pair again"
                )
        super().__init__(("frames", *motion.inputs[1:2]), motion, frame)
        self.frame, self.motion, self.optional_inputs = frame, motion, "present" in motion.inputs

    def without(self, name: Literal["frames", "imu"]) -> Pair:
        """Return this pair as one that reads its other input alone, as `EgoDistill.without()` does."""
        require_optional(self, name, "this pair")
        found = copy.copy(self)
        found.inputs, found.lacks = tuple(other for other in self.inputs if other != name), name
        found.calibration = self.calibration.for_input(found.inputs[0])
        field = {"frames": "frames", "imu": "imu_samples"}[name]
        found.clip_spec = dataclasses.replace(self.clip_spec, **{field: 0})
        return found

    def forward(self, frames: Tensor | None = None, imu: Tensor | None = None) -> Output:
        if "frames" not in self.inputs and imu is None:  # called with what `inputs` name: pair(imu)
            frames, imu = None, frames
        for name, value in (("frames", frames), ("imu", imu)):
            if value is not None and name not in self.inputs:
                raise ExportError(f"this pair reads {self.inputs[0]} alone: pair({self.inputs[0]})")
        return self.fuse(None if frames is None else self.encode_frames(frames), imu)

    def encode_frames(self, frames: Tensor, count: int | None = None) -> Tensor:
        """Return the image features of frames, uint8 [B, N, 3, H, W] -> [B, N, d], for any N; `count` is not used."""
        if not isinstance(frames, Tensor) or frames.ndim != 5:
            raise ExportError(
                f"{self.frame.path}: frames must be uint8 [batch, frames, 3, height, width]; got {text_of(frames)}"
            )
        (features,) = self.frame(frames.flatten(0, 1))
        return features.unflatten(0, frames.shape[:2])

    def aggregate(self, features: Tensor) -> Tensor:
        """Return the image features [B, N, d] as they are, because `motion` takes all of them."""
        return features

    def encode_imu(self, imu: Tensor) -> Tensor:
        """Return the IMU samples [B, T, 6] as they are."""
        return imu

    def fuse(self, image: Tensor | None, imu: Tensor | None) -> Output:
        """Return feature [B, D] and logits [B, C] of image features [B, N, d] and IMU samples [B, T, 6], or None."""
        given = {"frames": image, "imu": imu}
        there = [x for x in given.values() if x is not None]
        lacking = [name for name in self.inputs if given[name] is None]
        if lacking and not (self.optional_inputs and there):
            raise ExportError(f"{self.motion.path} needs {lacking[0]}: pair({', '.join(self.inputs)})")
        if not self.optional_inputs:
            return Output(*self.motion(*there))
        count, sizes = len(there[0]), [size for _, size in self.motion.kinds[:2]]
        filled = [torch.zeros(count, *size) if x is None else x for x, size in zip(given.values(), sizes, strict=True)]
        present = torch.tensor([[x is not None for x in given.values()]]).expand(count, 2)
        return Output(*self.motion(*filled, present))


def equal_parts(inputs: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the clips in parts of `size`; the last part is filled up with copies of the last clip."""
    count = len(inputs[0])
    for start in range(0, count, size):
        rows = torch.arange(start, start + size).clamp(max=count - 1)
        yield tuple(x[rows] for x in inputs)


def text_of(value: Any) -> str:
    """Return type, shape and place of an input as text, such as "float64 [2, 422, 6]"."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    place = "" if value.is_cpu else f" on {value.device}"
    place += "" if value.layout is torch.strided else ", sparse"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}{place}"


def load_exported(path: str | os.PathLike) -> Exported:
    """Return the file that `export()` wrote as a model.

    An exported file is a program, and a compiled one machine code: load it only if you trust its source.

    Args:
        path: The exported file; its description is beside it.

    Raises:
        ExportError: If the file, its description or a package is missing or damaged, if the two do not belong together,
            or if the file was compiled for another processor.

    >>> from egodistill import EgoDistill, batches, export
    >>> model = EgoDistill.load("student.safetensors")
    >>> _ = export.export(model, "student.pt2")
    >>> exported = export.load_exported("student.pt2")
    >>> feature, logits = exported(*batches.example_inputs(model, batch_size=3))
    >>> exported.inputs, logits.shape
    (('frames', 'imu'), torch.Size([3, 13]))
    """
    return Exported(path)


def load_pair(path: str | os.PathLike) -> Pair:
    """Return the two files that `export_pair()` wrote for this path as one model.

    Load them only if you trust their source; see `load_exported()`.

    Args:
        path: The path that was given to `export_pair()`, STEM.SUFFIX.

    Raises:
        ExportError: If a file, its description or a package is missing or damaged, or if the two files are not of one
            export.

    >>> from egodistill import EgoDistill, batches, export
    >>> model = EgoDistill.load("student.safetensors")
    >>> _ = export.export_pair(model, "device.pt2")
    >>> pair = export.load_pair("device.pt2")
    >>> frames, imu = batches.example_inputs(model, batch_size=3)
    >>> image_features = pair.encode_frames(frames)         # once per picture
    >>> feature, logits = pair.fuse(image_features, imu)    # once per answer
    >>> image_features.shape, logits.shape
    (torch.Size([3, 1, 64]), torch.Size([3, 13]))
    """
    return Pair(path)
