"""What a command reads is there, and what it writes replaces nothing of others: every command, and every path."""

import argparse
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from egodistill.commands import cli
from egodistill.commands.options import OPTIONS
from egodistill.commands.paths import Reads, Writes

ROOT = Path(__file__).parents[2]
FOREIGN = b"my thesis"
# {command: what it needs, beginning with what it reads; the files of `folder` exist}
COMMANDS = {
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
    "finetune": "store --out o.pt",
    "extract": "store --teacher-file s.pt",
    "pretrain": "store --out o.pt",
    "distill": "store --out o.pt",
    "evaluate": "store --out o.json --student s.pt",
    "compare": "store --out o --markdown o.md",
    "ablate": "store --out o --markdown o.md",
    "export": "s.pt --out o.pt2 --markdown o.md",
    "export --pair": "s.pt --out o.pt2 --markdown o.md",
    "measure": "--student s.pt --out o.json --markdown o.md",
    "predict": "v.mp4 --student s.pt --out o.csv --html o.html --subtitles o.vtt --preview o.mp4",
    "live": "v.mp4 --student s.pt --out o.jsonl",
}
# {command: {file that it must not replace: earlier results of the same kind, which do not stop it}}
MODEL = {"o.pt": [b"egodistill model 1\ntrained_with"], "o.pt.training": [b"egodistill training 2"]}
MODEL |= {"o.pt.jsonl": [b'{"epoch": 1}\n', b""]}
KEPT = {
    "check": {"o.csv": [b"video,imu_offset\n", b"\xef\xbb\xbfvideo,imu_offset,imu_axes\r\n"]},
    "train": {"o/report.html": [b"<!DOCTYPE html>\n<!-- egodistill report -->"]},
    "report": {"o/report.html": [b"<!DOCTYPE html>\n<!-- egodistill report -->"]},
    **dict.fromkeys(("finetune", "pretrain", "distill"), MODEL),
    "evaluate": {"o.json": [b'{"format": "egodistill evaluation 1"}']},
    "compare": dict.fromkeys([f"o/compare.{end}" for end in ("json", "csv", "png", "svg")], ()),
    "ablate": {"o/ablate.json": (), "o/ablate.csv": ()},
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
    "evaluate o.json": b'{"note": "of egodistill evaluation 1"}',
    "measure o.json": b'{"note": "of egodistill measurement 1"}',
    "predict o.html": b"<!DOCTYPE html>\n<!-- egodistill -->",
    "predict o.vtt": b"WEBVTT\n\n00:01.000 --> 00:04.000\nHello\n",
    "finetune o.pt": b"egodistill model 1",
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with inputs that no reader accepts."""
    monkeypatch.chdir(tmp_path)
    for name in ("t.csv", "v.mp4", "v.vrs", "s.pt"):
        Path(name).write_text(f"of {name}")
    Path("store").mkdir()
    return tmp_path


def line(command: str, more: str = "") -> list[str]:
    """The words of a command; of two inputs that exclude each other, the second stays."""
    needed = COMMANDS[command].replace("--student s.pt", "") if "--teacher-file" in more else COMMANDS[command]
    return [*command.split(), *needed.split(), *more.split()]


def words_of_inputs():
    """Yield a command, where an input of it is missing, and that file: for each command and each of its inputs."""
    for command in COMMANDS:
        for name, _, role in cli.parse(line(command)).roles:
            for form in ("absent", "absent.py:x", "n=absent", ".x=absent.py:x") if isinstance(role, Reads) else ():
                with contextlib.suppress(argparse.ArgumentTypeError):
                    value = role(form)
                    if found := [*role.files(value[-1] if isinstance(value, tuple) else value)]:
                        first = [*command.split(), form, *line(command)[len(command.split()) + 1 :]]
                        yield line(command, f"{name} {form}") if name.startswith("-") else first, found[0]
                        break


INPUTS = [pytest.param(*one, id=" ".join(one[0])) for one in words_of_inputs()]


def snapshot() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def refusal(words: list[str], capsys) -> str:
    """Run a command that must fail and write nothing; return what it says."""
    before = snapshot()
    assert cli.main(words) == 1
    assert snapshot() == before
    (said,) = capsys.readouterr().err.strip().splitlines()
    return said


@pytest.mark.parametrize(("words", "file"), INPUTS)
def test_an_input_is_there_and_can_be_read(words, file, folder, capsys, monkeypatch):
    told = refusal(words, capsys)
    assert told.startswith(f"egodistill {words[0]}: {file}: no such f")
    if "imagenet or none" in told:
        assert told.endswith(f"{file}: no such file; {words[-2]} takes a file, or imagenet or none")
    Path(file).write_text("locked")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (file, os.R_OK) and access(path, mode))
    told = f"egodistill {words[0]}: {file}: cannot be read: Permission denied; give yourself the right"
    assert refusal(words, capsys).startswith(told)


def test_users_and_tests_see_the_same_and_users_at_once(folder, capsys):
    lines = [*(param.values[0] for param in INPUTS), line("predict", "--html o.htm --labels v.mp4 --out v.mp4")]
    inside = [refusal(words, capsys) for words in lines]
    program = "import json, sys; from egodistill.commands import cli; [*map(cli.main, json.loads(sys.argv[1]))]\n"
    program += "assert not {'av', 'numpy', 'torch', 'torchvision'} & {*sys.modules}"
    call = [sys.executable, "-c", program, json.dumps(lines)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=folder, env=env)
    assert done.stderr.strip().split("\n\n") == inside


@pytest.mark.parametrize(("command", "file"), [(command, file) for command, kept in KEPT.items() for file in kept])
def test_what_is_not_an_earlier_result_stays(command, file, folder, capsys):
    for content in filter(None, (FOREIGN, ALMOST.get(f"{command} {file}"))):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_bytes(content)
        told = refusal(line(command), capsys)
        assert told.startswith(f"egodistill {command.split()[0]}: {file}: ")
        assert "already exists" in told or "the log of the training goes here" in told
    for content in KEPT[command][file]:
        Path(file).write_bytes(content)
        if command not in ("check", "report"):
            told = refusal(line(command), capsys)  # by what reads the inputs
        else:
            cli.main(line(command))
            told = capsys.readouterr().err
        assert "already exists" not in told and "goes here" not in told


def made(command: str) -> list[Path]:
    """The files that a command says it writes."""
    a = cli.parse(line(command))
    roles = [(role, getattr(a, place), name) for name, place, role in a.roles if isinstance(role, Writes)]
    return [Path(one.path) for role, word, name in roles if word for one in role.made(word, a, name)]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_output_is_an_input_or_another_output(command, folder, capsys):
    """... by the name of a link, also where only a file beside an output is meant."""
    source = next((word for word in line(command) if Path(word).exists()), None)
    pairs = [(Path(source), path) for path in made(command)] if source else []
    for path, link in [*pairs, *itertools.combinations(made(command), 2)]:
        if path not in link.parents:
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(path.absolute())
            kind = "an input" if str(path) == source else "an output"
            assert f": {link}: also {kind} of this command" in refusal(line(command), capsys)
            link.unlink()


def test_names_of_modules_are_no_files_and_documents_are_no_streams(folder, capsys):
    assert "store is not a clip store" in refusal(line("extract", "--teacher-file mine:make"), capsys)  # comes next
    assert "its name must end in .md" in refusal(line("measure", "--markdown /dev/stdout"), capsys)
    assert (
        refusal([*line("export"), "--out", ""], capsys)
        == "egodistill export: --out has an empty name; give another path"
    )


PATHS = r"FILE|CSV|STORE|STUDENT|FOLDER|RUN|JSON|JSONL|VIDEO|VRS|PICTURE|SOURCE|WEIGHTS"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_that_names_a_path_has_a_role(command):
    parser = argparse.ArgumentParser()
    OPTIONS[command](parser)
    for action in parser._actions:
        named = re.search(rf"\b({PATHS})\b", str(action.metavar))
        named = named or (action.nargs != 0 and re.search(r"FILE\.py|, or a file", action.help or ""))
        if named or not action.option_strings:
            assert isinstance(action.type, (Reads, Writes)), action
