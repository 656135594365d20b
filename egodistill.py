"""EgoDistill: efficient egocentric video understanding from one frame and the wearer's head motion.

An implementation of "EgoDistill: Egocentric Head Motion Distillation for Efficient Video Understanding" (Tan,
Nagarajan, Grauman, NeurIPS 2023):

    from egodistill import EgoDistill, data, distill, evaluate, measure, predict, pretrain_imu, teachers

    segments = data.read_epic_kitchens("EPIC_100_train.csv", "/videos/EPIC-KITCHENS")
    store = data.prepare(segments, "store", num_frames=(1,), clip_frames=16)     # decode once
    teachers.extract(teachers.Teacher.load("motionformer.pt"), store)            # outputs of the video model
    train, test = store.split("train"), store.split("test")
    model = EgoDistill(num_classes=len(store.class_names))
    pretrain_imu(model, train, teacher="motionformer")                           # stage 1: section 3.4
    distill(model, train, teacher="motionformer")                                # stage 2: section 3.3
    print(evaluate(model, test).top1, measure(model).gmacs)
    model.save("student.pt")
    for clip in predict(model, "walk.mp4"):                                      # IMU telemetry inside the file
        print(clip.start, clip.classes[0])

The class EgoDistill is four students of the paper: EgoDistill; VisOnly-Distill (`use_imu=False`); and VisIMU and
VisOnly, which are the same two networks trained on labels only, by `finetune()` instead of `distill()`.

The modules, each with an introduction (`help(egodistill.student)`):

    entry        data (videos to clips on disk), teachers (video models and their outputs), cli (commands), which
                 has commands, training_commands, model_commands, live_command, options, settings, demo
    method       student, teacher, distillation, training, inference; live, arrivals, events, gates;
                 batches, runtime, distributed, checkpoints, errors, files, processes, tables
    recordings   annotations, aria_datasets, segments, records, pickles; clips, store, store_files, one_pass; video,
                 audio, imu, gpmf, cameras, feeds; recordings, copies, offset, aria
    networks     video_transformers, video_convnets, video_i3d
    paper        baselines, adafuse, stts, listen_to_look, protocols, benches, experiments, contrasts, intervals,
                 paper_costs, plots, method_figures; export, exported; synthetic, behaviour, props, scene

This module imports nothing heavy, so commands start quickly, and processes that decode videos do not load torch.
"""

# No `from __future__ import annotations` here: that name would hide the module `egodistill.annotations`.
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Augment
    from .distillation import (
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
    from .errors import DataError, EgoDistillError, EgoDistillOSError
    from .inference import (
        Agreement,
        Cost,
        Evaluation,
        Prediction,
        Retrieval,
        agreement,
        evaluate,
        measure,
        predict,
        retrieve,
    )
    from .live import Answer, Stream, StreamClockError
    from .student import EgoDistill, IMUEncoder, IMUPredictor, Output
    from .training import Training

# All modules are in one folder. A module with a `__path__` is a package to Python, so `egodistill.data` is found beside
# this file in a checkout, as in an installed package.
__path__ = [os.path.dirname(os.path.abspath(__file__))]
__version__ = "0.4.1.dev0"

__all__ = [
    "EGO4D",
    "EPIC_KITCHENS",
    "Agreement",
    "Answer",
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
    "Stream",
    "StreamClockError",
    "StudentSettings",
    "Training",
    "agreement",
    "distill",
    "evaluate",
    "finetune",
    "measure",
    "predict",
    "pretrain_imu",
    "retrieve",
]

# {module: public names that are imported from it on first use}
_MODULES = {
    "batches": ("Augment",),
    "errors": ("CLIP_SECONDS", "IMU_RATE", "IMU_SAMPLES", "DataError", "EgoDistillError", "EgoDistillOSError"),
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
    "inference": (
        "Agreement",
        "Cost",
        "Evaluation",
        "Prediction",
        "Retrieval",
        "agreement",
        "evaluate",
        "measure",
        "predict",
        "retrieve",
    ),
    "live": ("Answer", "Stream", "StreamClockError"),
    "student": ("EgoDistill", "IMUEncoder", "IMUPredictor", "Output"),
    "training": ("Training",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"egodistill.{_HOMES[name]}"), name)
    globals()[name] = value  # __getattr__ is not called for it again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if __name__ == "__main__":  # `python -m egodistill` in a checkout; an installed package has __main__.py
    sys.exit(importlib.import_module("egodistill.cli").main())
