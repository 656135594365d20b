"""benchmarks/whole_recordings.py on a world of a few recordings: from the protocol to the report."""

import functools
import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import miniature
import numpy as np
import pytest

import egodistill
from egodistill.experiments import behaviour

SCRIPTS = Path(egodistill.__file__).parent / "benchmarks"
pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="no benchmarks beside the package: not a checkout")
SMALL = {"train_acts": 30, "validation_acts": 16, "test_acts": 24, "train_wearers": 1, "validation_wearers": 2}


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The module, for a small world, with a repository of its own instead of results/."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    evidence = importlib.import_module("evidence")
    results = tmp_path / "repository" / "results"
    miniature.small_world(monkeypatch, evidence, results)
    module = importlib.import_module("whole_recordings")
    monkeypatch.setattr(module, "WORLD", module.WORLD | SMALL | {"test_wearers": 2})
    monkeypatch.setattr(module, "HALF", module.HALF | {"test_acts": 8, "test_wearers": 2})
    monkeypatch.setattr(module, "ALONE", 2)
    monkeypatch.setattr(module, "SEEDS", [0])
    monkeypatch.setattr(module, "EXPORTS", {"export, fp32": "fp32"})
    monkeypatch.setattr("egodistill.datasets.background.SPARSE", 0.0)  # what is covered of so few acts is chance
    monkeypatch.setattr(module, "SURE", ("student", "export, fp32"))
    quiet = functools.partial(module.Bench, shows_accuracy=False)
    monkeypatch.setattr(module, "Bench", quiet)
    yield module
    for name in ("whole_recordings", "better_student", "evidence_report", "evidence"):
        sys.modules.pop(name, None)


def commit(script):
    script.freeze()
    at = ["git", "-C", script.evidence.RESULTS.parent, "-c", "user.email=a@b", "-c", "user.name=a"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*at, *words], check=True)


def test_lines(script, tmp_path, capsys):
    commit(script)
    out = tmp_path / "out"
    script.run(out, [0], list(script.CELLS))
    script.report(str(tmp_path / "r.md"))
    print(capsys.readouterr().out)
