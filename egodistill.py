"""EgoDistill: one frame and the wearer's head motion instead of a heavy video model.

An implementation of "EgoDistill: Egocentric Head Motion Distillation for Efficient Video Understanding" (Tan,
Nagarajan, Grauman, NeurIPS 2023):

    from egodistill import EgoDistill, data, distill, evaluate, measure, predict, pretrain_imu, teachers

    segments = data.read_epic_kitchens("EPIC_100_train.csv", "/videos/EPIC-KITCHENS")
    store = data.prepare(segments, "store", num_frames=(1,), clip_frames=16)     # decode once
    teachers.extract(teachers.Teacher.load("motionformer.pt"), store)            # what the video model sees
    train, test = store.split("train"), store.split("test")
    model = EgoDistill(num_classes=len(store.class_names))
    pretrain_imu(model, train, teacher="motionformer")                           # stage 1: section 3.4
    distill(model, train, teacher="motionformer", tau=10.0)                      # stage 2: section 3.3
    print(evaluate(model, test).top1, measure(model).gmacs)
    model.save("student.pt")
    for clip in predict(model, "walk.mp4"):                                      # IMU out of the GoPro file itself
        print(clip.start, clip.classes[0])

Four students of the paper are one class: EgoDistill; VisOnly-Distill (`use_imu=False`); VisIMU and VisOnly are these
two trained on labels alone, by `finetune()` instead of `distill()`.

A tour of the modules, each with its own introduction (`help(egodistill.student)`):

    doors        data (videos to clips on disk), teachers (video models and their outputs), cli (commands)
    method       student, distillation, training, inference; batches, runtime, checkpoints, files
    recordings   annotations, clips, store, video, imu, gpmf, recordings, offset
    networks     video_transformers, video_convnets
    paper        baselines, synthetic, experiments, export

This module itself imports nothing heavy: commands start quickly, and processes that decode videos do without torch.
"""

# No `from __future__ import annotations` here: that name would hide the module `egodistill.annotations`.
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egodistill.batches import Augment
    from egodistill.distillation import (
        EGO4D,
        EPIC_KITCHENS,
        DistillationSettings,
        PretrainingSettings,
        Recipe,
        StudentSettings,
        distill,
        finetune,
        pretrain_imu,
    )
    from egodistill.inference import Cost, Evaluation, Prediction, Retrieval, evaluate, measure, predict, retrieve
    from egodistill.student import EgoDistill, IMUEncoder, IMUPredictor, Output
    from egodistill.training import Training

# The modules lie flat in one folder. A module with a `__path__` is a package to Python, so that `egodistill.data` is
# found beside this file in a checkout as it is in an installed package.
__path__ = [os.path.dirname(os.path.abspath(__file__))]
__version__ = "0.2.0.dev0"

__all__ = [
    "EGO4D",
    "EPIC_KITCHENS",
    "Augment",
    "Cost",
    "DataError",
    "DistillationSettings",
    "EgoDistill",
    "EgoDistillError",
    "EgoDistillOSError",
    "Evaluation",
    "IMUEncoder",
    "IMUPredictor",
    "Output",
    "Prediction",
    "PretrainingSettings",
    "Recipe",
    "Retrieval",
    "StudentSettings",
    "Training",
    "distill",
    "evaluate",
    "finetune",
    "measure",
    "predict",
    "pretrain_imu",
    "retrieve",
]

CLIP_SECONDS = 64 / 30  # 64 frames at 30 per second, what the paper's teachers see
IMU_RATE = 198.0  # Hz
IMU_SAMPLES = 422  # of one clip: floor(CLIP_SECONDS * IMU_RATE)

# Public names that are imported when they are first used, and their modules.
_MODULES = {
    "batches": ("Augment",),
    "distillation": (
        "EGO4D",
        "EPIC_KITCHENS",
        "DistillationSettings",
        "PretrainingSettings",
        "Recipe",
        "StudentSettings",
        "distill",
        "finetune",
        "pretrain_imu",
    ),
    "inference": ("Cost", "Evaluation", "Prediction", "Retrieval", "evaluate", "measure", "predict", "retrieve"),
    "student": ("EgoDistill", "IMUEncoder", "IMUPredictor", "Output"),
    "training": ("Training",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


class EgoDistillError(ValueError):
    """Something given does not fit; the message says what, where, and what would."""


class DataError(EgoDistillError):
    """A file, annotations or a store that cannot be used as they are; or a folder that holds another run."""


class EgoDistillOSError(EgoDistillError, OSError):
    """A problem outside the library: a file is missing or unwritable, or a training process has died."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"egodistill.{_HOMES[name]}"), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if __name__ == "__main__":  # `python -m egodistill` in a checkout; an installed package has __main__.py
    from egodistill.cli import main

    sys.exit(main())
