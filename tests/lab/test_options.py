"""The lab's commands: their help, their paths, and where each of their options arrives."""

import argparse
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_paths import FOREIGN, Commands, check_roles, make_inputs
from commandline import ROOT, Clips, any_input, run
from spies import Spies

import egodistill.support.files
import lab.demo
from egodistill import data, inference
from egodistill.commands import cli
from egodistill.support import tables
from egodistill.world import synthetic
from lab import audio, benches, costs, figures, options, paper, protocols
from lab.__main__ import main

EXPERIMENT = (
    "store --teacher --out --seeds --preset --epochs --batch-size --precision --pretrained --jobs --device --markdown"
)
OPTIONS = {
    "demo": "--out --seeds --world-seed --teachers --quick --image-weights --precision --jobs --no-plot --markdown",
    "compare": f"{EXPERIMENT} --num-frames --methods --teacher-file",
    "ablate": f"{EXPERIMENT} --num-frames",
    "table3": "--rows --batch-size --repeats --seconds --out --overwrite --markdown --precision --compile --device",
    "sound": "store",
}
OWN = {"compare", "ablate", "table3", "sound"}  # commands that egodistill has not; its demo is another one


def help_of(capsys, *command: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_command_and_option_in_100_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    front = help_of(capsys)
    listed = set(re.findall(r"(?m)^    ([a-z0-9]+)(?: |$)", front))
    assert listed == set(cli.COMMANDS) and OWN < listed and "Start with `python -m lab demo`" in front
    for name, words in OPTIONS.items():
        text = help_of(capsys, name)
        assert max(map(len, (front + text).splitlines())) <= 100 and f"    python -m lab {name}" in text
        entries = re.findall(r"(?m)^  ([\w-]+)(?:[ ,]|$)", text.split("\n\n", 1)[1])
        assert sorted(entries) == sorted([*words.split(), "-h"]), name
        for option in words.split():
            assert re.search(rf"(?m)^  {option}\b[^\n]*(  |\n {{5,}})\S", text)


def test_the_program_of_the_lab_has_all_commands_and_egodistill_its_own(monkeypatch):
    found = {}
    for program in ("lab", "egodistill"):
        words = [sys.executable, "-m", program, "--help"]
        text = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert text.startswith(f"usage: {'python -m lab' if program == 'lab' else program} ")
        found[program] = re.findall(r"(?m)^    ([a-z0-9]+)(?: |$)", text)
    assert set(found["lab"]) - set(found["egodistill"]) == OWN
    assert [name for name in found["lab"] if name not in OWN] == found["egodistill"]


@pytest.mark.parametrize(
    "command, told",
    [
        ("table3 --rows SlowFast", "python -m lab table3: argument --rows: invalid choice: 'SlowFast'"),
        ("measure --rows Video", "there is no option --rows"),
        ("compar store", "there is no command 'compar'. Did you mean compare?"),
    ],
)
def test_a_usage_error_is_exit_code_2(command, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2 and told in capsys.readouterr().err


# --- Paths

NEEDED = {
    "demo": "--quick --out o --markdown o.md",
    "compare": "store --out o --markdown o.md",
    "ablate": "store --out o --markdown o.md",
    "table3": "--out o.json --markdown o.md",
    "sound": "store",
}
# {command: files that it must not replace}
KEPT = {
    "compare": [f"o/compare.{end}" for end in ("json", "csv", "png", "svg")],
    "ablate": ["o/ablate.json", "o/ablate.csv"],
    "table3": ["o.json"],
}
COMMANDS = Commands(NEEDED, main, "python -m lab")
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


@pytest.mark.parametrize(("command", "file"), [(command, file) for command, kept in KEPT.items() for file in kept])
def test_what_is_not_an_earlier_result_stays(command, file, folder, capsys):
    COMMANDS.check_kept(command, file, [FOREIGN], capsys)


@pytest.mark.parametrize("command", NEEDED)
def test_no_output_is_an_input_or_another_output(command, folder, capsys):
    COMMANDS.check_twins(command, capsys)


@pytest.mark.parametrize("command", NEEDED)
def test_every_option_that_names_a_path_has_a_role(command):
    check_roles(command)


@pytest.mark.parametrize("command", ["demo", "compare", "ablate"])
def test_a_file_is_no_folder_for_results(command, folder, capsys):
    Path("mine").write_text("my thesis")
    words = {"demo": "demo --quick --out mine"}.get(command, f"{command} store --teacher t --out mine")
    assert main(words.split()) == 1
    assert f"mine: this is a file, but {command} writes a folder; give another name" in capsys.readouterr().err
    assert Path("mine").read_text() == "my thesis"


def test_a_document_for_tables_is_markdown(folder, capsys):
    assert main("table3 --rows EgoDistill --markdown s.safetensors".split()) == 1
    assert (
        "its name must end in .md" in capsys.readouterr().err
        and Path("s.safetensors").read_text() == "of s.safetensors"
    )


# --- Where options arrive

EXPERIMENT_WORDS = (
    "folder --teacher t-{{seed}} --out {tmp}/o --seeds 4,5 --preset ego4d --epochs 7 --batch-size 6 --precision bf16 "
    "--pretrained students=w.pth AdaFuse=None --jobs 3 --device cpu --markdown {tmp}/m.md"
)


EXPERIMENT_ARRIVALS = {
    "Bench.store": "folder",
    "Bench.out": "{tmp}/o",
    "Bench.device": "cpu",
    **{
        f"Bench.protocol.recipe.{stage}.{name}": value
        for stage in ("finetuning", "pretraining", "distillation")
        for name, value in {"epochs": 7, "batch_size": 6, "precision": "bf16"}.items()
    },
    "Bench.protocol.recipe.distillation.tau": 10.0,
    "Bench.protocol.recipe.student.image_weights": "w.pth",
    "Bench.protocol.adafuse.weights": None,
    "run.jobs": 3,
    "report.path": "{tmp}/m.md",
    "write_rows.about.seeds": [4, 5],
}


# {command: [(words, {where an option must arrive: its value}), ...]}, as in tests/commands/test_options.py.
ARRIVALS = {
    "compare": [
        (
            EXPERIMENT_WORDS + " --num-frames 1 4 --methods VisOnly AdaFuse --teacher-file t.safetensors",
            EXPERIMENT_ARRIVALS
            | {
                "comparison.teacher": "t-{{seed}}",
                "comparison.seeds": [4, 5],
                "comparison.num_frames": [1, 4],
                "comparison.methods": ["VisOnly", "AdaFuse"],
                "teacher_row.teacher": "t-{{seed}}",
                "teacher_row.seeds": [4, 5],
                "teacher_row.checkpoint": "t.safetensors",
            },
        )
    ],
    "ablate": [
        (
            EXPERIMENT_WORDS + " --num-frames 2",
            EXPERIMENT_ARRIVALS
            | {
                "ablation.teacher": "t-{{seed}}",
                "ablation.seeds": [4, 5],
                "frame_choices.teacher": "t-{{seed}}",
                "frame_choices.seeds": [4, 5],
                "frame_choices.frames": 2,
            },
        )
    ],
    "demo": [
        (
            "--out {tmp}/d --seeds 4,5 --world-seed 6 --teachers slowfast,x3d --quick --image-weights w.pth "
            "--precision bf16 --jobs 3 --no-plot --markdown {tmp}/m.md",
            {
                "Bench.out": "{tmp}/d",
                "Bench.store": "{tmp}/d/store",
                "Bench.protocol.recipe.student.image_weights": "w.pth",
                "Bench.protocol.recipe.distillation.epochs": 2,
                "Bench.protocol.recipe.pretraining.precision": "bf16",
                "Bench.teachers.x3d-{seed}.training.precision": "bf16",
                "render.out": Path("{tmp}/d/world"),
                "render.seed": 6,
                "render.train_acts": 48,
                "prepare.out": Path("{tmp}/d/store"),
                "demo_runs.seeds": [4, 5],
                "demo_runs.teacher": "slowfast-{{seed}}",
                "run.jobs": 3,
                "report.path": "{tmp}/m.md",
            },
        )
    ],
    "table3": [
        (
            "--rows AdaFuse --batch-size 5 --repeats 3 --seconds 0.5 --out {tmp}/m.json --overwrite --markdown "
            "{tmp}/m.md --precision bf16 --compile --device cpu",
            {
                "measure.model.kind": "AdaFuse",
                "measure.batch_size": 5,
                "measure.repeats": 3,
                "measure.seconds": 0.5,
                "measure.precision": "bf16",
                "measure.compile": True,
                "measure.device": "cpu",
                "check_output.path": "{tmp}/m.json",
                "check_output.overwrite": True,
                "report.path": "{tmp}/m.md",
            },
        )
    ],
    "sound": [("folder", {"ClipStore.path": "folder", "add_sound.store.opened": ("folder",)})],
}


@pytest.mark.parametrize("command", OPTIONS)
def test_all_options_are_in_the_table_of_arrivals(command):
    """A new option needs a place where it must arrive; its value there is not the default."""
    parser, used = argparse.ArgumentParser(), set()
    cli.COMMANDS[command].options(parser)
    for words, _ in ARRIVALS[command]:
        arguments = parser.parse_args(words.split())
        for action in parser._actions:
            if hasattr(arguments, action.dest) and getattr(arguments, action.dest) != action.default:
                used.add(action.dest)
    assert used == {action.dest for action in parser._actions} - {"help"}


@pytest.mark.parametrize("command", ARRIVALS)
def test_every_option_arrives_where_it_acts(command, tmp_path, monkeypatch, capsys):
    spies = spies_for_all_commands(monkeypatch, tmp_path)
    ((words, arrivals),) = ARRIVALS[command]
    run(capsys, command, *words.format(tmp=tmp_path).split(), main=main)

    def filled(value):
        return type(value)(str(value).format(tmp=tmp_path)) if isinstance(value, (str, Path)) else value

    for place, value in arrivals.items():
        value = [filled(one) for one in value] if isinstance(value, list) else filled(value)
        found = spies.values(place)
        assert found, f"{place} was never called"
        assert all(type(one) is type(value) or not isinstance(value, Path) for one in found)
        known = [str(one) if isinstance(one, Path) and isinstance(value, str) else one for one in found]
        if place.startswith(("check_output.path", "Bench.protocol", "demo_runs.teacher")):
            assert value in known, (place, found)
        else:
            assert known and all(one == value for one in known), (place, found)


def spies_for_all_commands(monkeypatch, tmp_path) -> Spies:
    """Replace all functions that do the work of a command."""
    any_input(monkeypatch)
    spies = Spies(monkeypatch)
    spies.put(egodistill.support.files, "check_output")
    spies.put(tables, "report")
    spies.put(data, "ClipStore", lambda given: Clips(given["path"]))
    bench, runs = benches.Bench, [benches.Run("VisOnly", seed=4)]
    row = paper.Row("EgoDistill", 1, "1 frame", 50.0, None, [50.0], 1.0, 1, 1.0, {}, benches.Run("EgoDistill"))
    spies.put(bench, "run")
    monkeypatch.setattr(bench, "hours", lambda self, runs: 1.0)
    spies.put(benches, "Bench", lambda given: bench(**given))
    for name in ("comparison", "ablation", "frame_choices"):
        spies.put(paper, name, runs)
    spies.put(paper, "teacher_row", row)
    losses = 1 + len(paper.ABLATIONS)
    spies.put(paper, "rows", lambda given: losses * [row])
    spies.put(paper, "leads", [])
    spies.put(paper, "write_rows", [tmp_path / "written.json"])
    spies.put(figures, "draw", [])
    world = synthetic.World(tmp_path, tmp_path / "EPIC_100_train.csv", ("P01",), (), ("P30",), tmp_path)
    spies.put(synthetic, "render", world)
    spies.put(data, "prepare", Clips("prepared"))
    spies.put(audio, "add_sound")
    segment = data.Segment("1", "v.mp4", 0.0, 2.0, "walk", split="test", imu=("a.csv", "g.csv"))
    spies.put(data, "read_epic_kitchens", data.SegmentList([segment]))
    demo_runs = lab.demo.demo_runs
    spies.put(lab.demo, "demo_runs", lambda given: demo_runs(**given))
    for name in ("describe_store", "report_ratio", "teachers_table"):
        spies.put(lab.demo, name)
    spies.put(inference, "measure", inference.Cost(1.0, 1, 1.0, 5, "cpu", "bf16", 3))
    for name, (published, _) in list(costs.TABLE_3.items()):
        monkeypatch.setitem(costs.TABLE_3, name, (published, functools.partial(argparse.Namespace, kind=name)))
    spies.put(costs, "table_3_notes", [])
    return spies


def test_names_in_the_help_are_those_of_the_modules():
    assert options.DEMO_TEACHERS == tuple(lab.demo.DEMO.teachers)
    assert options.METHODS == benches.METHODS and options.PROTOCOLS is protocols.PROTOCOLS
