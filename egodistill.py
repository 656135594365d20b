"""EgoDistill: efficient egocentric video understanding from one frame and the wearer's head motion.

An implementation of "EgoDistill: Egocentric Head Motion Distillation for Efficient Video Understanding" (Tan,
Nagarajan, Grauman, NeurIPS 2023):

    from egodistill import EgoDistill, data, distill, evaluate, measure, predict, pretrain_imu, teachers

    segments = data.read_epic_kitchens("EPIC_100_train.csv", "/videos/EPIC-KITCHENS")
    store = data.prepare(segments, "store", num_frames=(1,), clip_frames=16)     # decode once
    teachers.extract(teachers.Teacher.load("motionformer.safetensors"), store)            # outputs of the video model
    train, test = store.split("train"), store.split("test")
    model = EgoDistill(num_classes=len(store.class_names))
    pretrain_imu(model, train, teacher="motionformer")                           # stage 1: section 3.4
    distill(model, train, teacher="motionformer")                                # stage 2: section 3.3
    print(evaluate(model, test).top1, measure(model).gmacs)
    model.save("student.safetensors")
    for clip in predict(model, "walk.mp4"):                                      # IMU telemetry inside the file
        print(clip.start, clip.classes[0])

The class EgoDistill is four students of the paper: EgoDistill; VisOnly-Distill (`imu_encoder=None`); and VisIMU
and VisOnly, which are the same two networks trained on labels only, by `finetune()` instead of `distill()`.

The doors are this module, `data` (annotations to a store of clips) and `teachers` (video models and their outputs).
The method is in `student`, `distillation`, `training` and `inference`. `student`, `video`, `imu`, `gpmf`, `cameras` and
the networks in `video_transformers`, `video_convnets` and `video_i3d` can be copied alone. The rest is in eight rooms,
each with an introduction (`help(egodistill.recordings)`): support, drawing, world, recordings, datasets, engine,
deploy, commands.

This module imports nothing heavy, so commands start quickly, and processes that decode videos do not load torch.
"""

import os
import sys
from typing import TYPE_CHECKING

# In a checkout, this file is the package: a module with a `__path__` is one to Python. setup.py makes it `__init__.py`.
__path__ = [os.path.dirname(os.path.abspath(__file__))]

if TYPE_CHECKING:
    from . import (
        cameras as cameras,
        commands as commands,
        data as data,
        datasets as datasets,
        deploy as deploy,
        distillation as distillation,
        drawing as drawing,
        engine as engine,
        gpmf as gpmf,
        imu as imu,
        inference as inference,
        recordings as recordings,
        student as student,
        support as support,
        teachers as teachers,
        training as training,
        video as video,
        video_convnets as video_convnets,
        video_i3d as video_i3d,
        video_transformers as video_transformers,
        world as world,
    )
    from .deploy import events as events, export as export, gates as gates
    from .deploy.stream import Answer, Stream, StreamClockError
    from .distillation import distill, finetune, pretrain_imu
    from .engine import batches as batches
    from .engine.recipes import (
        EGO4D,
        EPIC_KITCHENS,
        Augment,
        DistillationSettings,
        PretrainingSettings,
        Recipe,
        StudentSettings,
        Training,
    )
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
    from .student import EgoDistill, IMUEncoder, IMUPredictor, Output
    from .support.defaults import CLIP_SECONDS, IMU_RATE, IMU_SAMPLES
    from .support.errors import DataError, EgoDistillError, EgoDistillOSError
    from .world import behaviour as behaviour, synthetic as synthetic
else:
    from egodistill.support.lazy import lazy_exports

    __getattr__, __dir__ = lazy_exports(
        "egodistill",
        {
            "data": (),
            "teachers": (),
            "student": ("EgoDistill", "IMUEncoder", "IMUPredictor", "Output"),
            "distillation": ("distill", "finetune", "pretrain_imu"),
            "training": (),
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
            "video": (),
            "imu": (),
            "gpmf": (),
            "cameras": (),
            "video_transformers": (),
            "video_convnets": (),
            "video_i3d": (),
            "support.defaults": ("CLIP_SECONDS", "IMU_RATE", "IMU_SAMPLES"),
            "support.errors": ("DataError", "EgoDistillError", "EgoDistillOSError"),
            "support.version": ("__version__",),
            "engine.recipes": (
                "EGO4D",
                "EPIC_KITCHENS",
                "Augment",
                "DistillationSettings",
                "PretrainingSettings",
                "Recipe",
                "StudentSettings",
                "Training",
            ),
            "deploy.stream": ("Answer", "Stream", "StreamClockError"),
            "support": (),
            "drawing": (),
            "world": ("behaviour", "synthetic"),
            "recordings": (),
            "datasets": (),
            "engine": ("batches",),
            "deploy": ("events", "export", "gates"),
            "commands": (),
        },
    )

__all__ = [
    "CLIP_SECONDS",
    "EGO4D",
    "EPIC_KITCHENS",
    "IMU_RATE",
    "IMU_SAMPLES",
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

if __name__ == "__main__":  # `python -m egodistill` in a checkout; an installed package has __main__.py
    from egodistill.__main__ import main  # pyright: ignore[reportMissingImports]

    sys.exit(main())
