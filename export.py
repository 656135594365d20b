"""Export a student to one file for a device: as a program, compiled or quantised; compare files with the original.

    from egodistill import EgoDistill, data, export

    model, store = EgoDistill.load("student.pt"), data.ClipStore("store")
    export.export(model, "student.pt2")                                              # runs with torch alone
    export.export(model, "fast.pt2", format="aoti", precision="int8", calibrate=store.split("train"))
    export.export(model, "student.onnx", format="onnx")
    for row in export.compare(model, store.split("test"), ["student.pt2", "fast.pt2", "student.onnx"]):
        print(row)
    feature, logits = export.load("fast.pt2")(frames, imu)                           # a model like any other

| format | content | requirements to write it |
| --- | --- | --- |
| `export` | a `torch.export` program, for all devices that torch supports | torch |
| `aoti` | machine code compiled by AOTInductor for this machine's processor; the fastest | torch 2.6, a C++ compiler |
| `onnx` | ONNX, for onnxruntime and others | torch 2.6, onnx, onnxscript (onnxruntime to run it) |

int8 is static quantisation after training of the convolutions and fully connected layers, with torchao's PT2E flow and
its quantiser for x86. In the format `export` an int8 file is small but several times slower than fp32, because torch
runs each rounding as a separate operation and computes in fp32; `aoti` runs integer kernels. A device that classifies
one clip at a time needs `batch_size=1`: weights are then packed for the kernels of that size, which saves a tenth of
the time in int8 and a fifth in fp32.

Normalisation of the frames and removal of the IMU's mean are part of the file. Everything else that the programmer of
a device needs (shapes, colour order, resizing, rate, units, class names) is in `FILE.json` beside it. The JSON file is
written last: an export without it is incomplete.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import io
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import egodistill
from egodistill import EgoDistillError, batches, clips, files
from egodistill.student import EgoDistill, IMUEncoder, Output

__all__ = ["FORMATS", "PRECISIONS", "Comparison", "ExportError", "Exported", "compare", "export", "load"]

DESCRIPTION_FORMAT = "egodistill export 2"
PRECISIONS = ("fp32", "bf16", "int8")
BATCH = 16  # clips at a time, in calibration and comparison
SMALLEST_STEP = 2.0**-30  # of int8 values
SLOW_INT8 = (  # RESULTS.md, "Exported files"
    "note: an int8 program that is not compiled is slower than fp32: at the paper's size 194 ms per clip instead of 52 "
    "on one core of an AMD EPYC (Zen 4). Compiled, with --format aoti --batch-size 1, it takes 11 ms"
)
FIRST_IMU_LAYER = "model.imu_encoder.cnn.1"  # name of the convolution in `Plain`


class ExportError(EgoDistillError):
    """A model cannot be exported, or a file cannot be run; the message says why, and what to install or do."""


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
    """Write a student to `path` (.pt2, or .onnx) and its description to `path`.json; return the description.

    The file takes any number of clips (None) or exactly `batch_size`: a compiled file for one clip is faster.
    For int8, `calibrate` is a store whose clips (`calibration_clips` of them, evenly spaced) set the range of
    activations; without it, random inputs do, with a warning. Raise ExportError if a package is missing, options do not
    fit together, or a file would be overwritten.

    >>> from egodistill import EgoDistill, export
    >>> description = export.export(EgoDistill.load("student.pt"), "student.pt2")
    >>> print(description["run"])
    import torch; torch.export.load('student.pt2').module()(frames, imu)
    >>> [entry["shape"] for entry in description["inputs"]]
    [['batch', 1, 3, 64, 64], ['batch', 422, 6]]
    """
    path = Path(path)
    check_request(model, path, format, precision, batch_size, overwrite)
    if precision == "int8" and calibrate is None:
        text = "int8 is calibrated on random inputs, so expect wrong classes; pass a store as calibrate"
        warnings.warn(text, stacklevel=2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's warnings here concern its internals
        if precision != "int8":
            program, calibration = trace(Plain(model, precision), model, batch_size), None
        else:
            if calibrate is None:
                calibration, clips = {"clips": BATCH, "random": True}, [model_inputs(model, BATCH)]
            else:
                calibration = {"clips": min(calibration_clips, len(calibrate)), "random": False}
                clips = store_clips(model, calibrate, calibration_clips)
            program = trace(quantise(trace(Plain(model), model), clips), model, batch_size)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
                part = Path(folder, path.name)
                FORMATS[format].write(program, model, part)
                description = describe(model, part, format, precision, calibration, batch_size)
                described = Path(folder, description_of(path).name)
                described.write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                description_of(path).unlink(missing_ok=True)  # marks the export as incomplete until both are replaced
                files.replace_file(part, path)
                files.replace_file(described, description_of(path))
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for all failures
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"{path} cannot be written ({reason}); an older file is unchanged") from error
    return description


def description_of(path: Path) -> Path:
    """Return the JSON file that describes an exported file."""
    return path.with_name(f"{path.name}.json")


def check_request(model: Any, path: Path, format: str, precision: str, batch_size: int | None, overwrite: bool) -> None:
    """Raise ExportError, before any work is done, if the arguments cannot work or a package is missing."""
    if not isinstance(model, EgoDistill):
        raise ExportError(f"only models of the class EgoDistill can be exported; got {type(model).__name__}")
    for name, value, known in (("format", format, tuple(FORMATS)), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ExportError(f"{name} must be one of {known}; got {value!r}")
    if batch_size is not None:
        batches.require_number("batch_size", batch_size, 1, whole=True)
    suffix = FORMATS[format].suffix
    if path.suffix != suffix:
        raise ExportError(f"a file in the format {format!r} must end in {suffix}; got {path}")
    for file in (path, description_of(path)):
        if file.exists() and not overwrite:
            raise ExportError(f"{file} already exists; pass overwrite=True (--overwrite) to replace it")
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


def require_packages(*packages: str, purpose: str) -> list[ModuleType]:
    """Import optional packages, or modules in them. Raise ExportError, with the command that installs them."""
    try:
        return [importlib.import_module(package) for package in packages]
    except ImportError as error:
        names = " ".join(dict.fromkeys(package.split(".")[0] for package in packages))
        raise ExportError(
            f"{names.replace(' ', ' and ')} must be installed {purpose}: pip install {names} ({error})"
        ) from error


def require_quantisation() -> list[ModuleType]:
    """Import torchao's modules for int8. Raise ExportError if they are missing or do not support the processor."""
    try:
        return require_packages(
            "torchao.quantization.pt2e.quantize_pt2e",
            "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer",
            "torchao.quantization.pt2e.observer",
            purpose="to quantise to int8",
        )
    except AttributeError as error:  # torch for Apple's processors lacks operators for x86 (torchao issue 4403)
        raise ExportError(f"int8 needs an x86 processor: torchao cannot be imported here ({error})") from error


class Plain(nn.Module):
    """A copy of a student that returns a plain tuple of float32: a file with `Output` would need this library to load.

    Its IMU encoder is an `IMUEncoder2d`. In bf16 the networks are converted, while normalisation and the IMU's mean
    stay in float32.
    """

    def __init__(self, model: EgoDistill, precision: str = "fp32") -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval()
        if "imu" in model.inputs:
            self.model.imu_encoder = IMUEncoder2d(self.model.imu_encoder)
        if precision == "bf16":
            for name, child in list(self.model.named_children()):
                child.bfloat16()
                if name in ("image_encoder", "imu_encoder"):
                    setattr(self.model, name, nn.Sequential(Cast(), child))

    def forward(self, frames: Tensor, imu: Tensor | None = None) -> tuple[Tensor, Tensor]:
        feature, logits = self.model(frames, imu)
        return feature.float(), logits.float()


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


def trace(module: nn.Module, model: EgoDistill, batch_size: int | None = None) -> torch.export.ExportedProgram:
    if batch_size is not None:
        return torch.export.export(module, model_inputs(model, batch_size))
    example = model_inputs(model, 2)  # with 1, torch would make the batch size a constant
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(module, example, dynamic_shapes=tuple({0: batch} for _ in example))


def model_inputs(model: EgoDistill, batch_size: int) -> tuple[Tensor, ...]:
    """Return random inputs, the same in each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return batches.example_inputs(model, batch_size)


def store_clips(model: EgoDistill, store: Any, count: int | None = None) -> Iterator[tuple[Tensor, ...]]:
    """Yield the model's inputs in batches, for all clips of a store or for `count` evenly spaced ones."""
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


def which_frame(spec: clips.ClipSpec) -> str:
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
    format: str,
    precision: str,
    calibration: dict[str, Any] | None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Return the description with everything that is needed to use the file without this library."""
    spec, batch = clips.spec_of(model).complete(), batch_size or "batch"
    frames = {
        "name": "frames",
        "dtype": "uint8",
        "shape": [batch, spec.frames, 3, spec.size, spec.size],
        "axes": ["batch", "frame", "channel", "row", "column"],
        "colour": "RGB",
        "values": "0 to 255, not normalised",
        "resizing": "the whole upright frame is resized to the square, without cropping: area averaging if width or "
        "height shrinks, bilinear if neither does (FFmpeg's swscale, AREA and BILINEAR)",
        "seconds_from_clip_start": None if spec.sampling == "random" else spec.times(0.0).tolist(),
        "which": which_frame(spec),
    }
    imu = {
        "name": "imu",
        "dtype": "float32",
        "shape": [batch, spec.imu_samples, 6],
        "axes": ["batch", "sample", "channel"],
        "channels": [f"{sensor} {axis}" for sensor in ("accelerometer", "gyroscope") for axis in "xyz"],
        "units": ["m/s2"] * 3 + ["rad/s"] * 3,
        "directions": "as in the recordings that the model was trained on (GoPro: x left, y to the user, z up)",
        "gravity": "included",
        "rate_hz": spec.imu_rate,
        "sampling": "sample k is at k / rate_hz seconds after the clip's start, interpolated linearly between the "
        "time stamps of the recording",
    }
    modules = {"onnx": ("onnx", "onnxscript")}.get(format, ()) + (("torchao",) if precision == "int8" else ())
    return {
        "format": DESCRIPTION_FORMAT,
        "file": path.name,
        "kind": format,
        "precision": precision,
        "calibration": calibration,
        "run": FORMATS[format].run.format(file=path.name, inputs=", ".join(model.inputs), imports=IMPORTS[precision]),
        "clip_spec": dataclasses.asdict(spec),
        "inputs": [{"frames": frames, "imu": imu}[name] for name in model.inputs],
        "batch": f"exactly {batch_size}" if batch_size else "any size, at least 1",
        "outputs": [
            {"name": "feature", "dtype": "float32", "shape": [batch, model.feature_dim]},
            {
                "name": "logits",
                "dtype": "float32",
                "shape": [batch, model.num_classes],
                "values": "class scores before the softmax, in the order of class_names",
            },
        ],
        "class_names": model.class_names,
        "inside": ["normalisation of the frames (ImageNet's mean and standard deviation)"]
        + ["removal of the IMU's mean over the clip, channel by channel"] * ("imu" in model.inputs),
        "compiled_for": f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        if format == "aoti"
        else None,
        "versions": {"egodistill": egodistill.__version__, "torch": torch.__version__}
        | {name: importlib.import_module(name).__version__ for name in modules},
    }


# ---------------------------------------------------------------------------------------------------------------
# Formats: how each is written and run


class Format(NamedTuple):
    """A file format: its suffix, the functions that write and open a file, and the call that runs it."""

    suffix: str
    write: Callable[[torch.export.ExportedProgram, EgoDistill, Path], None]
    open: Callable[[Path, Sequence[str]], Callable[..., Sequence[Tensor]]]
    run: str  # Python code for users of the file, part of the description.


def write_program(program: torch.export.ExportedProgram, model: EgoDistill, path: Path) -> None:
    content = io.BytesIO()  # if torch wrote to a path, its C++ would abort the process on a full disk
    torch.export.save(program, content)
    path.write_bytes(content.getbuffer())


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


def write_compiled(program: torch.export.ExportedProgram, model: EgoDistill, path: Path) -> None:
    # Freezing folds the weights, packs them for the processor, and enables integer kernels. The number of threads is
    # set when the file is run.
    configs: dict[str, Any] = {"freezing": True, "cpp.dynamic_threads": True}
    if not program.range_constraints:  # The batch size is fixed: measure which kernel is faster for each linear layer.
        configs |= {"max_autotune_gemm": True, "max_autotune_gemm_backends": "CPP,ATEN"}
    content = io.BytesIO()  # see write_program()
    with contextlib.redirect_stderr(io.StringIO()):  # the tables of these measurements
        torch._inductor.aoti_compile_and_package(program, package_path=content, inductor_configs=configs)
    path.write_bytes(content.getbuffer())


def open_compiled(path: Path, names: Sequence[str]) -> Callable[..., Sequence[Tensor]]:
    return torch._inductor.aoti_load_package(str(path))


def write_onnx(program: torch.export.ExportedProgram, model: EgoDistill, path: Path) -> None:
    made = torch.onnx.export(
        program, input_names=list(model.inputs), output_names=list(Output._fields), dynamo=True, verbose=False
    )
    if hasattr(made, "rename_axes"):  # older torch keeps its own name of the batch size, such as s41
        made.rename_axes({str(symbol): "batch" for symbol in program.range_constraints})
    made.save(path, external_data=False)


def open_onnx(path: Path, names: Sequence[str]) -> Callable[..., Sequence[Tensor]]:
    (onnxruntime,) = require_packages("onnxruntime", purpose="to run ONNX")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(x) for x in session.run(list(Output._fields), given)]

    return run


IMPORTS = {
    "fp32": "import torch",
    "bf16": "import torch",
    "int8": "import torch, torch.ao.quantization.fx._decomposed",  # not needed by compiled code
}
FORMATS = {
    "export": Format(".pt2", write_program, open_program, "{imports}; torch.export.load('{file}').module()({inputs})"),
    "aoti": Format(
        ".pt2",
        write_compiled,
        open_compiled,
        "import torch; torch._inductor.aoti_load_package('{file}')({inputs}), or AOTIModelPackageLoader in C++",
    ),
    "onnx": Format(".onnx", write_onnx, open_onnx, "onnxruntime.InferenceSession('{file}').run(None, inputs by name)"),
}


# ---------------------------------------------------------------------------------------------------------------
# Running


class Exported(nn.Module):
    """An exported file as a model for `evaluate()` and `predict()`; see `load()`.

    It takes the inputs that its `description` (the JSON) names, for any number of clips, and returns `Output`. It runs
    on the CPU only, with the number of threads that torch has when the file is loaded. A file with a fixed
    `batch_size` runs as often as necessary. Raise ExportError if the file, its description or a package is missing or
    damaged.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__()
        path = Path(path)
        self.description = read_description(path)
        self.inputs: tuple[str, ...] = tuple(entry["name"] for entry in self.description["inputs"])
        self.clip_spec = clips.ClipSpec(**self.description["clip_spec"])
        self.precision, self.class_names = self.description["precision"], self.description["class_names"]
        self.feature_dim, self.num_classes = (entry["shape"][1] for entry in self.description["outputs"])
        batch = self.description["inputs"][0]["shape"][0]
        self.batch_size: int | None = batch if isinstance(batch, int) else None
        try:
            opened = FORMATS[self.description["kind"]].open(path, self.inputs)
        except ExportError:
            raise
        except Exception as error:  # torch and onnxruntime have no common class for these errors
            raise ExportError(
                f"{path} cannot be opened: it is truncated, in another format, or contains more than a program "
                f"({type(error).__name__})"
            ) from error
        # torch's modules for loaded files raise an error in train() and eval(), so they must not become children.
        self.run = lambda *inputs: opened(*inputs)

    if TYPE_CHECKING:  # A torch module's call has no types.

        def __call__(self, *inputs: Tensor) -> Output: ...

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Output:
        with torch.autocast("cpu", enabled=False):  # the dtypes of a program are fixed
            count = len(inputs[0])
            size = self.batch_size or count
            if size == count:
                return Output(*self.run(*inputs))
            parts = [self.run(*part) for part in equal_parts(inputs, size)]
            return Output(*(torch.cat(outputs)[:count] for outputs in zip(*parts, strict=True)))


def equal_parts(inputs: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield the clips in parts of `size`; the last one is filled with repetitions of the last clip."""
    count = len(inputs[0])
    if any(len(x) != count for x in inputs):
        raise ExportError(f"the inputs have different numbers of clips: {[len(x) for x in inputs]}")
    for start in range(0, count, size):
        rows = torch.arange(start, start + size).clamp(max=count - 1)
        yield tuple(x[rows] for x in inputs)


def load(path: str | os.PathLike) -> Exported:
    """Return the file that `export()` wrote as a model.

    An exported file is a program, and a compiled one machine code: load it only if you trust its source. Raise
    ExportError if the file, its description or a package is missing or damaged.

    >>> from egodistill import EgoDistill, batches, export
    >>> model = EgoDistill.load("student.pt")
    >>> _ = export.export(model, "student.pt2")
    >>> exported = export.load("student.pt2")
    >>> feature, logits = exported(*batches.example_inputs(model, batch_size=3))
    >>> exported.inputs, logits.shape
    (('frames', 'imu'), torch.Size([3, 13]))
    """
    return Exported(path)


def read_description(path: Path) -> dict[str, Any]:
    """Return the description of an exported file. Raise ExportError if one of the two is missing or damaged."""
    described = description_of(path)
    for file, why in (
        (path, "no such file"),
        (described, "the description is missing: the export was interrupted, or it was not copied with the file"),
    ):
        if not file.is_file():
            raise ExportError(f"{file}: {why}")
    try:
        description = json.loads(described.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{described} is not valid JSON: {error}") from error
    if not isinstance(description, dict) or description.get("format") != DESCRIPTION_FORMAT:
        raise ExportError(f"{described} is not a description in the format {DESCRIPTION_FORMAT!r}; export again")
    return description


# ---------------------------------------------------------------------------------------------------------------
# Comparison with the original


class Comparison(NamedTuple):
    """The comparison of one exported file with its original model, from `compare()`."""

    file: str  # "original" for the model itself, in eager torch.
    kind: str  # Format of the file, "eager" for the model itself.
    precision: str
    agreement: float  # Share of clips with the same best class as the original, 0 to 1.
    feature_difference: float  # Largest absolute difference over all clips and dimensions.
    top1: float | None  # Share of clips with the right class; None if a clip of the store has no label.
    megabytes: float
    milliseconds: float  # Processor time for one clip on one core.


@torch.no_grad()
def compare(
    model: EgoDistill, store: Any, paths: Sequence[str | os.PathLike], *, repeats: int = 20
) -> list[Comparison]:
    """Compare exported files with their original on all clips of a store; the first row is the original.

    All models run on one thread. The time is the median of `repeats` runs with a single clip; the models take turns,
    and processor time is measured, so that other programs have less effect. Reading is not included. Raise ExportError
    if a file cannot be loaded or the store has no clips, EgoDistillError if the store does not fit the model.

    >>> from egodistill import EgoDistill, data, export
    >>> model, test = EgoDistill.load("student.pt"), data.ClipStore("store").split("test")
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
        models = [original, *(load(path) for path in paths)]
        batches = [[run(*clips) for run in models] for clips in store_clips(model, store)]
        outputs = [Output(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*batches, strict=True)]
        first = next(store_clips(model, store, 1))
        times = milliseconds(models, tuple(x[:1] for x in first), repeats)
    finally:
        torch.set_num_threads(threads)
    labels, wanted = torch.as_tensor(store.labels), outputs[0]
    sizes = [sum(x.nbytes for x in model.state_dict().values()), *(Path(path).stat().st_size for path in paths)]
    names = [("original", "eager", "fp32")]
    names += [
        (str(path), run.description["kind"], run.description["precision"])
        for path, run in zip(paths, models[1:], strict=True)
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
