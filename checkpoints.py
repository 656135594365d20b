"""Files of models, of trainings and of published weights: written whole, read without running code, loaded strictly.

    from egodistill import checkpoints

    checkpoints.save_model(model, "model.pt")               # a student, a teacher or a baseline
    model = checkpoints.load_model("model.pt")              # whichever of them it holds, in evaluation mode

    state = checkpoints.read_weights("x3d_m.pyth")          # published weights, by the names of their authors
    layout = checkpoints.find_layout(state, layouts, "x3d_m.pyth")
    weights, names, ignored = checkpoints.rename(state, layout)
    checkpoints.load_strictly(net, weights, "x3d_m.pyth", names=names)

A model file is what `torch.save()` makes of a dict: format, class, arguments of its constructor, class names, weights.
A class that can be saved has `arguments`, a dict of plain values, `class_names`, and `from_arguments()`.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from egodistill import EgoDistillError, EgoDistillOSError, files

__all__ = [
    "Layout",
    "find_layout",
    "load_model",
    "load_strictly",
    "read_checkpoint",
    "read_tensors",
    "read_weights",
    "rename",
    "save_model",
    "write_checkpoint",
]

MODEL_FORMAT = "egodistill model 1"
# The classes that a model file may name, and their modules. They are imported when a file is read.
MODEL_CLASSES = {
    "EgoDistill": "student",
    "Teacher": "teachers",
    "AdaFuse": "baselines",
    "STTS": "baselines",
    "ListenToLook": "baselines",
}


# ---------------------------------------------------------------------------------------------------------------
# Models


def save_model(model: nn.Module, path: str | os.PathLike) -> None:
    """Write a model to one file that `load_model()` needs nothing else for; it is complete or absent.

    Raise EgoDistillError for a class that no file may name, EgoDistillOSError if the file cannot be written.
    """
    name = next((kind.__name__ for kind in type(model).__mro__ if kind.__name__ in MODEL_CLASSES), None)
    if name is None:
        raise EgoDistillError(
            f"{type(model).__name__} is no model of this library; keep its weights by "
            "torch.save(model.state_dict(), path)"
        )
    content = {
        "format": MODEL_FORMAT,
        "class": name,
        "arguments": model.arguments,
        "class_names": model.class_names,
        "weights": model.state_dict(),
    }
    write_checkpoint(path, content)


def load_model(path: str | os.PathLike, expected: type[nn.Module] | None = None) -> nn.Module:
    """Return the model in a file, in evaluation mode, on the CPU.

    Raise EgoDistillError, with the file's name, if it holds something else than a model (of the class `expected`, or
    one derived from it, where that is given), is damaged, or if its weights do not fit.
    """
    content = read_checkpoint(path, MODEL_FORMAT)
    try:
        name = content["class"]
        kind = getattr(importlib.import_module(f"egodistill.{MODEL_CLASSES[name]}"), name)
        arguments, class_names, weights = content["arguments"], content["class_names"], dict(content["weights"])
    except (KeyError, TypeError, ValueError) as error:
        raise EgoDistillError(f"{path} does not describe a model ({type(error).__name__}: {error})") from error
    if expected is not None and issubclass(expected, kind):
        kind = expected  # it may be a class of the caller's own
    elif expected is not None and not issubclass(kind, expected):
        raise EgoDistillError(f"{path} holds a model of the class {name}; this is {expected.__name__}.load()")
    try:
        model = kind.from_arguments(arguments, class_names)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise EgoDistillError(
            f"the arguments in {path} do not build a model of the class {name} ({type(error).__name__}: {error})"
        ) from error
    load_strictly(model, weights, f"the file {path}", exact=True)
    return model.eval()


# ---------------------------------------------------------------------------------------------------------------
# Weights


def load_strictly(
    module: nn.Module,
    weights: Mapping[str, Any],
    source: str,
    *,
    names: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    exact: bool = False,
) -> None:
    """Load weights into a module, or raise EgoDistillError with all that does not fit.

    `source` begins the message. `names` are the file's names of our keys, for the message. Parameters whose names begin
    as one of `keep` may be absent, and stay as they are. Floating point numbers of another precision are converted,
    unless `exact`: then they do not fit. A module on the meta device gets tensors of its own.
    """
    names, own = names or {}, module.state_dict()
    # Files older than 2018 do not count batches; batch norm does not use the count at its default momentum.
    optional = [key for key in own if key.startswith(tuple(keep)) or key.endswith("num_batches_tracked")]
    faults: dict[str, list[str]] = {
        "missing": [key for key in own if key not in weights and key not in optional],
        "unexpected": [names.get(key, key) for key in weights if key not in own],
        "not tensors": [],
        "of another shape or kind": [],
        "not finite": [],
    }
    for key, target in own.items():
        value, name = weights.get(key, target), names.get(key, key)
        if not isinstance(value, Tensor):
            faults["not tensors"].append(f"{name}: {type(value).__name__}")
        elif value.shape != target.shape or not same_kind(value.dtype, target.dtype, exact):
            faults["of another shape or kind"].append(
                f"{name}: {value.dtype} {list(value.shape)} for {target.dtype} {list(target.shape)}"
            )
        elif not value.is_meta and not value.isfinite().all():
            faults["not finite"].append(name)
    if any(faults.values()):
        told = [f"{len(keys)} {fault} ({shorten(keys)})" for fault, keys in faults.items() if keys]
        verb = "do" if source.endswith("weights") else "does"
        raise EgoDistillError(f"{source} {verb} not fit this {type(module).__name__}: {'; '.join(told)}")
    fitting = own | {key: value for key, value in weights.items() if key in own}
    if any(value.is_meta for value in own.values()):
        for key, value in fitting.items():
            if value.is_meta:  # a counter of batches that the file lacks
                value = torch.zeros(value.shape, dtype=value.dtype)
            fitting[key] = value.detach().to(own[key].dtype, copy=True).contiguous()
        module.load_state_dict(fitting, assign=True)
    else:
        module.load_state_dict(fitting)


def same_kind(found: torch.dtype, wanted: torch.dtype, exact: bool) -> bool:
    return found == wanted if exact else found.is_floating_point == wanted.is_floating_point


def shorten(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


# ---------------------------------------------------------------------------------------------------------------
# Files


def write_checkpoint(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write a dict of tensors and plain values. Raise EgoDistillOSError if there is no room for it."""
    try:
        with files.atomic_write(path) as part, open(part, "wb") as file:
            torch.save(dict(content), file)
    except (EgoDistillOSError, RuntimeError) as error:
        # torch covers the system's words with its own.
        causes = [cause for cause in (error.__cause__, error.__context__) if isinstance(cause, OSError)]
        raise EgoDistillOSError(
            f"{path}: cannot be written ({causes[0] if causes else error}): it needs {tensor_bytes(content) / 1e6:.1f} "
            f"MB, and {files.free_megabytes(path):.1f} MB are free there. What was there before is unchanged"
        ) from error


def tensor_bytes(content: Any) -> int:
    """Return the bytes of all tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    values = content.values() if isinstance(content, Mapping) else content if isinstance(content, (list, tuple)) else ()
    return sum(map(tensor_bytes, values))


def read_tensors(path: str | os.PathLike) -> dict[str, Any]:
    """Return a file's dict of tensors and plain values; code that it may hold never runs (`weights_only`).

    Raise EgoDistillOSError if there is no such file, EgoDistillError if it is damaged or of another kind.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise EgoDistillOSError(f"there is no file {path}") from error
    except Exception as error:  # torch has no common class for all that a file can hold
        # Its own words run over many lines and advise to switch its guard off.
        raise EgoDistillError(
            f"{path} cannot be read as a checkpoint: it is cut off, of another kind, or holds code "
            f"({type(error).__name__})"
        ) from error
    if not isinstance(content, dict):
        raise EgoDistillError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def read_checkpoint(path: str | os.PathLike, expected: str) -> dict[str, Any]:
    """Return what `write_checkpoint()` wrote under the "format" `expected`; raise EgoDistillError for another one."""
    content = read_tensors(path)
    if content.get("format") != expected:
        raise EgoDistillError(f"{path} is no {expected!r} file; its format is {content.get('format')!r}")
    return content


# ---------------------------------------------------------------------------------------------------------------
# Published weights


@dataclass(frozen=True)
class Layout:
    """How one code base names the weights of one network; the networks' files have these as plain data.

    source       The code base.
    marker       Matches the beginning of a key that only this layout has.
    rules        (pattern, replacement), applied one after the other, lead from its keys to ours.
    ignored      Matches whole keys that are no weights.
    joined       {ours: theirs}: parts of keys whose tensors are put together along the first dimension.
    dimensions   {our key: n}: tensors that get leading dimensions of 1 up to n.
    """

    network: type[nn.Module]
    source: str
    marker: str
    rules: tuple[tuple[str, str], ...] = ()
    ignored: str = "(?!)"  # nothing
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dimensions: Mapping[str, int] = field(default_factory=dict)


def read_weights(checkpoint: str | os.PathLike | Mapping[str, Any], *, unsafe_pickle: bool = False) -> dict[str, Any]:
    """Return the weights by name in a file as its authors released it, or in the content of one.

    `unsafe_pickle` also reads Caffe2's files (.pkl), of which only numpy arrays are taken. Raise EgoDistillOSError if
    there is no such file, EgoDistillError if it is damaged, or holds something else than weights by name.
    """
    source = "the given state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
    if isinstance(checkpoint, Mapping):
        content: Any = checkpoint
    elif source.endswith(".pkl"):
        content = read_caffe2(source, unsafe_pickle)
    else:
        content = read_tensors(source)
    if isinstance(content, Mapping) and content.get("format") == MODEL_FORMAT:
        raise EgoDistillError(f"{source} was written by this library; read it with {content.get('class')}.load()")
    for key in ("model_state", "state_dict", "model", "blobs"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        inside = f" of {list(content)[:5]}" if isinstance(content, Mapping) else ""
        raise EgoDistillError(f"{source} holds no weights by name; its content is a {type(content).__name__}{inside}")
    state = {key: torch.from_numpy(value) if is_numbers(value) else value for key, value in content.items()}
    if state and all(key.startswith("module.") for key in state):  # saved from DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"


def read_caffe2(path: str, unsafe_pickle: bool) -> Any:
    """Return the content of a Caffe2 file, a Python pickle, of which nothing but numpy arrays may come out."""
    if not unsafe_pickle:
        raise EgoDistillError(
            f"{path} is a Caffe2 file, a Python pickle, and pickles can run any code when they are read. If you trust "
            f"its source, give unsafe_pickle=True"
        )
    try:
        with open(path, "rb") as file:
            return ArraysOnly(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise EgoDistillOSError(f"there is no file {path}") from error
    except Exception as error:  # a damaged pickle can raise almost anything
        raise EgoDistillError(
            f"{path} cannot be read as a Caffe2 file ({type(error).__name__}: {str(error)[:200]})"
        ) from error


class ArraysOnly(pickle.Unpickler):
    """A pickle may name any function to be called; this reader calls only those that make numpy arrays."""

    allowed = frozenset(
        {
            ("collections", "OrderedDict"),
            ("_codecs", "encode"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        if module.startswith("numpy") and name in ("_reconstruct", "scalar"):
            # Their module has another name since numpy 2; an array and a number know it.
            example = np.zeros(0) if name == "_reconstruct" else np.float32(0)
            return example.__reduce__()[0]
        return super().find_class(module, name)


def find_layout(state: Mapping[str, Any], layouts: Iterable[Layout], source: str) -> Layout:
    """Return the first layout whose marker is among the names; raise EgoDistillError, which lists them, for none."""
    known = []
    for layout in layouts:
        if any(re.match(layout.marker, key) for key in state):
            return layout
        known.append(f"{layout.network.__name__} of {layout.source}")
    raise EgoDistillError(
        f"{source} has none of the layouts that are known here ({', '.join(known)}). It begins with {list(state)[:5]}"
    )


def rename(state: Mapping[str, Any], layout: Layout) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Return weights by our names, {our name: the name in `state`}, and the names of what is no weight."""
    weights: dict[str, Any] = {}
    names: dict[str, str] = {}
    ignored = []
    for key, value in state.items():
        if re.fullmatch(layout.ignored, key):
            ignored.append(key)
            continue
        ours = key
        for pattern, replacement in layout.rules:
            ours = re.sub(pattern, replacement, ours)
        ours = key if ours in weights else ours  # two of one name: the second one is then unexpected
        weights[ours], names[ours] = value, key
    for whole, parts in layout.joined.items():
        join(weights, names, whole, parts)
    for key, count in layout.dimensions.items():
        value = weights.get(key)
        if isinstance(value, Tensor) and value.ndim < count:
            weights[key] = value[(None,) * (count - value.ndim)]
    return weights, names, ignored


def join(weights: dict[str, Any], names: dict[str, str], whole: str, parts: tuple[str, ...]) -> None:
    """Put the tensors whose names differ only in `parts` together under the name that has `whole` there."""
    for first in [key for key in weights if parts[0] in key]:
        keys = [first.replace(parts[0], part) for part in parts]
        if all(isinstance(weights.get(key), Tensor) for key in keys):
            ours = first.replace(parts[0], whole)
            weights[ours], names[ours] = torch.cat([weights.pop(key) for key in keys]), names[first]
