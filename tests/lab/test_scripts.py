"""Each script of the lab runs with its smallest settings and writes its table, and so do those of benchmarks/ that use
the lab; those with a test file of their own are left to it."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from commandline import ROOT
from scripts import make_small, number, only, program, read_tables

from egodistill import EgoDistill
from egodistill.commands import cli
from egodistill.support import files

SCRIPTS = ROOT / "lab"
BENCHMARKS = ROOT / "benchmarks"
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(SCRIPTS.glob("*.py"))}
PROGRAMS = [name for name, text in TEXTS.items() if "\nif __name__ ==" in text]


@pytest.fixture
def script(fresh, monkeypatch, tmp_path):
    """Import a script by its name; its `main` with some words returns the tables that it writes, by section."""
    make_small(monkeypatch)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loaded = []

    def load(name):
        if (SCRIPTS / f"{name}.py").exists():
            found, path = fresh(name), SCRIPTS / f"{name}.py"
        else:
            found, path = importlib.import_module(name), BENCHMARKS / f"{name}.py"
            loaded.append(name)
        return found, program(found, str(path), monkeypatch, tmp_path)

    yield load
    for name in loaded:
        sys.modules.pop(name, None)


def test_every_script_has_a_test():
    here = Path(__file__)
    tested = {path.stem.removeprefix("test_") for path in here.parent.glob("test_*.py")} | {"evidence_report"}
    tested |= set(re.findall(r"(?m)^def test_(\w+)\(script", here.read_text(encoding="utf-8")))
    assert {*PROGRAMS} - {"__main__"} <= tested


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_script_is_run_as_a_module(name):
    words = [sys.executable, "-m", f"lab.{name}".removesuffix(".__main__"), "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr


def test_bf16_training(script, tmp_path):
    """The table of the repository comes from its lines."""
    module, main = script("bf16_training")
    header, rows = only(main(tmp_path, "--report"))
    assert header == ["network", "fp32 top-1 (%)", "bf16 top-1 (%)", "difference", "95 % interval", "seeds"]
    assert [row[0] for row in rows] == ["teacher", "EgoDistill", "VisIMU", "mean of these"]
    assert (header, rows) == only(read_tables(module.RESULTS.with_suffix(".md")))


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_few_clips(script, tmp_path, monkeypatch):
    """A student of each seed from all clips and from a part of them; the repository's table comes from its lines."""
    module, main = script("few_clips")
    stored = only(main(tmp_path, "--seeds", "0,1,2"))
    assert stored == only(read_tables(module.RESULTS.with_suffix(".md")))
    monkeypatch.setattr(module, "EVERY", (1, 4))
    lines = tmp_path / "lines.jsonl"
    header, rows = only(main(tmp_path, "--quick", "--seeds", "0,1", "--results", lines))
    assert header == ["training clips", "classes", "clips a class", "top-1 (%)", "95 % interval", "seeds"]
    assert [(row[0], row[-1]) for row in rows] == [("48", "2"), ("12", "2")]
    assert sorted((line["seed"], line["every"]) for line in files.read_lines(lines)) == [(0, 1), (0, 4), (1, 1), (1, 4)]


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_ceilings(script, tmp_path):
    _, main = script("ceilings")
    options = ("--acts", 330, "--epochs", 1, "--coupling", 1, "--processes", 1, "--results", tmp_path / "lines.jsonl")
    found = main("--only", "N = 1", "verb from time, length and mean acceleration", *options)
    (header, rows), (probe_header, probes) = found.values()
    assert header == ["inputs", "reversal", "cyclic", "all classes", "EPIC's shares", "bound"]
    assert [(row[0], row[-1]) for row in rows] == [("N = 1", "60.0")] and 20 < number(rows[0][3]) < 100
    assert probe_header == ["probe", "top-1 (%)", "chance (%)", "standard error"]
    assert [(row[0], row[2]) for row in probes] == [("verb from time, length and mean acceleration", "5.0")]
    stored = ROOT / "results" / "ceilings.jsonl"
    found = main("--report", "--coupling", 1, "--results", stored)
    assert list(found.values()) == list(read_tables(stored.with_suffix(".md")).values())


def test_gpu(script, monkeypatch, tmp_path):
    """It calls two other commands, whose options it must know."""
    module, main = script("gpu")
    _, steps = script("steps")
    document, called = tmp_path / "document.md", []
    monkeypatch.setattr(module, "main_of_the_lab", lambda words: called.append(cli.parse(words).markdown) or 0)

    def run(command, **options):
        called.append([str(word) for word in command[1:]])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    for words, forms in (([], len(module.FORMS)), (["--quick"], 1)):
        called.clear()
        with pytest.raises(SystemExit) as ended:
            main("--device", "cpu", *words)
        assert not ended.value.code and called[:-1] == [str(document)] * forms
        path, *options = called[-1]
        assert path == str(BENCHMARKS / "steps.py") and options[-2:] == ["--markdown", str(document)]
        monkeypatch.setattr(torch, "manual_seed", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # steps.py understands its options, and is stopped there
            steps(*options[:-2])


def test_precision(script, store, tmp_path):
    _, main = script("precision")
    options = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 16}
    model = EgoDistill(len(store.class_names), frame_size=store.settings["frame_size"], **options)
    for name in ("visimu-n1", "start", "stage-1-n1", "visimu-n1-without-gt"):
        (tmp_path / "seed-0").mkdir(exist_ok=True)
        model.save(tmp_path / "seed-0" / f"{name}.safetensors")
    header, rows = only(main(store.path, tmp_path))
    assert header == ["network", "fp32 top-1 (%)", "bf16 top-1 (%)", "equal labels (%)"]
    assert [row[0] for row in rows] == ["seed-0/visimu-n1"] and all(0 <= number(cell) <= 100 for cell in rows[0][1:])


def test_steps(script, monkeypatch):
    module, main = script("steps")
    monkeypatch.setattr(module, "CLIPS", 4)
    header, rows = only(main("--only", "stage 2", "--rounds", 1, "--device", "cpu"))
    assert header[:4] == ["network", "batch", "bare fp32, ms", "train()"]
    assert [row[:2] for row in rows] == [["stage 2", "32"]] and all(number(cell) > 0 for cell in rows[0][2:])
