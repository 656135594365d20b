"""The paths that a command reads: one that leads nowhere, or may not be read, is refused before the command's imports.

    require_inputs(["predict", "walk.mp4", "--student", "student.pt"])      # raises EgoDistillOSError if one is missing

`cli` calls it before torch is imported. It looks only at words whose option is known here, and leaves all else to the
parser and to the readers of the files. This module needs the standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ..support.errors import EgoDistillOSError
from ..support.files import shipped
from ..support.own import is_name

__all__ = ["INPUTS", "require_inputs"]

# {command: (its positional argument or "", its options that name files or folders)}
INPUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "segments": ("annotations", ("--root", "--imu-offsets")),
    "status": ("store", ()),
    "prepare": (
        "annotations",
        ("--root", "--imu-offsets", "--teacher-file", "--pretrained", "--class-names", "--end-features"),
    ),
    "train": (
        "annotations",
        ("--root", "--imu-offsets", "--teacher-file", "--pretrained", "--image-weights"),
    ),
    "finetune": ("store", ("--pretrained", "--init", "--image-weights", "--motion")),
    "extract": ("store", ("--teacher-file", "--pretrained", "--class-names")),
    "pretrain": ("store", ("--init", "--image-weights", "--motion")),
    "distill": ("store", ("--init", "--image-weights", "--motion")),
    "evaluate": ("store", ("--student", "--teacher-file")),
    "compare": ("store", ("--teacher-file",)),
    "ablate": ("store", ()),
    "export": ("student", ("--calibrate", "--check")),
    "measure": ("", ("--student", "--teacher-file")),
    "predict": ("video", ("--student", "--imu", "--labels", "--root")),
    "live": ("source", ("--student", "--imu", "--imu-follow")),
    "demo": ("", ("--image-weights",)),
}
STUDENTS = ("student", "--student", "--init")
STORES = ("store", "--calibrate", "--check")
NAMES = ("imagenet", "torchvision", "none", "-")  # values of these options that are no paths
# {option: what else it, or another option, takes}, for the message of one that is no file
WORDS = {"--image-weights": "or imagenet or none", "--end-features": "or imagenet", "--pretrained": "or torchvision"}
WORDS |= {"--teacher-file": "as `egodistill finetune` writes it"}


def require_inputs(words: Sequence[str]) -> None:
    """Raise EgoDistillOSError if a command line names an input that does not exist or that the user may not read."""
    if not words or words[0] not in INPUTS or {"-h", "--help"} & set(words):
        return
    for name, word in _named(words[1:], *INPUTS[words[0]]):
        word = shipped(word) if name in STUDENTS else word
        if word.lower() not in NAMES and "://" not in word and not is_name(word) and _is_missing(word):
            stem, suffix = os.path.splitext(word)
            is_pair = os.path.exists(f"{stem}.frame{suffix}")
            if is_pair and words[0] == "live":
                continue
            what = "folder; give a clip store, which `egodistill prepare` writes" if name in STORES else "file"
            what += f"; {name} takes a file, {WORDS[name]}" if name in WORDS else ""
            if name == "source" and word.isdigit():  # as OpenCV counts cameras
                what += f"; a camera is a device, such as /dev/video{word}"
            if is_pair:
                what += "; it is a pair of `export --pair`, which `live` runs; give the student's own file (.pt)"
            raise EgoDistillOSError(f"{word or f'{name} has an empty name'}: no such {what}")
        if os.path.exists(word) and not os.access(word, os.R_OK):
            raise EgoDistillOSError(
                f"{word}: cannot be read: Permission denied; give yourself the right to read it (`chmod u+r`)"
            )


def _named(words: Sequence[str], positional: str, options: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (argument, word) for the words of known arguments; what follows another option may be its value."""
    place, known = positional, {positional, *options} - {""}
    for word in words:
        if word.startswith("-") and word != "-":
            place, equals, word = word.partition("=")
            if not equals:
                continue
        if place in known:
            yield place, word
            place = positional or place


def _is_missing(word: str) -> bool:
    """Return whether a path leads nowhere."""
    try:
        os.lstat(word)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False  # its reader says what is wrong
    return False
