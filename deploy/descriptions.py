"""The JSON file beside an exported file: what it must say, and that it belongs to its program.

    from egodistill.deploy import descriptions

    description = descriptions.read_description(Path("student.pt2"))   # of student.pt2.json, checked; or ExportError
    content = descriptions.seal({"format": ..., "kind": "export", ...}, Path("student.pt2"))     # what `export` writes

An exported file is code: `torch.export.load()` and AOTInductor's loader can run whatever it contains. So what a file is
is decided by its content, before anything of it is loaded, and must be what its name and its description say. Hashes
show that program and description are of one export and undamaged; they do not show who made them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..engine import calibration, checkpoints
from ..recordings.spec import ClipSpec
from ..support import files
from ..support.defaults import EXPORT_PRECISIONS
from ..support.errors import EgoDistillError
from ..support.files import EXPORTED_PAIR as PAIR, description_of, pair_files

__all__ = ["ExportError", "check_processor", "description_of", "pair_files", "read_description", "seal"]

DESCRIPTION_FORMAT = "egodistill export 3"
WHOLE = "student"  # the part of a student that is its only file; those of two are in `PAIR`
# {kind: what a file of it holds, how its name ends}
KINDS = {
    "export": ("a program of torch.export", ".pt2"),
    "aoti": ("a compiled program (machine code)", ".pt2"),
    "onnx": ("an ONNX graph", ".onnx"),
}
MAX_SIZE = 1 << 27  # elements, clips: a number beyond it is an error


class ExportError(EgoDistillError):
    """A model cannot be exported, or a file cannot be run; the message says why, and what to install or do."""


# ---------------------------------------------------------------------------------------------------------------
# Two files that belong together


def read_description(path: Path) -> dict[str, Any]:
    """Return the description of an exported file. Nothing of the file itself is loaded.

    Raise ExportError if one of the two files is missing or damaged, or if they do not belong together.
    """
    if path.suffix == ".json":
        raise ExportError(f"{path}: the name of a description; give the file without .json, {path.with_suffix('')}")
    described = description_of(path)
    if path.suffix == files.MODEL_SUFFIX:
        raise ExportError(f"{path}: a model, not an exported program; read it with EgoDistill.load(), or export it")
    pair = pair_files(path)
    both = f", but {pair[0]} and {pair[1]}, which load_pair() reads" if all(file.is_file() for file in pair) else ""
    for file, why in (
        (path, f"no such file{both}"),
        (described, "the description is missing: the export was interrupted, or it was not copied with the file"),
    ):
        if not file.is_file():
            raise ExportError(f"{file}: {why}")
    try:
        found = json.loads(described.read_text(encoding="utf-8"))
        current = fingerprint(found) if isinstance(found, dict) else None
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{described} is not valid JSON: {error}") from error
    if current is None or found.get("format") != DESCRIPTION_FORMAT:
        raise ExportError(f"{described} is not a description in the format {DESCRIPTION_FORMAT!r}; export again")
    require(described, found, "fingerprint", "a SHA-256", is_hash)
    if found["fingerprint"] != current:
        raise ExportError(
            f"{described} was changed after the export, or is damaged; copy it again. For other class_names, set them "
            f"in the student, and export it again"
        )
    check_description(described, found)
    check_kind(path, found["kind"])
    if found["sha256"] != hash_of(path):
        raise ExportError(
            f"{path} is not the program that {described} describes: it is damaged, or of another export; copy both "
            f"files of one export, or export again"
        )
    return found


def seal(description: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return a description with two hashes: `sha256`, of its program, and `fingerprint`, of its own other values."""
    content = dict(description) | {"sha256": hash_of(path)}
    return content | {"fingerprint": fingerprint(content)}


def fingerprint(description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all values but `fingerprint`; their order and the layout of the JSON do not matter."""
    content = {key: value for key, value in description.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def check_kind(path: Path, kind: str) -> None:
    """Raise ExportError unless a file holds what its description and its name say."""
    found = kind_of(path)
    if found is None:
        raise ExportError(f"{path} cannot be opened: it is truncated, or not an exported program")
    content, suffix = KINDS[found]
    if found != kind:
        raise ExportError(
            f"{path} holds {content}, {found!r}, but {description_of(path)} says {kind!r}; copy both files of one "
            f"export, or export again"
        )
    if path.suffix != suffix:
        raise ExportError(f"{path} holds {content}, so its name must end in {suffix}; was it renamed?")
    try:
        checkpoints.check_archive(path)
    except EgoDistillError as error:
        raise ExportError(str(error)) from error


def kind_of(path: Path) -> str | None:
    """Return what a file holds, a key of `KINDS`; None for anything else. Only names of the parts are read."""
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            if start[:1] == b"\x08" and len(start) > 1:  # ONNX: the number of its version comes first
                return "onnx"
            names = zipfile.ZipFile(file).namelist() if start == b"PK" else []
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return None
    if any("data/aotinductor/" in name for name in names):  # also beside a program of torch.export
        return "aoti"
    programs = r"(.*/)?(models/[^/]+\.json|serialized_exported_program\.json)"  # the second: of older torch
    return "export" if any(re.fullmatch(programs, name) for name in names) else None


# ---------------------------------------------------------------------------------------------------------------
# What a description says


def check_description(where: Path, found: Mapping[str, Any]) -> None:
    """Raise ExportError, with file and key, unless a description has all values, and they fit each other."""
    for key, what, holds in RULES:
        require(where, found, key, what, holds)
    described_calibration(where, found)
    wanted = tensors_of(found, spec_of(found["clip_spec"]))
    batch = None
    for key in ("inputs", "outputs"):
        words = " and ".join(f"{name} ({dtype} {shape_text(shape)})" for name, (dtype, shape) in wanted[key].items())
        require(where, found, key, f"a list of {words}", lambda value, key=key: are_tensors(value, wanted[key]))
        for entry in found[key]:
            batch = entry["shape"][0] if batch is None else batch
            same = entry["shape"][0] == batch
            require(where, found, key, f"of one batch size, {batch!r}", lambda value, same=same: same)


def described_calibration(where: Path, found: Mapping[str, Any]) -> calibration.Calibration:
    """Return the calibration that a description has. Raise ExportError for one that no fit gives."""
    try:
        return calibration.read({name: found[name] for name in ("temperature", "events", "alone") if name in found})
    except ValueError as error:
        raise ExportError(f"{where}: {error}") from error


def require(where: Path, found: Mapping[str, Any], key: str, what: str, holds: Callable[[Any], bool]) -> None:
    """Raise ExportError unless a description has a key, and its value holds."""
    if key not in found:
        raise ExportError(f"{where}: {key!r} must be {what}; it is missing")
    if not holds(found[key]):
        raise ExportError(f"{where}: {key!r} must be {what}; got {files.shorten(found[key])}")


def tensors_of(description: Mapping[str, Any], spec: ClipSpec) -> dict[str, dict[str, tuple[str, list]]]:
    """Return {"inputs" and "outputs": {name: (dtype, sizes behind the first)}}; None is any size."""
    part, names = description["part"], description["class_names"]
    pixels = [3, spec.size, spec.size]
    inputs = {
        WHOLE: {"frames": ("uint8", [spec.frames, *pixels])} if spec.frames else {},
        PAIR[0]: {"frame": ("uint8", pixels)},
        PAIR[1]: {"image_features": ("float32", [spec.frames, None])},
    }[part]
    if part == PAIR[0]:
        return {"inputs": inputs, "outputs": {"image_feature": ("float32", [None])}}
    if spec.imu_samples:
        inputs["imu"] = ("float32", [spec.imu_samples, 6])
    given = description.get("inputs")
    if part == PAIR[1] and spec.imu_samples and isinstance(given, list) and len(given) > len(inputs):
        inputs["present"] = ("bool", [2])  # of a student with optional inputs
    logits = ("float32", [None if names is None else len(names)])
    return {"inputs": inputs, "outputs": {"feature": ("float32", [None]), "logits": logits}}


def shape_text(sizes: Sequence[Any], batch: Any = "batch") -> str:
    """Return a shape as text, such as "[batch, 422, 6]"."""
    return f"[{', '.join('any' if size is None else str(size) for size in (batch, *sizes))}]"


def are_tensors(value: Any, wanted: Mapping[str, tuple[str, list]]) -> bool:
    """Return whether a value of a description describes these tensors, in this order."""
    return (
        isinstance(value, list)
        and len(value) == len(wanted)
        and all(
            isinstance(entry, dict)
            and (entry.get("name"), entry.get("dtype")) == (name, dtype)
            and isinstance(entry.get("shape"), list)
            and len(entry["shape"]) == 1 + len(sizes)
            and (entry["shape"][0] == "batch" or is_size(entry["shape"][0]))
            and all(map(is_size, entry["shape"][1:]))
            and all(size in (None, given) for size, given in zip(sizes, entry["shape"][1:], strict=True))
            for entry, (name, (dtype, sizes)) in zip(value, wanted.items(), strict=True)
        )
    )


def spec_of(value: Any) -> ClipSpec | None:
    """Return the spec of a clip that a description has; None if it is none."""
    if not isinstance(value, dict) or not value.keys() <= {field.name for field in dataclasses.fields(ClipSpec)}:
        return None
    if not all(value.get(key) in (None, True, False) for key in ("crop", "exact")):
        return None
    try:
        return ClipSpec(**value)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError):
        return None


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_SIZE


def is_hash(value: Any) -> bool:
    return is_text(value) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_processor(value: Any) -> bool:
    return is_text(value) and len(value.split()) >= 3


def is_calibration(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() >= {"clips", "random", "ranges", "compared"}:
        return False
    ranges = value["ranges"]
    return ranges is None or (
        isinstance(ranges, dict)
        and bool({"pictures", "imu"} & set(ranges))
        and ("pictures" not in ranges or are_numbers(ranges["pictures"], 2))
        and ("imu" not in ranges or are_numbers(ranges["imu"], 6))
    )


def are_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(number, float) and math.isfinite(number) for number in value)
    )


def or_null(what: str, holds: Callable[[Any], bool]) -> tuple[str, Callable[[Any], bool]]:
    return f"{what}, or null", lambda value: value is None or holds(value)


# (key, what it must be, whether a value is that); inputs and outputs follow from these
RULES: list[tuple[str, str, Callable[[Any], bool]]] = [
    ("part", f"one of {(WHOLE, *PAIR)}", lambda value: value in (WHOLE, *PAIR)),
    ("student", "a text", is_text),
    ("kind", f"one of {tuple(KINDS)}", lambda value: value in tuple(KINDS)),
    ("precision", f"one of {EXPORT_PRECISIONS}", lambda value: value in EXPORT_PRECISIONS),
    ("clip_spec", "the fields of a ClipSpec", lambda value: spec_of(value) is not None),
    ("class_names", *or_null("a list of names", are_texts)),
    *((key, "a text", is_text) for key in ("file", "run", "batch")),
    ("inside", "a list of texts", are_texts),
    ("calibration", *or_null("an object with clips, random, ranges and compared", is_calibration)),
    ("state", *or_null("an object", lambda value: isinstance(value, dict))),
    ("compiled_for", *or_null("system, machine and instruction set", is_processor)),
    ("instructions", *or_null("a list of names", are_texts)),
    ("versions", "an object", lambda value: isinstance(value, dict)),
    ("sha256", "a SHA-256", is_hash),
]


# ---------------------------------------------------------------------------------------------------------------
# The processor that a program was compiled for

LEVELS = {"AVX2": ("avx2",), "AVX512": ("avx2", "avx512_f")}  # instruction sets behind torch's names
# Instruction sets that processors of some makers lack, and that compilers do not use by themselves
UNUSED = ("aes", "clflush", "clflushopt", "clwb", "fma4", "sha", "sse4a")


def processor() -> str:
    """Return system, machine and torch's name of the widest instructions, such as "Linux x86_64 AVX512"."""
    return f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def instructions() -> dict[str, bool]:
    """Return {instruction set that compiled code may use: whether this processor has it}, as far as torch knows.

    $ATEN_CPU_CAPABILITY and the like change what torch uses, not what the processor has.
    """
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
    else:  # older torch, from 2.6 on, the first that compiles
        checks = {"avx2": "_is_avx2_supported", "avx512_f": "_is_avx512_supported"}
        found = {name: getattr(torch.cpu, has)() for name, has in checks.items() if hasattr(torch.cpu, has)}
    return {name: value for name, value in found.items() if isinstance(value, bool) and name not in UNUSED}


def check_processor(path: Path, description: Mapping[str, Any]) -> None:
    """Raise ExportError if a program was compiled for a processor with instructions that this one does not have."""
    if description["kind"] != "aoti" or not is_processor(made := description.get("compiled_for")):
        return
    *place, level = made.split(maxsplit=2)
    needed = description.get("instructions") or LEVELS.get(level, ())
    here = instructions()
    lacking = [name for name in needed if here.get(name) is False]
    if place != [platform.system(), platform.machine()] or lacking:
        lacks = f", which lacks {', '.join(lacking)}" if lacking else ""
        raise ExportError(
            f"{path} was compiled for another processor: for {made}, and this one is {processor()}{lacks}. Export the "
            f"student again on this machine, or in the format 'export' or 'onnx'"
        )
