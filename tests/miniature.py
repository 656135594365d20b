"""The demo in miniature, which several test files look at: the same steps on 22 clips of 32 pixels, in seconds."""

import contextlib
import functools
import io
import json
from pathlib import Path

import pytest
import torch

from egodistill import EgoDistill, cli, demo, distillation, experiments, files, inference


def weights(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["weights"]


def same(a: Path, b: Path) -> bool:
    """Whether two files of a model hold the same weights, bit by bit."""
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


class Narrow(EgoDistill):
    """The demo's student with a thin fusion network: writing the wide one's 10 million weights and
    their optimizer after each step is all that a small demo would wait for."""

    def __init__(self, num_classes, *, image_encoder="resnet18", **others):
        thin = {} if image_encoder == "resnet18" else {"hidden": 16}
        super().__init__(num_classes, image_encoder=image_encoder, **(thin | others))


TRAINING = {"epochs": 2, "decay_epochs": (1,), "learning_rate": 1e-3, "batch_size": 8, "checkpoint_seconds": 0.0}
SCALE = experiments.SCALES["small"] | {
    "students": {"image_encoder": "resnet10x4", "image_weights": None},
    "training": TRAINING,
    "pretraining": TRAINING,
    "feature_dim": 16,
    "AdaFuse": {"weights": None, "width": 8, "depths": (1, 1, 1, 1), "policy_hidden": 8},
    "STTS": {"weights": None, "width": 8, "depths": (1, 1, 2, 1), "samples": 4},
    "ListenToLook": {"weights": None, "width": 4, "depths": (1, 1, 1, 1), "hidden": 16},
}


def miniature(patch, cores: int) -> None:
    """Make `demo --quick` a matter of seconds. Checkpoints are written after each step."""
    sizes = {
        # Fewer than 16 frames leave the slow pathway 2, for which the gradients of torch 2.13's bf16
        # convolutions with a kernel of 3 are garbage on some CPUs (oneDNN reads what nobody wrote).
        "train_acts": 16,
        "test_acts": 6,
        "video_pixels": 32,
        "pixels": 32,
        "clip_frames": 16,
        "teachers": {
            "slowfast": {
                "model": "slowfast_8x8_r50",
                "precision": "auto",
                "training": TRAINING,
                "options": {"width": 8, "beta": 4, "depths": (1, 1, 1, 1)},
            },
            "x3d": {
                "model": "x3d_m",
                "precision": "fp32",
                "training": TRAINING | {"learning_rate": 0.02},
                "options": {"width": 4, "depth_factor": 0.5, "feature_dim": 16, "pool": 1},
            },
            "motionformer": {
                "model": "motionformer_16x4",
                "precision": "auto",
                "training": TRAINING,
                "narrow": True,
                "options": {"width": 16, "depth": 1, "heads": 2, "patch": 16},
            },
        },
        "scale": SCALE,
    }
    patch(demo, "QUICK", demo.QUICK | sizes)
    patch(experiments, "EgoDistill", Narrow)
    patch(inference, "measure", functools.partial(inference.measure, batch_size=2, repeats=1))
    patch(files, "available_cores", lambda: cores)


class Demo:
    """What a run of the miniature demo did: what it printed, and each call of a training stage."""

    def __init__(self, out: Path, seeds: str, *options: str) -> None:
        self.out, self.calls = out, []
        printed, errors = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            miniature(patch.setattr, cores=1)
            for name in ("finetune", "distill", "pretrain_imu"):
                patch.setattr(distillation, name, self.spy(name))
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
                code = cli.main(["demo", "--quick", "--out", str(out), "--seeds", seeds, *options])
        self.printed = printed.getvalue()
        assert code == 0, errors.getvalue()
        self.results = json.loads((out / "results.json").read_text())
        self.rows = {row_name(row): row for row in self.results["rows"]}

    def spy(self, name):
        real = getattr(distillation, name)

        def stage(model, store, **options):
            start = {key: value.clone() for key, value in model.state_dict().items()}
            splits = {clip["split"] for clip in store.clips}
            self.calls.append((name, model.inputs, start, splits, options))
            return real(model, store, **options)

        return stage


def row_name(row: dict) -> str:
    """Method, and teacher where it is not the first: "EgoDistill", "EgoDistill without", "teacher x3d"."""
    teacher = (row["run"]["teacher"] or "slowfast").removesuffix("-{seed}")
    return row["method"] + " without" * bool(row["run"]["lacking"]) + f" {teacher}" * (teacher != "slowfast")


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
