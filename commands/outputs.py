"""What a command may write over: results of its own kind, and nothing else without --overwrite.

`cli` checks the outputs of each command before it starts. This module needs the standard library only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from ..support import files
from ..support.errors import DataError

__all__ = ["check_outputs"]

TRAINING = ("finetune", "pretrain", "distill")
INTO_FOLDERS = ("demo", "synthesize", "transcode", "convert", "prepare", "train", "compare", "ablate")
# {command: patterns that identify an earlier result of the same kind}. Such a file is replaced without --overwrite. A
# training compares settings itself, with those in a model or in the checkpoint beside it; other models stay. None: no
# file is replaced; labels may have been corrected by hand, and a stream comes only once.
RESULT_MARKS = dict.fromkeys(TRAINING, (rb"(?s)egodistill model.*trained_with",)) | {
    "check": (rb"\A(\xef\xbb\xbf)?video,imu_offset(,[^\n]*)?\r?\n",),
    "evaluate": (rb'\A\{\s*"format": "egodistill evaluation',),
    "measure": (rb'\A\{\s*"format": "egodistill measurement',),
    "predict": None,
    "live": None,
}
# {option: (suffixes of what it writes beside --out, pattern of an earlier result of a command)}
BESIDE = {
    "html": ((".html", ".htm"), r"\A<!DOCTYPE html>\n<!-- egodistill {} -->"),
    "subtitles": ((".vtt",), r"\AWEBVTT - egodistill {}\n"),
    "preview": ((".mp4",), r"(?!)"),  # no video is replaced without --overwrite
}


def check_outputs(arguments: argparse.Namespace, sources: Iterable[str] = ()) -> None:
    """Raise DataError if a command would write over a file that it must not replace; see `files.check_output()`.

    Args:
        arguments: The command's arguments; their texts are inputs.
        sources: More inputs, such as the files of a folder or table among the arguments.
    """
    others = ("out", "markdown", "command", "words", "flags", *BESIDE)
    given = {name: value for name, value in vars(arguments).items() if name not in others}
    values = [value for values in given.values() for value in (values if isinstance(values, list) else [values])]
    inputs = [*(value for value in values if isinstance(value, str)), *sources]
    if out := getattr(arguments, "out", None):
        if arguments.command in INTO_FOLDERS and Path(out).is_file():
            raise DataError(f"{out}: this is a file, but {arguments.command} writes a folder; give another name")
        files.require_writable(out)
        files.require_apart(out, inputs)
    if arguments.command in RESULT_MARKS and arguments.out:
        ours = RESULT_MARKS[arguments.command]
        if arguments.command in TRAINING:
            files.require_log(files.training_file(arguments.out))
            if files.training_file(arguments.out).exists():
                ours = (b"egodistill model",)
        overwrite = getattr(arguments, "overwrite", False)
        if arguments.command == "predict" and overwrite:
            # also beside its video, where another table is the IMU
            ours = (rb"\A(\xef\xbb\xbf)?" + files.PREDICTED.encode(),)
        files.check_output(arguments.out, inputs, ours=ours, overwrite=overwrite)
        is_json = Path(arguments.out).suffix.lower() == ".json" or files.is_stream(Path(arguments.out))
        if arguments.command in ("evaluate", "measure") and not is_json:
            raise DataError(f"{arguments.out}: {arguments.command} writes JSON; give a name that ends in .json")
    for option, (suffixes, mark) in BESIDE.items():
        if path := getattr(arguments, option, None):
            if Path(path).suffix.lower() not in suffixes:
                raise DataError(f"{path}: the name of what --{option} writes must end in {' or '.join(suffixes)}")
            ours = (mark.format(arguments.command).encode(),)
            files.check_output(path, inputs, ours=ours, overwrite=arguments.overwrite)
    if document := getattr(arguments, "markdown", None):
        if Path(document).suffix.lower() != ".md":
            raise DataError(f"{document}: --markdown writes into a Markdown document; its name must end in .md")
        files.check_output(document, inputs, overwrite=True)
