"""The demo in miniature, which several test files look at: the same steps on 22 clips of 32 pixels, in seconds."""

import contextlib
import copy
import functools
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from egodistill import Recipe, StudentSettings, Training, inference
from egodistill.commands import cli, demo
from egodistill.engine import checkpoints
from egodistill.support import files


def weights(path) -> dict[str, torch.Tensor]:
    return checkpoints.read_model(path)[1]


def same(a: Path, b: Path) -> bool:
    """Whether two files of a model hold the same weights, bit by bit."""
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


# Checkpoints are written after each step, so the fusion network is thin: writing the wide one's 10 million weights and
# their optimizer is all that a small demo would wait for.
BRIEF = {"epochs": 2, "decay_epochs": (1,), "learning_rate": 1e-3, "batch_size": 8, "checkpoint_seconds": 0.0}
BRIEF |= {"precision": "fp32"}  # "auto" would depend on the processor
RECIPE = Recipe(
    StudentSettings(image_encoder="resnet10x4", image_weights=None, hidden=16, feature_dim=16)
).with_training(**BRIEF)
TEACHING = Training(**BRIEF)
SLOWFAST = {"width": 8, "beta": 4, "depths": (1, 1, 1, 1)}
# Fewer than 16 frames leave the slow pathway 2, for which the gradients of torch 2.13's bf16
# convolutions with a kernel of 3 are garbage on some CPUs (oneDNN reads what nobody wrote).
SIZES = {"train_acts": 16, "test_acts": 6, "test_wearers": 3, "video_pixels": 32, "pixels": 32, "clip_frames": 16}


def miniature(patch, cores: int) -> None:
    """Make `demo`, with --quick or without, a matter of seconds."""
    for name in ("DEMO", "QUICK"):
        patch(demo, name, replace(demo.QUICK, teaching=TEACHING, recipe=RECIPE, **SIZES))
    patch(demo, "SLOWFAST", SLOWFAST)
    patch(demo, "measure", functools.partial(inference.measure, batch_size=2, repeats=1))
    patch(files, "available_cores", lambda: cores)


class Demo:
    """What a run of the miniature demo did: what it printed, and each call of a training stage."""

    def __init__(self, out: Path, *options: str) -> None:
        self.out, self.calls = out, []
        printed, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            miniature(patch.setattr, cores=1)
            for name in ("finetune", "distill", "pretrain_imu"):
                patch.setattr(demo, name, self.spy(name))
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
                code = cli.main(["demo", "--out", str(out), *options])
        self.printed = printed.getvalue()
        assert code == 0, errors.getvalue()
        self.results = json.loads((out / "results.json").read_text())

    def copied(self, out: Path) -> "Demo":
        """The same demo in another folder, which a test may change."""
        return copy_demo(self, out)

    def spy(self, name):
        real = getattr(demo, name)

        def stage(model, store, settings, **options):
            start = {key: value.clone() for key, value in model.state_dict().items()}
            splits = {clip["split"] for clip in store.clips}
            self.calls.append((name, model.inputs, start, splits, settings, options))
            return real(model, store, settings, **options)

        return stage


def copy_demo(demo, out: Path):
    """Return a demo in another folder."""
    shutil.copytree(demo.out, out)
    other = copy.copy(demo)
    other.out = out
    return other


def unfinished(out: Path) -> list[Path]:
    return [path for end in ("*.part*", "*.training") for path in out.rglob(end)]


def group_size(group: int) -> int:
    """Processes of a group that are still running (0 where there is no /proc to tell)."""
    return len(group_of(group))


def group_of(group: int) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # It ended in between.
            state, _, its = file.read_text().rpartition(")")[2].split()[:3]
            if int(its) == group and state != "Z":
                found.append(int(file.parent.name))
    return found


STAGES = {
    "teacher": "teacher",
    "start": "start",
    "VisOnly": "visonly",
    "VisIMU": "visimu",
    "VisOnly-Distill": "visonly-distill",
    "stage 1": "imu",
    "EgoDistill": "egodistill",
}  # in the order in which they are trained


def file_of(out: Path, stage: str) -> Path:
    """Return the file of a network of a demo."""
    return out / f"{STAGES[stage]}.safetensors"
