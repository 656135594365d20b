"""Files of models, training runs and published weights: written atomically, read safely, loaded strictly.

    from egodistill.engine import checkpoints

    checkpoints.save_model(model, "model.safetensors")      # a student or a teacher
    model = checkpoints.load_model("model.safetensors", EgoDistill)  # in evaluation mode; `models.load_any()` takes any

    state = checkpoints.read_weights("x3d_m.pyth")          # published weights, with their authors' names
    layout = checkpoints.find_layout(state, layouts, "x3d_m.pyth")
    weights, names, ignored = checkpoints.rename(state, layout)
    checkpoints.load_strictly(net, weights, "x3d_m.pyth", names=names)

A model file is in the format safetensors. Its metadata have one entry, "egodistill", a record in JSON: class, arguments
of the constructor, class names, the stage that trained it last, with which settings and history, calibration, and a
SHA-256 of all of these and the weights. A class that can be saved has a name in files, `file_class`, and `arguments`, a
dict of plain values, `class_names` and `from_arguments()`. No file has code: of networks that are not of this library,
it has the names of their classes, and the caller of `load_model()` passes these.

The state of an interrupted training is torch's own format, as is most of what others have published.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import pickle
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..support import files
from ..support.errors import EgoDistillError, EgoDistillOSError, describe_error
from ..support.pickles import ArrayUnpickler, first_bytes, read_pickle
from . import calibration, safetensors

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
    "weights_fingerprint",
    "write_checkpoint",
]

Kind = TypeVar("Kind", bound=nn.Module)
Parts = Mapping[str, Any] | Sequence[Any]

MODEL_FORMAT = "egodistill model 2"
RECORD = "egodistill"  # name of the metadata
MAX_ENTRIES = 1 << 13  # of nested dicts, which may contain each other


# ---------------------------------------------------------------------------------------------------------------
# Models


def save_model(model: nn.Module, path: str | os.PathLike) -> None:
    """Write a model to one self-contained file for `load_model()`; the file is complete or absent.

    Raise the errors of `file_content()`, EgoDistillError for weights that are not finite, and EgoDistillOSError if the
    file cannot be written.
    """
    record, weights = file_content(model, path)
    if broken := [key for key, value in weights.items() if not value.isfinite().all()]:
        raise EgoDistillError(f"{path}: not written, because these weights are not finite: {shorten(broken)}")
    record["sha256"] = weights_hash(weights, record)
    content = safetensors.pack(weights, {RECORD: json.dumps(record)})
    with writing(path, len(content)), files.atomic_write(path) as part:
        part.write_bytes(content)


def file_content(model: nn.Module, path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the record and the weights that the file of a model would have, finite or not.

    Raise EgoDistillError if no file can have them: for a class without a `file_class`, arguments that JSON changes, and
    weights of a type that files lack, or of floating-point numbers other than float32.
    """
    require_suffix(path)
    name = getattr(model, "file_class", None)
    if name is None:
        raise EgoDistillError(
            f"{type(model).__name__} is not a model of this library; save its weights with "
            "torch.save(model.state_dict(), path)"
        )
    require_whole(model)
    if lost := custom_arguments(type(model)) - set(model.arguments):
        argument = min(lost)
        raise EgoDistillError(
            f"{path}: not written, because it would not have the argument {argument!r} of {type(model).__name__}: keep "
            f"it in __init__, self.arguments[{argument!r}] = {argument}"
        )
    weights = model.state_dict()
    if strange := [key for key, value in weights.items() if not isinstance(value, Tensor)]:
        raise EgoDistillError(f"{path}: not written, because these are no tensors: {shorten(strange)}")
    if other := other_than_float32(weights):
        raise EgoDistillError(f"{path}: not written: {other} is {weights[other].dtype}; call model.float() first")
    if unknown := [key for key, value in weights.items() if value.dtype not in safetensors.NAMES]:
        raise EgoDistillError(
            f"{path}: not written: {unknown[0]} is {weights[unknown[0]].dtype}, which a model file cannot have; keep "
            f"such numbers as float32 or int64, or register the buffer with persistent=False"
        )
    parts = ({} if is_library_class(type(model)) else {"class": model}) | getattr(model, "parts", {})
    record = {
        "format": MODEL_FORMAT,
        "class": name,
        "trained_by": model.trained_by,
        "arguments": model.arguments,
        "class_names": model.class_names,
        "parts": {part: class_name(type(network)) for part, network in parts.items()},
        "calibration": calibration.calibration_of(model).record(),
        "trained_with": model.trained_with,
    }
    try:
        wanted = plain(record)
        record = json.loads(json.dumps(wanted))
    except (TypeError, ValueError) as error:
        raise EgoDistillError(f"{path}: not written, because its arguments are no JSON: {error}") from error
    for argument, value in wanted["arguments"].items():
        if as_tuples(value) != as_tuples(again := record["arguments"][argument]):
            raise EgoDistillError(
                f"{path}: not written, because JSON changes the argument {argument!r}: {value!r} would be {again!r}; "
                f"use finite numbers, strings, lists, and dicts with strings as keys"
            )
    return record, weights


def require_suffix(path: str | os.PathLike) -> None:
    """Raise EgoDistillError unless a path ends as the name of a model file does."""
    if not os.fspath(path).endswith(files.MODEL_SUFFIX):
        raise EgoDistillError(f"{path}: the name of a model file must end in {files.MODEL_SUFFIX}")


def require_whole(model: Any) -> None:
    """Raise EgoDistillError for a copy that `without()` returned, which lacks a part of a student."""
    if getattr(model, "lacks", None):
        raise EgoDistillError(f"this student lacks {model.lacks}; train and save the one that it is a copy of")


def class_name(kind: type) -> str:
    """Return module and name of a class, such as "my_parts:Spectrum"."""
    return f"{kind.__module__}:{kind.__qualname__}"


def custom_arguments(kind: type) -> set[str]:
    """Return the names of the arguments that a class of one's own has besides those of the class it inherits from."""
    ours = next((base for base in kind.__mro__ if is_library_class(base)), kind)
    own, known = (inspect.signature(each.__init__).parameters for each in (kind, ours))
    named = (name for name, one in own.items() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))
    return {*named} - {*known}


def is_library_class(kind: type) -> bool:
    """Return whether a class is the one that a file's name of a class stands for, and no subclass of it."""
    return "file_class" in vars(kind)


def other_than_float32(weights: Mapping[str, Any]) -> str | None:
    """Return the name of a floating-point weight of another type, or None."""
    floats = (
        (name, value) for name, value in weights.items() if isinstance(value, Tensor) and value.is_floating_point()
    )
    return next((name for name, value in floats if value.dtype != torch.float32), None)


def load_model(path: str | os.PathLike, expected: type[Kind], parts: Parts = ()) -> Kind:
    """Return the model in a file, in evaluation mode, on the CPU.

    "glasses" is the student that comes with the library. `expected` is the class, which
    may be the caller's, with the `file_class` of the file. `parts` is {part: network or its class} for each network
    that is not of this library; or a list, from which each part takes what has the name of its class, as the model
    itself ("class") does. Raise EgoDistillOSError if the file does not exist, and EgoDistillError, which names it, if
    it is damaged, of another class, or its weights do not fit.

    >>> from egodistill import EgoDistill
    >>> from egodistill.engine import checkpoints
    >>> checkpoints.load_model("student.safetensors", EgoDistill).training
    False
    """
    return build_model(path, expected, parts, *read_model(path))


def read_model(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the record and the weights in a model file. Raise as `load_model()` does."""
    path = files.shipped(path)
    require_file(path)
    if path.endswith((".pt2", ".onnx")):
        raise EgoDistillError(f"{path} is an exported program; give the file of its model")
    require_suffix(path)
    weights, text = read_safetensors(path)
    try:
        record = json.loads(text or "{}")
        shown = record.get("format")
    except (AttributeError, ValueError, RecursionError) as error:
        raise EgoDistillError(f"{path} does not describe a model ({error})") from error
    if shown != MODEL_FORMAT:
        raise EgoDistillError(f"{path} is no model of this library: its format is {shown!r}, not {MODEL_FORMAT!r}")
    if record.get("sha256") != weights_hash(weights, {key: value for key, value in record.items() if key != "sha256"}):
        raise EgoDistillError(
            f"{path} does not have the weights and settings that were saved: it is damaged, or was changed afterwards; "
            f"copy or train it again. For other class_names, load the original, set them in the model, and save it"
        )
    return record, weights


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], str]:
    """Return the tensors in a file, and the record of a model, "" without one. Raise EgoDistillError for damage."""
    try:
        tensors, metadata = safetensors.unpack(Path(path).read_bytes())
    except Exception as error:  # a damaged file can raise almost any error
        raise EgoDistillError(f"{path} cannot be read: it is damaged, or no safetensors file ({error})") from error
    return tensors, metadata.get(RECORD, "")


def build_model(
    path: str | os.PathLike,
    expected: type[Kind],
    parts: Parts,
    record: Mapping[str, Any],
    weights: Mapping[str, Tensor],
) -> Kind:
    """Return the model of a record and weights; the path is for messages. Raise as `load_model()` does."""
    kind: Any = expected
    try:
        name, class_names, own = record["class"], record["class_names"], record["parts"]
        arguments = {key: as_tuples(value) for key, value in record["arguments"].items()}
        trained_by, trained_with = record["trained_by"], record["trained_with"]
        calibrated = calibration.Calibration(**record["calibration"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EgoDistillError(f"{path} does not describe a model ({type(error).__name__}: {error})") from error
    if name != getattr(kind, "file_class", None):
        raise EgoDistillError(
            f"{path} contains a model of the class {name}, not {kind.__name__}; read it with {name}.load()"
        )
    given = dict(parts) if isinstance(parts, Mapping) else parts_by_name(own, parts)
    kind = given.get("class", kind)
    require_parts(path, own, given if is_library_class(kind) else {"class": kind, **given})
    given.pop("class", None)
    try:
        model: Any = kind.from_arguments(arguments, class_names, **given)
    except Exception as error:  # of a class of one's own, which may have changed since
        raise EgoDistillError(
            f"{path}: its arguments do not build a model of the class {name} ({type(error).__name__}: {error})"
        ) from error
    load_strictly(model, weights, f"the file {path}", exact=True)
    model.trained_by, model.trained_with = trained_by, trained_with
    model.calibration = calibrated
    return model.eval()


def as_tuples(value: Any) -> Any:
    """Return a value of JSON with tuples in place of lists, as constructors had them."""
    if isinstance(value, dict):
        return {key: as_tuples(inner) for key, inner in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


def name_of(part: Any) -> str | None:
    """Return the name of a network's class; None for what builds it in another way."""
    kind = type(part) if isinstance(part, nn.Module) else part
    return kind.__name__ if isinstance(kind, type) else None


def parts_by_name(own: Mapping[str, str], parts: Sequence[Any]) -> dict[str, Any]:
    """Return {part: network or class} for the parts of a file, from a list of them."""
    short = {part: named.rpartition(":")[2].rpartition(".")[2] for part, named in own.items()}
    return {part: one for part, name in short.items() for one in parts if name_of(one) == name}


def require_parts(path: str | os.PathLike, own: Mapping[str, str], given: Mapping[str, Any]) -> None:
    """Raise EgoDistillError unless those classes are given that a file names as not of this library."""
    for part, kind in own.items():
        name = kind.rpartition(":")[2].rpartition(".")[2]
        way_out = f"call {name}.load()" if part == "class" else f"pass it: load(..., {part}={name})"
        option = f"--custom FILE.py:{name}"
        if kind.startswith(("torch.", "torchvision.")):  # nn.Sequential: not its layers
            way_out = f"pass the network as you built it: load(..., {part}=network)"
            option = "--custom FILE.py:NAME with the function that builds it"
        if part not in given:
            raise EgoDistillError(
                f"{path}: its {part} is {kind}, which is not of this library, and no file contains code; {way_out}, "
                f"or give {option}"
            )
        found = name_of(given[part])
        if found not in (None, name):
            raise EgoDistillError(f"{path}: its {part} is {kind}, not {found}; {way_out}")
    if extra := given.keys() - {"class"} - own.keys():
        if min(extra) in ("device", "map_location"):
            raise EgoDistillError(f"{path}: load() returns the model on the CPU; move it, model.to(DEVICE)")
        raise EgoDistillError(f"{path}: its {min(extra)} is of this library; leave out yours")


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
    """Load weights {key: tensor} into a module; each tensor must fit, and none may be missing or left over.

    A module on the meta device gets new tensors. Parameters whose names start with one of `keep` may be missing and
    stay unchanged. Other floating-point precisions are converted; with `exact`, they are errors. Raise EgoDistillError,
    which lists everything that does not fit, with the `source` and the keys in the file (`names`: {our key: theirs}).
    """
    names, own = names or {}, module.state_dict()
    # Files from before 2018 have no num_batches_tracked; batch norm does not use it at its default momentum.
    optional = [key for key in own if key.startswith(tuple(keep)) or key.endswith("num_batches_tracked")]
    faults: dict[str, list[str]] = {
        "missing": [key for key in own if key not in weights and key not in optional],
        "unexpected": [names.get(key, key) for key in weights if key not in own],
        "not tensors": [],
        "without values (sparse or on the meta device)": [],
        "of another shape or type": [],
        "not finite": [],
    }
    for key, target in own.items():
        if key not in weights:
            continue
        value, name = weights[key], names.get(key, key)
        if not isinstance(value, Tensor):
            faults["not tensors"].append(f"{name}: {type(value).__name__}")
        elif value.is_meta or value.is_nested or value.layout != torch.strided:
            faults["without values (sparse or on the meta device)"].append(name)
        elif value.shape != target.shape or not dtype_fits(value.dtype, target.dtype, exact):
            faults["of another shape or type"].append(
                f"{name}: {value.dtype} {list(value.shape)} for {target.dtype} {list(target.shape)}"
            )
        elif not value.to(target.dtype).isfinite().all():
            faults["not finite"].append(name)
    if any(faults.values()):
        lines = [f"{len(keys)} {fault} ({shorten(keys)})" for fault, keys in faults.items() if keys]
        verb = "do" if source.endswith("weights") else "does"
        raise EgoDistillError(f"{source} {verb} not fit this {type(module).__name__}: {'; '.join(lines)}")
    fitting = own | {key: value for key, value in weights.items() if key in own}
    if any(value.is_meta for value in own.values()):
        for key, value in fitting.items():
            if value.is_meta:  # num_batches_tracked, which is missing in the file
                value = torch.zeros(value.shape, dtype=value.dtype)
            # `torch.empty_like()` of a meta tensor forgets the memory format of 1x1x1 convolutions.
            target = torch.empty_strided(own[key].shape, own[key].stride(), dtype=own[key].dtype, device=value.device)
            fitting[key] = target.copy_(value.detach())
        module.load_state_dict(fitting, assign=True)
    else:
        module.load_state_dict(fitting)


def dtype_fits(found: torch.dtype, wanted: torch.dtype, exact: bool) -> bool:
    """Return whether a dtype fits: the same one with `exact`, otherwise both floating point or neither."""
    return found == wanted if exact else found.is_floating_point == wanted.is_floating_point


def weights_fingerprint(module: nn.Module, settings: Any = None) -> str:
    """Return a hash of a module's weights and buffers, and of JSON values beside them."""
    return weights_hash(module.state_dict(), settings)[:16]


def weights_hash(weights: Mapping[str, Any], settings: Any) -> str:
    """Return the SHA-256 of weights and of JSON values beside them."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in sorted(weights.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def shorten(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


# ---------------------------------------------------------------------------------------------------------------
# Files


def write_checkpoint(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write a dict of tensors and plain values atomically. Raise EgoDistillOSError if the file cannot be written.

    Numpy numbers, strings and arrays are converted to Python's, because `read_checkpoint()` cannot read them.
    """
    with writing(path, tensor_bytes(content)), files.atomic_write(path) as part, open(part, "wb") as file:
        torch.save(plain(content), file)


@contextlib.contextmanager
def writing(path: str | os.PathLike, size: int) -> Iterator[None]:
    """Let the block write a file of so many bytes. Raise EgoDistillOSError, with the free space, if it cannot."""
    try:
        yield
    except (EgoDistillOSError, RuntimeError) as error:
        # torch hides behind its own message what ended the writing: that of the system, or Ctrl-C.
        causes: list[BaseException] = [error]
        while (before := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(before)
        if stop := next((cause for cause in causes if not isinstance(cause, Exception)), None):
            raise stop from None
        why = describe_error(next((cause for cause in causes[1:] if isinstance(cause, OSError)), error))
        raise EgoDistillOSError(
            f"{path}: cannot be written ({why}): it needs {size / 1e6:.1f} MB, and "
            f"{files.free_megabytes(path):.1f} MB are free there. An older file is unchanged"
        ) from error


def plain(content: Any) -> Any:
    """Replace numpy numbers, strings and arrays in dicts, lists and tuples by Python's numbers, strings and lists."""
    if isinstance(content, Mapping):
        return {name: plain(value) for name, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(map(plain, content))
    return content.tolist() if isinstance(content, (np.generic, np.ndarray)) else content


def tensor_bytes(content: Any) -> int:
    """Return the size in bytes of all tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    values = content.values() if isinstance(content, Mapping) else content if isinstance(content, (list, tuple)) else ()
    return sum(map(tensor_bytes, values))


def read_tensors(path: str | os.PathLike) -> dict[str, Any]:
    """Return the dict of tensors and plain values in a file; code in the file never runs (`weights_only`).

    Raise EgoDistillOSError if the file does not exist, and EgoDistillError if it is damaged or has other content.
    """
    path = os.fspath(path)  # no number: open() takes it for a file that is open already, and closes that
    if path.endswith(files.MODEL_SUFFIX):
        require_file(path)
        tensors, record = read_safetensors(path)
        if record:
            raise EgoDistillError(
                f"{path} is a model of this library, not published weights; load() of its class reads it, in commands "
                f"--student or --teacher-file. Of a part, use model.image_encoder.state_dict()"
            )
        return tensors
    check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no common class for these errors
        # Its own message has many lines, and advises to turn off weights_only.
        if os.fspath(path).endswith((".pt2", ".onnx")):
            raise EgoDistillError(f"{path} is an exported program; give the file of its model") from error
        raise EgoDistillError(
            f"{path} cannot be read as a checkpoint: it is truncated, contains code, or is another kind of file; "
            f"give the file of a trained model"
        ) from error
    if not isinstance(content, dict):
        raise EgoDistillError(f"{path} contains a {type(content).__name__}, not a dict of weights")
    return content


def require_file(path: str | os.PathLike) -> None:
    """Raise EgoDistillOSError for a file that is missing or cannot be read, EgoDistillError for what is no file."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            open(path, "rb").close()  # a missing right must not look like damage
    except FileNotFoundError as error:
        raise EgoDistillOSError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # a loop of links, or a name that no file can have
        raise EgoDistillOSError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device"
        raise EgoDistillError(f"{path}: a {kind}, not a file of weights; give the file of a trained model")


def check_archive(path: str | os.PathLike) -> None:
    """Raise EgoDistillError unless a path is a regular file; if it is a zip archive, one without damage.

    Neither torch nor numpy compares all checksums, and torch unpacks compiled programs: no part may lead out of their
    folder.
    """
    require_file(path)
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            outside = [entry.orig_filename for entry in archive.infolist() if escapes_folder(entry)]
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError, ValueError) as error:
        raise EgoDistillError(f"{path} cannot be read as a checkpoint: a damaged archive ({error})") from error
    if outside:
        raise EgoDistillError(
            f"{path}: its part {files.shorten(outside[0])} leads out of the folder in which it is unpacked; it is no "
            f"file of torch, so do not use it"
        )
    if damaged:
        raise EgoDistillError(f"{path} is damaged: the checksum of its part {damaged} is wrong; copy or train it again")


def escapes_folder(entry: zipfile.ZipInfo) -> bool:
    """Return whether an entry of an archive is a link, or is written outside of the folder of the others."""
    parts = re.split(r"[/\\]", entry.orig_filename)
    return ".." in parts or not parts[0] or ":" in parts[0] or stat.S_ISLNK(entry.external_attr >> 16)


def read_checkpoint(path: str | os.PathLike, expected: str) -> dict[str, Any]:
    """Return the dict that `write_checkpoint()` wrote. Raise EgoDistillError if its "format" is not as expected."""
    content = read_tensors(path)
    form = content.get("format")
    if isinstance(form, str) and form != expected and form.rstrip("0123456789") == expected.rstrip("0123456789"):
        raise EgoDistillError(
            f"{path}: its format is {form!r}, of another version of this library; this one reads {expected!r}. Use "
            f"that version, or train the model again"
        )
    if form != expected:
        bare = all(isinstance(value, Tensor) for value in content.values())
        hint = "; for a bare state_dict, build the model and call load_state_dict()" if bare else ""
        raise EgoDistillError(f"{path} is not an {expected!r} file; its format is {form!r}{hint}")
    return content


# ---------------------------------------------------------------------------------------------------------------
# Published weights


@dataclass(frozen=True)
class Layout:
    """The names of one network's weights in one code base; the networks' modules keep these as plain data."""

    network: type[nn.Module]
    source: str  # the code base
    marker: str  # matches the start of a key that no later layout in the list has
    rules: tuple[tuple[str, str], ...] = ()  # (pattern, replacement), in order: its keys to ours
    ignored: str = "(?!)"  # matches whole keys that are not weights: by default none
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # {ours: theirs}: keys to join in axis 0
    dimensions: Mapping[str, int] = field(default_factory=dict)  # {our key: n}: leading dimensions of 1, up to n
    axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # {pattern: order of axes}; others must be 1
    ones: Mapping[str, str] = field(default_factory=dict)  # {end of our key: of another}: left out; ones in its shape


def read_weights(checkpoint: str | os.PathLike | Mapping[str, Any], *, unsafe_pickle: bool = False) -> dict[str, Any]:
    """Return {name: tensor} of a file with published weights, or of the content of one.

    Files of torch, of numpy (.npz) and of flax (a pickle of nested dicts, whose names are joined by "/") are read, with
    `unsafe_pickle` also Caffe2's (.pkl), of which only numpy arrays are read. Raise EgoDistillOSError if the file does
    not exist, and EgoDistillError if it is damaged or does not contain named weights.

    >>> import torch
    >>> from egodistill.engine import checkpoints
    >>> torch.save({"model_state": torch.nn.Linear(2, 3).state_dict()}, "released.pyth")
    >>> list(checkpoints.read_weights("released.pyth"))
    ['weight', 'bias']
    """
    source = "the given state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
    if isinstance(checkpoint, Mapping):
        content: Any = checkpoint
    elif source.endswith(".pkl"):
        content = read_caffe2(source, unsafe_pickle)
    elif source.endswith(".npz"):
        content = read_npz(source)
    elif is_plain_pickle(source):
        check_archive(source)
        content = join_names(read_pickle(source, FlaxUnpickler, "a pickle of numpy arrays"), source)
    else:
        content = read_tensors(source)
    for key in ("model_state", "state_dict", "model", "blobs"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        inside = f" of {list(content)[:5]}" if isinstance(content, Mapping) else ""
        raise EgoDistillError(
            f"{source} does not contain named weights; its content is a {type(content).__name__}{inside}"
        )
    state = {key: torch.from_numpy(value) if is_numeric(value) else value for key, value in content.items()}
    if state and all(key.startswith("module.") for key in state):  # saved from DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def is_numeric(value: Any) -> bool:
    kind = value.dtype if isinstance(value, np.ndarray) else np.dtype(object)
    return kind.kind in "fiu" and kind.isnative and kind.itemsize <= 8  # torch has no other numbers


def read_caffe2(path: str, unsafe_pickle: bool) -> Any:
    """Return the content of a Caffe2 file, a Python pickle from which only numpy arrays are read.

    Raise EgoDistillError without `unsafe_pickle`, and for a damaged file.
    """
    if not unsafe_pickle:
        raise EgoDistillError(
            f"{path} is a Caffe2 file, a Python pickle, and reading a pickle can run any code. If you trust its "
            f"source, pass unsafe_pickle=True to teachers.load() in Python; no command does"
        )
    check_archive(path)
    return read_pickle(path, ArrayUnpickler, "a Caffe2 file")


class FlaxUnpickler(ArrayUnpickler):
    """A reader of pickles of plain containers and numpy arrays."""

    allowed: ClassVar = {
        name: found for name, found in ArrayUnpickler.allowed.items() if name[1] in ("dtype", "ndarray", "_reconstruct")
    }


def is_plain_pickle(path: str) -> bool:
    """Return whether a file is a pickle, and not one in torch's old format, which begins with a magic number."""
    head = first_bytes(path)
    return head[:1] == b"\x80" and pickle.encode_long(torch.serialization.MAGIC_NUMBER) not in head


def join_names(content: Any, source: str) -> Any:
    """Return nested dicts as one dict, with names joined by "/".

    Raise EgoDistillError if they have too many entries, or two of one name.
    """
    if not isinstance(content, dict):
        return content
    flat: dict[str, Any] = {}
    waiting = [(str(name), value) for name, value in content.items()]
    for name, value in waiting:  # the list grows meanwhile
        if name in flat:
            raise EgoDistillError(f"{source} is damaged: it contains {name} twice")
        if not isinstance(value, dict):
            flat[name] = value
        elif len(waiting) + len(value) > MAX_ENTRIES:
            raise EgoDistillError(f"{source} does not contain named weights: it has more than {MAX_ENTRIES} entries")
        else:
            waiting += [(f"{name}/{inner}", deeper) for inner, deeper in value.items()]
    return flat


def read_npz(path: str) -> dict[str, Any]:
    """Return the arrays of a numpy archive. Raise EgoDistillError if it is damaged or contains other objects."""
    check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged array can raise almost any error
        raise EgoDistillError(
            f"{path} cannot be read as an archive of numpy arrays ({type(error).__name__}: {str(error)[:200]}); "
            f"give one that numpy.savez() wrote"
        ) from error


def find_layout(state: Mapping[str, Any], layouts: Iterable[Layout], source: str) -> Layout:
    """Return the first layout whose marker matches a key. Raise EgoDistillError, which lists them, if none does."""
    known = []
    for layout in layouts:
        if any(re.match(layout.marker, key) for key in state):
            return layout
        known.append(f"{layout.network.__name__} of {layout.source}")
    raise EgoDistillError(
        f"{source} has none of the known layouts ({', '.join(known)}). Its first keys are {list(state)[:5]}"
    )


def rename(state: Mapping[str, Any], layout: Layout) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Return the weights with our keys, {our key: key in `state`}, and the keys that are not weights.

    Raise EgoDistillError for two keys of the same weight.
    """
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
        ours = key if ours in weights else ours  # a second key with the same result is reported as unexpected
        if ours in weights:
            raise EgoDistillError(
                f"the keys {names[ours]!r} and {key!r} of a checkpoint are the same weight; remove one"
            )
        weights[ours], names[ours] = value, key
    for joint, parts in layout.joined.items():
        concatenate(weights, names, joint, parts)
    for key, count in layout.dimensions.items():
        value = weights.get(key)
        if isinstance(value, Tensor) and value.ndim < count:
            weights[key] = value[(None,) * (count - value.ndim)]
    for key, value in weights.items():
        for pattern, order in layout.axes.items():
            if isinstance(value, Tensor) and re.fullmatch(pattern, key):
                weights[key] = reorder(value, order)
    for end, other in layout.ones.items():
        for key in [key for key in weights if key.endswith(other)]:
            if isinstance(weights[key], Tensor):
                weights.setdefault(key.removesuffix(other) + end, torch.ones_like(weights[key]))
    return weights, names, ignored


def reorder(value: Tensor, order: tuple[int, ...]) -> Tensor:
    """Return a tensor with its dimensions in this order, without those that are left out, which must be 1.

    A tensor of another shape is returned as it is; `load_strictly()` reports it.
    """
    others = [dim for dim in range(value.ndim) if dim not in order]
    if value.ndim <= max(order) or any(value.shape[dim] != 1 for dim in others):
        return value
    return value.permute(*others, *order)[(0,) * len(others)]


def concatenate(weights: dict[str, Any], names: dict[str, str], joint: str, parts: tuple[str, ...]) -> None:
    """Concatenate tensors whose keys differ only in `parts`, under the key that has `joint` in their place."""
    for first in [key for key in weights if parts[0] in key]:
        keys = [first.replace(parts[0], part) for part in parts]
        if all(isinstance(weights.get(key), Tensor) for key in keys):
            ours = first.replace(parts[0], joint)
            weights[ours], names[ours] = torch.cat([weights.pop(key) for key in keys]), names[first]
