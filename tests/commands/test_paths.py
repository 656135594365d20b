"""What a command reads is there, and what it writes replaces nothing of others: every command, and every path."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_paths import FOREIGN, Commands, check_roles, make_inputs

from egodistill.commands import cli

ROOT = Path(__file__).parents[2]
# {command: what it needs, beginning with what it reads; the files of `folder` exist}
NEEDED = {
    "demo": "--quick --out o",
    "synthesize": "o",
    "segments": "t.csv",
    "convert": "v.vrs --out o",
    "check": "v.mp4 --out o.csv",
    "transcode": "v.mp4 --out o",
    "prepare": "t.csv --out o",
    "status": "store",
    "train": "t.csv --out o",
    "report": "o",
    "finetune": "store --out o.safetensors",
    "extract": "store --teacher-file s.safetensors",
    "pretrain": "store --out o.safetensors",
    "distill": "store --out o.safetensors",
    "evaluate": "store --out o.json --student s.safetensors",
    "export": "s.safetensors --out o.pt2 --markdown o.md",
    "export --pair": "s.safetensors --out o.pt2 --markdown o.md",
    "measure": "--student s.safetensors --out o.json --markdown o.md",
    "predict": "v.mp4 --student s.safetensors --out o.csv --html o.html --subtitles o.vtt --preview o.mp4",
    "live": "v.mp4 --student s.safetensors --out o.jsonl",
}
# {command: {file that it must not replace: earlier results of the same kind, which do not stop it}}
MODEL = {
    "o.safetensors": [rb'{"egodistill": "{\"format\": \"egodistill model 1\", \"trained_with\": {'],
    "o.safetensors.training": [b"egodistill training 2"],
}
MODEL |= {"o.safetensors.jsonl": [b'{"epoch": 1}\n', b""]}
KEPT = {
    "check": {"o.csv": [b"video,imu_offset\n", b"\xef\xbb\xbfvideo,imu_offset,imu_axes\r\n"]},
    "train": {"o/report.html": [b"<!DOCTYPE html>\n<!-- egodistill report -->"]},
    "report": {"o/report.html": [b"<!DOCTYPE html>\n<!-- egodistill report -->"]},
    **dict.fromkeys(("finetune", "pretrain", "distill"), MODEL),
    "evaluate": {"o.json": [b'{"format": "egodistill evaluation 2"}']},
    "export": {"o.pt2": (), "o.pt2.json": ()},
    "export --pair": dict.fromkeys([f"o.{part}.pt2{end}" for part in ("frame", "motion") for end in ("", ".json")], ()),
    "measure": {"o.json": [b'{\n "format": "egodistill measurement 1"']},
    "predict": {
        "o.csv": (),
        "o.html": [b"<!DOCTYPE html>\n<!-- egodistill predict -->\n"],
        "o.vtt": [b"WEBVTT - egodistill predict\n\n"],
        "o.mp4": (),
    },
    "live": {"o.jsonl": ()},
}
# What only looks like an earlier result.
ALMOST = {
    "check o.csv": b"video,imu_offsets\na.mp4,0.5\n",
    "evaluate o.json": b'{"note": "of egodistill evaluation 2"}',
    "measure o.json": b'{"note": "of egodistill measurement 1"}',
    "predict o.html": b"<!DOCTYPE html>\n<!-- egodistill -->",
    "predict o.vtt": b"WEBVTT\n\n00:01.000 --> 00:04.000\nHello\n",
    "finetune o.safetensors": b"egodistill model 1",
}


COMMANDS = Commands(NEEDED)
INPUTS = [pytest.param(*one, id=" ".join(one[0])) for one in COMMANDS.inputs()]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with inputs that no reader accepts."""
    monkeypatch.chdir(tmp_path)
    make_inputs()
    return tmp_path


@pytest.mark.parametrize(("words", "file"), INPUTS)
def test_an_input_is_there_and_can_be_read(words, file, folder, capsys, monkeypatch):
    COMMANDS.check_input(words, file, capsys, monkeypatch)


def test_users_and_tests_see_the_same_and_users_at_once(folder, capsys):
    own = COMMANDS.line("predict", "--html o.htm --labels v.mp4 --out v.mp4")
    lines = [*(param.values[0] for param in INPUTS), own]
    inside = [COMMANDS.refusal(words, capsys) for words in lines]
    program = "import json, sys; from egodistill.commands import cli; [*map(cli.main, json.loads(sys.argv[1]))]\n"
    program += "assert not {'av', 'numpy', 'torch', 'torchvision'} & {*sys.modules}"
    call = [sys.executable, "-c", program, json.dumps(lines)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=folder, env=env)
    assert done.stderr.strip().split("\n\n") == inside


@pytest.mark.parametrize(("command", "file"), [(command, file) for command, kept in KEPT.items() for file in kept])
def test_what_is_not_an_earlier_result_stays(command, file, folder, capsys):
    COMMANDS.check_kept(command, file, [*filter(None, (FOREIGN, ALMOST.get(f"{command} {file}")))], capsys)
    for content in KEPT[command][file]:
        Path(file).write_bytes(content)
        if command not in ("check", "report"):
            told = COMMANDS.refusal(COMMANDS.line(command), capsys)  # by what reads the inputs
        else:
            cli.main(COMMANDS.line(command))
            told = capsys.readouterr().err
        assert "already exists" not in told and "goes here" not in told


@pytest.mark.parametrize("command", NEEDED)
def test_no_output_is_an_input_or_another_output(command, folder, capsys):
    COMMANDS.check_twins(command, capsys)


def test_names_of_modules_are_no_files_and_documents_are_no_streams(folder, capsys):
    line, refusal = COMMANDS.line, COMMANDS.refusal
    assert "store is not a clip store" in refusal(line("extract", "--teacher-file mine:make"), capsys)  # comes next
    assert "its name must end in .md" in refusal(line("measure", "--markdown /dev/stdout"), capsys)
    assert (
        refusal([*line("export"), "--out", ""], capsys)
        == "egodistill export: --out has an empty name; give another path"
    )


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_that_names_a_path_has_a_role(command):
    check_roles(command)
