"""A missing input is refused before torch is imported; what may be no path, or no input, is left to the commands."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from egodistill.commands import inputs
from egodistill.commands.inputs import INPUTS, require_inputs
from egodistill.commands.options import OPTIONS
from egodistill.support.errors import EgoDistillOSError

ROOT = Path(__file__).parents[2]
# {command: words that lack what they name}; HERE exists.
MISSING = {
    "segments": "HERE --imu-offsets absent",
    "status": "absent",
    "prepare": "HERE --out o --teacher-file absent",
    "train": "HERE --out o --teacher-file absent",
    "finetune": "absent --out o",
    "extract": "HERE --teacher-file absent",
    "pretrain": "HERE --teacher t --out o --init absent",
    "distill": "HERE --teacher t --out o --image-weights=absent",
    "evaluate": "--student HERE absent",
    "compare": "absent --teacher t --out o",
    "ablate": "absent --teacher t --out o",
    "export": "HERE --out o.pt2 --check absent",
    "measure": "--student HERE absent",
    "predict": "HERE --student absent",
    "live": "absent --student HERE",
    "demo": "--teachers absent --image-weights absent",
}
PROGRAM = """
import json, sys
from egodistill.commands import cli
print(json.dumps([cli.main(words) for words in json.loads(sys.argv[1])] + ["torch" in sys.modules]))
"""


def test_a_missing_input_is_refused_without_torch():
    commands = [[command, *words.replace("HERE", __file__).split()] for command, words in MISSING.items()]
    call = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=ROOT)
    assert json.loads(done.stdout) == [1] * len(INPUTS) + [False], done.stderr
    words = "absent: no such file; --image-weights takes a file, or imagenet or none"
    assert done.stderr.count(words) == 2  # of distill and demo
    lines = done.stderr.split()
    assert lines.count("absent:") == lines.count("such") == len(INPUTS)


@pytest.mark.parametrize(
    "line",
    [
        "predict here --student here --stride 2 absent",  # or a second value of an option that is not known here
        "predict absent --student absent --help",
        "predict here --student here --out absent",
        "live rtsp://192.0.2.7/camera --student pair.pt2 --imu -",
        "distill here --teacher absent --image-weights none --out absent",
        "prepare here --end-features imagenet --out absent",
        "evaluate dangling --student here",
        "compare here --pretrained students=absent --teacher absent",
        "transcode absent",
        "measure absent",
        "absent",
    ],
)
def test_what_may_be_right_is_left_to_the_command(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("here", "pair.frame.pt2"):
        Path(name).touch()
    Path("dangling").symlink_to("absent")
    require_inputs(line.split())


@pytest.mark.parametrize("line", ["predict ", "predict here/x", "live camera", "evaluate here --student=absent"])
def test_what_is_certainly_missing_is_refused(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    with pytest.raises(EgoDistillOSError, match=r"^[^:]+: no such"):
        require_inputs(line.split(" "))


def test_only_live_takes_a_pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("here", "pair.frame.pt2"):
        Path(name).touch()
    for command in ("predict", "evaluate"):
        with pytest.raises(EgoDistillOSError, match=r"^pair.pt2: no such file; .* `live` runs; give .* \(.pt\)$"):
            require_inputs([command, "here", "--student", "pair.pt2"])


def test_the_number_of_a_camera_is_no_file():
    with pytest.raises(EgoDistillOSError, match=r"^2: no such file; a camera is a device, such as /dev/video2$"):
        require_inputs(["live", "2", "--student", "absent"])


def test_a_missing_right_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    monkeypatch.setattr(inputs.os, "access", lambda path, mode: mode != os.R_OK)
    with pytest.raises(EgoDistillOSError, match=r"^here: cannot be read: Permission denied; .*chmod"):
        require_inputs(["predict", "x://", "--student", "here"])


@pytest.mark.parametrize("command", INPUTS)
def test_the_inputs_are_those_of_the_parser(command):
    """A new option that names a file is an input, an output, or in the few exceptions."""
    parser = argparse.ArgumentParser()
    OPTIONS[command](parser)
    positional, options = INPUTS[command]
    found = {name: action for action in parser._actions for name in action.option_strings or [action.dest]}
    assert {positional, *options} - {""} <= set(found)
    paths = {name for name, action in found.items() if action.metavar in ("FILE", "CSV", "STORE", "FOLDER")}
    assert paths - {*options, "--out", "--markdown", "--html", "--subtitles", "--preview"} == set()
    assert {name for name, action in found.items() if not action.option_strings} == {positional} - {""}
