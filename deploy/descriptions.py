"""The JSON file beside an exported file: what it must say, and that it belongs to its program.

    from egodistill.deploy import descriptions

    description = descriptions.read_description(Path("student.pt2"))   # of student.pt2.json, checked; or ExportError
    content = descriptions.seal({"format": ..., "kind": "export", ...}, Path("student.pt2"))     # what `export` writes

An exported file is code: `torch.export.load()` and AOTInductor's loader can run whatever it contains. So what a file is
is decided by its content, before anything of it is loaded, and must be what its name and its description say. Hashes
show that program and description are of one export and undamaged; they do not show who made them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..engine import checkpoints
from ..support import files
from ..support.errors import EgoDistillError
from ..support.files import description_of, pair_files

__all__ = ["ExportError", "check_processor", "description_of", "pair_files", "read_description", "seal"]

DESCRIPTION_FORMAT = "egodistill export 3"
WHOLE = "student"  # the part of a student that is its only file; those of two are `files.EXPORTED_PAIR`
# {kind: what a file of it holds, how its name ends}
KINDS = {
    "export": ("a program of torch.export", ".pt2"),
    "aoti": ("a compiled program (machine code)", ".pt2"),
    "onnx": ("an ONNX graph", ".onnx"),
}


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
    if found.get("fingerprint") != current:
        raise ExportError(
            f"{described} was changed after the export, or is damaged; copy it again. For other class_names, set them "
            f"in the student, and export it again"
        )
    check_kind(path, found["kind"])
    if found.get("sha256") != hash_of(path):
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


def shape_text(sizes: Sequence[Any], batch: Any = "batch") -> str:
    """Return a shape as text, such as "[batch, 422, 6]"."""
    return f"[{', '.join('any' if size is None else str(size) for size in (batch, *sizes))}]"


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
    if (made := description["compiled_for"]) is None:
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
