"""A small protocol, small teachers and small worlds for benches, and the lab's demo in miniature."""

import contextlib
import functools
import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from miniature import RECIPE, SIZES, SLOWFAST, TEACHING, copy_demo

from egodistill import distillation, inference
from egodistill.support import files
from lab import __main__, demo
from lab.protocols import AdaFuseSettings, ListenToLookSettings, Protocol, STTSSettings, TeacherRecipe

PROTOCOL = Protocol(
    RECIPE,
    AdaFuseSettings(None, width=8, depths=(1, 1, 1, 1), policy_hidden=8),
    STTSSettings(None, width=8, depths=(1, 1, 2, 1), samples=4),
    ListenToLookSettings(None, width=4, depths=(1, 1, 1, 1), hidden=16),
    narrow=True,
)
TEACHERS = {
    "slowfast": TeacherRecipe("slowfast_8x8_r50", TEACHING, SLOWFAST),
    "x3d": TeacherRecipe(
        "x3d_m",
        replace(TEACHING, learning_rate=0.02),
        {"width": 4, "depth_factor": 0.5, "feature_dim": 16, "pool": 1},
    ),
    "motionformer": TeacherRecipe(
        "motionformer_16x4", TEACHING, {"width": 16, "depth": 1, "heads": 2, "patch": 16}, narrow=True
    ),
}


def small_world(monkeypatch, evidence, results):
    """Give evidence.py a world of 38 acts in pictures of 32 pixels, small networks, and a folder of lines."""
    results.mkdir(parents=True)
    acts = {"train_acts": 16, "validation_acts": 2, "test_acts": 20}
    for name, value in {
        "RESULTS": results,
        "WORLD": acts | {"train_wearers": 2, "validation_wearers": 1, "test_wearers": 2},
        "PIXELS": 32,
        "GENERAL": PROTOCOL,
        "TEACHERS": {evidence.TEACHER: TEACHERS["slowfast"]},
        "OTHER_TEACHERS": {"x3d-{seed}": TEACHERS["x3d"]},
    }.items():
        monkeypatch.setattr(evidence, name, value)
    for module, name in ((evidence.synthetic, "render"), (evidence.data, "prepare")):
        quiet = functools.partial(getattr(module, name), progress=False)
        monkeypatch.setattr(module, name, functools.partial(quiet, size=(32, 32)) if name == "render" else quiet)


def commit(folder):
    """Make a repository of a folder, and commit all that is in it."""
    at = ["git", "-C", str(folder), "-c", "user.email=a@b", "-c", "user.name=a"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*at, *words], check=True)


def miniature(patch, cores: int) -> None:
    """Make the lab's `demo`, with --quick or without, a matter of seconds."""
    for name in ("DEMO", "QUICK"):
        patch(demo, name, replace(demo.QUICK, teachers=TEACHERS, protocol=PROTOCOL, **SIZES))
    patch(inference, "measure", functools.partial(inference.measure, batch_size=2, repeats=1))
    patch(files, "available_cores", lambda: cores)


class Demo:
    """What a run of the lab's demo in miniature did: what it printed, and each call of a training stage."""

    def __init__(self, out: Path, seeds: str, *options: str) -> None:
        self.out, self.calls = out, []
        printed, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            miniature(patch.setattr, cores=1)
            for name in ("finetune", "distill", "pretrain_imu"):
                patch.setattr(distillation, name, self.spy(name))
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
                code = __main__.main(["demo", "--out", str(out), "--seeds", seeds, *options])
        self.printed = printed.getvalue()
        assert code == 0, errors.getvalue()
        self.results = json.loads((out / "results.json").read_text())
        self.rows = {row_name(row): row for row in self.results["rows"]}

    def copied(self, out: Path) -> "Demo":
        """The same demo in another folder, which a test may change."""
        return copy_demo(self, out)

    def spy(self, name):
        real = getattr(distillation, name)

        def stage(model, store, settings, **options):
            start = {key: value.clone() for key, value in model.state_dict().items()}
            splits = {clip["split"] for clip in store.clips}
            self.calls.append((name, model.inputs, start, splits, settings, options))
            return real(model, store, settings, **options)

        return stage


def row_name(row: dict) -> str:
    """Method, and teacher where it is not the first: "EgoDistill", "EgoDistill without", "teacher x3d"."""
    teacher = (row["run"]["teacher"] or "slowfast").removesuffix("-{seed}")
    return row["method"] + " without" * bool(row["run"]["without"]) + f" {teacher}" * (teacher != "slowfast")


STAGES = {
    "teacher": "slowfast-{0}",
    "start": "start",
    "stage 1": "stage-1-n1-slowfast-{0}",
    "EgoDistill": "egodistill-n1-slowfast-{0}",
    "VisOnly-Distill": "visonly-distill-n1-slowfast-{0}",
    "VisIMU": "visimu-n1",
    "VisOnly": "visonly-n1",
}


def file_of(out: Path, stage: str, seed: int) -> Path:
    """Return the file of a network of a demo."""
    return out / f"seed-{seed}" / (STAGES[stage].format(seed) + ".safetensors")
