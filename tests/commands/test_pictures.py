"""Pictures beside results."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from commandline import any_input, run, small_student, spy_on_stages

from egodistill import inference
from egodistill.commands import cli, models, pictures
from egodistill.drawing import canvas

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def _matplotlib():
    pytest.importorskip("matplotlib")


def given(command="distill", plot=True):
    return argparse.Namespace(command=command, plot=plot)


def draw(path, title):
    with canvas.picture(path, (1, 1), title):
        pass


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_only_a_picture_of_the_same_command_is_replaced(tmp_path, capsys, command):
    """Behind a title in a PNG comes a checksum, whose first byte may be a letter."""
    out, picture = tmp_path / "s.pt", tmp_path / "s.png"
    pictures.draw_beside(given(command), out, draw)
    pictures.draw_beside(given(command), out, draw)
    assert capsys.readouterr().err == f"picture: {picture}\n" * 2
    drawn = picture.read_bytes()
    picture.write_bytes(PNG + b"a holiday")
    pictures.draw_beside(given(command), out, draw)
    assert picture.read_bytes() == PNG + b"a holiday"
    printed = capsys.readouterr().err
    assert printed == f"no picture beside {out}: {picture}: already exists and is not an earlier result\n"
    picture.write_bytes(drawn)
    pictures.draw_beside(given(command[:-1]), out, draw)  # test.json beside test.pt
    assert picture.read_bytes() == drawn and capsys.readouterr().err == f"picture: {out}.png\n"


def test_a_training_replaces_the_picture_of_the_model_that_was_there(tmp_path, capsys):
    out, picture = tmp_path / "s.pt", tmp_path / "s.png"
    for command in ("finetune", "distill", "pretrain"):
        pictures.draw_beside(given(command), out, draw)
        assert pictures.title_of(picture) == f"egodistill {command}"
    pictures.draw_beside(given("evaluate"), tmp_path / "s.json", draw)
    assert pictures.title_of(picture) == "egodistill pretrain"
    assert pictures.title_of(tmp_path / "s.json.png") == "egodistill evaluate"


def test_a_result_does_not_depend_on_its_picture(tmp_path, capsys, monkeypatch):
    out = tmp_path / "s.pt"

    def fail(path, title):
        raise IndexError("no space left")

    pictures.draw_beside(given(), out, fail)
    pictures.draw_beside(given(plot=False), out, fail)
    pictures.draw_beside(given(), "/dev/null", fail)
    monkeypatch.setattr(canvas, "can_draw", lambda: False)
    pictures.draw_beside(given(), out, fail)
    assert capsys.readouterr().err.splitlines() == [
        f"no picture beside {out}: no space left",
        f'no picture beside {out}, because matplotlib is not installed: pip install "egodistill[plots]"',
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "picture"), [("a/s.pt", "a/s.png"), ("e.json", "e.png"), ("tau1.5", "tau1.5.png"), ("s.v2.pt", "s.v2.png")]
)
def test_results_with_different_names_have_different_pictures(out, picture):
    assert pictures.picture_of(out) == Path(picture)


@pytest.mark.parametrize("command", ["finetune", "pretrain", "distill"])
def test_a_training_draws_its_curves(tmp_path, monkeypatch, capsys, command):
    spy_on_stages(monkeypatch)
    more = ["--architecture", "student"] if command == "finetune" else ["--teacher", "t"]
    words = [command, "folder", "--out", tmp_path / "x.pt", *more, "--preset", "demo"]
    run(capsys, *words, "--no-plot")
    assert not (tmp_path / "x.png").exists()
    run(capsys, *words)
    assert f"egodistill {command}".encode() in (tmp_path / "x.png").read_bytes()


def test_evaluate_draws_what_it_writes(taught, capsys, drawn):
    arguments = ["evaluate", "s", "--split", "test", "--student", "student.pt", "--device", "cpu"]
    run(capsys, *arguments)
    assert not drawn
    run(capsys, *arguments, "--out", "e.json")
    found = np.asarray(json.loads(Path("e.json").read_text())["confusion"])
    matrix = np.asarray(drawn[0].axes[0].images[0].get_array())
    known = (found.sum(0) + found.sum(1)) > 0
    shares = 100 * found[known][:, known] / np.maximum(found[known].sum(1), 1)[:, None]
    np.testing.assert_allclose(matrix, shares)
    assert drawn[0].get_suptitle().startswith("student.pt on the split test: top-1 ") and Path("e.png").exists()


def test_evaluate_without_labels_says_why_it_draws_nothing(taught, monkeypatch, capsys, drawn):
    store = argparse.Namespace(labels=[-1], class_names=["walk"], select=lambda rows: None)
    monkeypatch.setattr(models, "open_split", lambda path, split: store)
    monkeypatch.setattr(models, "evaluate_unlabelled", lambda *given: {})
    assert cli.main(["evaluate", "s", "--student", "student.pt", "--out", "e.json", "--device", "cpu"]) == 0
    assert "no picture beside e.json: " in (said := capsys.readouterr().err) and "no clip has a label" in said
    assert Path("e.json").exists() and not drawn


def test_predict_draws_a_time_line_with_frames(tmp_path, steady, monkeypatch, capsys, drawn):
    """What cannot be read has no frame: the predictions go on behind the end of the video."""
    clips = [inference.Prediction(2.0 * k, 2.0 * k + 2, [("walk", 0.5), ("run", 0.1)]) for k in range(6)]
    monkeypatch.setattr(inference, "predict", lambda *_, **options: iter(clips))
    arguments = ["predict", steady, "--student", small_student(tmp_path), "--imu", "none.csv", "--out"]
    monkeypatch.setattr("egodistill.commands.models.report_notes", lambda recording: None)
    any_input(monkeypatch)
    run(capsys, *arguments, tmp_path / "p.csv")
    frames, lanes = drawn[0].axes
    assert [box.xy[0] for box in frames.artists] == [0.75, 2.25, 3.75, 5.25]
    assert [label.get_text() for label in lanes.get_yticklabels()] == ["walk"]
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)
