"""The commands of training: `finetune`, `extract`, `pretrain` and `distill`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from .. import data, distillation, teachers
from ..datasets.one_pass import ConsumerGroup
from ..distillation import EPIC_KITCHENS, PRESETS
from ..engine import batches, distributed, models, runtime
from ..engine.refusal import known_names
from ..student import PARTS, EgoDistill
from ..support import files
from ..support.custom import is_name, resolve
from ..support.defaults import CLIP_SECONDS
from ..support.tables import pluralize
from ..training import History, Training
from .given import given_flags, keyword_arguments, reject, suggest, suggest_training
from .loading import (
    chosen_teacher,
    custom_parts,
    load_start,
    load_teacher,
    open_split,
    report_precision,
    without_background,
)
from .options import DEFAULT_TEACHER
from .settings import apply_options, flag, used_flags

__all__ = ["one_pass"]


# ---------------------------------------------------------------------------------------------------------------
# Shared by several commands


def training_settings(a: argparse.Namespace, stage: str) -> Any:
    """Return the settings of a stage: those of the preset, changed by the options, also --out and --overwrite."""
    return apply_options(getattr(PRESETS[a.preset], stage), a)


def open_splits(a: argparse.Namespace) -> tuple[data.ClipStore, data.ClipStore | None]:
    """Return the clips to train on, and those of --validation."""
    store = open_split(a.store, a.split)
    if not isinstance(a.validation, float):
        return store, open_split(a.store, a.validation) if a.validation else None
    batches.require_labels(store, some=True)
    count, wearers = round(1 / a.validation), set(store.wearers)
    groups = {"wearer": wearers - {None}, "video": {clip["video"] for clip in store.clips}, "segment": store.segments}
    if None in wearers:
        del groups["wearer"]
    by = next((name for name, found in groups.items() if len(set(found)) >= count), "segment")
    if (have := len(set(groups[by]))) < count:
        way_out = f"give a share of at least {math.ceil(1000 / have) / 1000:g}" if have > 1 else "leave it out"
        there = pluralize(have, "segment")
        raise ValueError(f"{a.store}: --validation {a.validation:g} needs {count} segments, here: {there}; {way_out}")
    held_out = data.folds(store, count, by) == 0
    validation = store.select(held_out & (store.labels >= 0))
    if files.environment_share()["rank"] == 0:
        kept = f"{held_out.sum()} of {len(store)} clips are not trained on, but for validation"
        print(f"{kept}: a part of the {have} {by}s", file=sys.stderr)
    return store.select(~held_out), validation


def held_out(a: argparse.Namespace) -> dict[str, data.ClipStore]:
    """Return the clips of the split calibration as an argument; none without it, or if they are learned from."""
    whole = open_split(a.store, "all")
    free = "calibration" in whole.splits and not {"calibration", "all"} & {a.split, a.validation}
    return {"calibration": whole.split("calibration")} if free else {}


def build_student(a: argparse.Namespace, store: data.ClipStore, teacher: str | None, seed: int) -> EgoDistill:
    """Return the student in --init, or a new one that fits the store and the teacher's feature."""
    settings = PRESETS[a.preset].student
    width = None
    if teacher:
        (target,) = batches.require_teacher(store, teacher, "feature")
        width = store.read(target, [0]).shape[1]
    if a.init:
        reason = f"cannot change the student in {a.init}; leave out --init to build a new one"
        reject(used_flags(settings, a), reason)
        model = load_start(a.init, a.custom)
        if width not in (None, model.feature_dim):
            raise ValueError(
                f"the student in {a.init} has a feature of {model.feature_dim} numbers, the teacher {teacher!r} one of "
                f"{width}; leave out --init to build a student for this teacher"
            )
        return model
    reject(
        given_flags(a, "custom") if a.custom else [],
        "for the classes that the file of --init names; to build a student "
        "of your own, give --imu-encoder, --fusion, --image-encoder or --student-class",
    )
    settings = apply_options(settings, a)
    torch.manual_seed(seed)
    return settings.build(
        len(store.class_names),
        feature_dim=width,
        class_names=store.class_names,
        **frame_arguments(store, settings.num_frames),
        **clip_arguments(store),
    )


def clip_arguments(store: data.ClipStore) -> dict[str, Any]:
    """Return length and IMU of the store's clips, as arguments of a student."""
    specs = getattr(store, "specs", {})  # optional, as in `frame_arguments()`
    found: dict[str, Any] = {"imu_axes": batches.stored_axes(store)}
    for spec in specs.values():
        found["clip_seconds"] = spec.seconds
        if spec.imu_samples:
            found |= {"imu_samples": spec.imu_samples, "imu_rate": spec.imu_rate}
    return found


def frame_arguments(store: data.ClipStore, count: int) -> dict[str, Any]:
    """Return how the store's frames are chosen, as arguments of a student; uniform sampling if there are several."""
    specs = getattr(store, "specs", {})  # optional: stores of other kinds may lack it
    found = [spec for name, spec in specs.items() if name.startswith("frames_") and spec.frames == count]
    if not found:  # training raises an error that names the missing array
        return {name: value for name, value in store.settings.items() if name == "frame_size"}
    spec = next((spec for spec in found if spec.sampling == "uniform"), found[0])
    return {"frame_size": spec.size, "sampling": spec.sampling, "exact": spec.exact, "tolerance": spec.tolerance}


def report_training(a: argparse.Namespace, settings: Training, train: Callable[[], History], *then: Any) -> None:
    """Train; in process 0, print the result and whether it was finished before, and suggest `then`."""
    log = files.log_path(files.training_file(settings.out))  # written after each epoch
    before = log.read_bytes() if log.exists() else b""
    history = train()
    if distributed.is_first():
        unchanged = before == (log.read_bytes() if log.exists() else b"")
        finished = f"already trained ({len(history)} of {settings.epochs} epochs); " if unchanged else ""
        print(f"{settings.out}: {finished}{final_metrics(history)}")
        suggest(*then, *custom_flags(a))


def custom_flags(a: argparse.Namespace) -> list[str]:
    """Return --custom for each part of one's own in the student, with which other commands read its file."""
    names = [*vars(a).get("custom", ()), *(vars(a).get(name) for name in (*PARTS, "student_class"))]
    return [word for name in names if name and is_name(name) for word in ("--custom", name)]


def final_metrics(history: History) -> str:
    last = history[-1]
    text = f"loss {last['loss']:.3f}" if last["loss"] < 1000 else f"loss {last['loss']:.1e}"
    for name, what in (("top1", "top-1"), ("agreement", "top-1 agreement with the teacher")):
        if name in last:
            text += f", {what} in training {100 * last[name]:.1f} %"
    if "matching" in last:
        text += f", {100 * last['matching']:.1f} % of the clips matched to their IMU within the batch"
    scores = [row["validation_top1"] for row in history if "validation_top1" in row]
    if not scores:
        return text
    return (
        f"{text}; weights of epoch {1 + scores.index(max(scores))}, {100 * max(scores):.1f} % on the validation clips"
    )


# ---------------------------------------------------------------------------------------------------------------
# Teachers


def published_teacher(a: argparse.Namespace) -> teachers.Teacher:
    """Return the teacher of --architecture with the weights of --pretrained."""
    if not (a.architecture and a.pretrained):
        raise ValueError("a published teacher needs both --architecture, its name, and --pretrained, its weights")
    return teachers.load(a.architecture, a.pretrained, class_names=a.class_names)


def run_finetune(a: argparse.Namespace) -> None:
    (store, validation), settings = open_splits(a), training_settings(a, "finetuning")
    batches.require_labels(store, some=True)
    model = model_to_finetune(a, store, settings.seed)
    if a.head_only:
        if not (a.init and isinstance(model, EgoDistill)) and not isinstance(model, teachers.Teacher):
            raise ValueError("--head-only is for teachers, and for students that --init names")
        model.freeze_trunk()
    if a.gradient_checkpointing:
        if not hasattr(getattr(model, "net", None), "gradient_checkpointing"):
            name = type(getattr(model, "net", model)).__name__
            raise ValueError(f"--gradient-checkpointing is for MotionFormer and MViT; this model is {name}")
        cast(Any, model).net.gradient_checkpointing = True
    then = ("extract", a.store, "--teacher-file", a.out) if isinstance(model, teachers.Teacher) else use_of_student(a)
    clips = {"store": store, "validation": validation, **held_out(a)}
    if isinstance(model, teachers.Teacher) and batches.background_of(model) is None:
        clips = {name: some and without_background(some) for name, some in clips.items()}
        clips = {name: some for name, some in clips.items() if some or name != "calibration"}
    report_training(a, settings, lambda: distillation.finetune(model, settings=settings, **clips), *then)


def classes_to_teach(store: data.ClipStore) -> list[str]:
    """Return the classes that a new teacher learns: without "(none)", which `distill()` adds, if two are left."""
    names = without_background(store).class_names
    return names if len(names) > 1 else store.class_names


def use_of_student(a: argparse.Namespace, teacher: str | None = None) -> tuple[Any, ...]:
    """Return the command that follows the training of a student: its evaluation, if the store has a split test.

    Without labels there, the evaluation needs the teacher.
    """
    whole = open_split(a.store, "all")
    if "test" not in whole.splits:
        return "predict", "VIDEO", "--student", a.out
    alone = teacher and not (whole.labels >= 0).any()
    return "evaluate", a.store, "--student", a.out, *(["--teacher", teacher] if alone else [])


def model_to_finetune(a: argparse.Namespace, store: data.ClipStore, seed: int) -> nn.Module:
    """Return the model of --init or --architecture."""
    student_flags = used_flags(EPIC_KITCHENS.student, a)
    teacher_options = {name: getattr(a, name) for name in ("pretrained", "name", "option") if hasattr(a, name)}
    teacher_flags = [flag(name) for name in teacher_options]
    if a.init:
        flags = [*(["--architecture"] if hasattr(a, "architecture") else []), *student_flags, *teacher_flags]
        reject(flags, f"cannot change the model in {a.init}; leave out --init to build a new one")
        model = models.load_any(a.init, custom_parts(a.custom))
        return for_classes(model, store.class_names, a.init, seed) if isinstance(model, EgoDistill) else model
    architecture = getattr(a, "architecture", DEFAULT_TEACHER)
    if architecture == "student":
        reject(teacher_flags, "for teachers only, not for --architecture student")
        return build_student(a, store, None, seed)
    reject(student_flags, f"for --architecture student only; {architecture} is a teacher")
    return build_teacher(architecture, store, seed, **teacher_options)


def for_classes(model: EgoDistill, names: Sequence[str], path: str, seed: int) -> EgoDistill:
    """Return a student, or for other classes than its own, one with its networks and a new classifier, and say so."""
    own = model.class_names
    if own is None or [*names] in (own, known_names(own)):
        return model
    torch.manual_seed(seed)
    model = model.with_classes(names)
    if distributed.is_first():
        text = f"a new classifier, for {files.shorten([*names])} instead of {files.shorten(own)}"
        print(f"{path}: {text}; encoders and fusion network are those of the file", file=sys.stderr)
    return model


def build_teacher(
    architecture: str,
    store: data.ClipStore,
    seed: int,
    pretrained: str | None = None,
    name: str = "teacher",
    option: Sequence[tuple[str, Any]] = (),
) -> teachers.Teacher:
    """Return a teacher for the clips of a store, with published weights and a new classifier, or random weights."""
    if "clip" not in store.names:
        raise ValueError(f"{store.path} has no clips for teachers; run `egodistill prepare` with --clip-frames")
    torch.manual_seed(seed)
    _, frames, _, _, size = store.read("clip", [0]).shape
    # The teacher will expect clips of the length that it is finetuned on, not of its pretraining.
    options = {"seconds": store.specs["clip"].seconds} | dict(option)
    teacher = new_teacher(architecture, classes_to_teach(store), frames, size, pretrained, options)
    teacher.name = name
    return teacher


def new_teacher(
    architecture: str,
    classes: Sequence[str],
    frames: int,
    size: int,
    pretrained: str | None,
    options: Mapping[str, Any],
    progress: bool = True,
) -> teachers.Teacher:
    """Return a teacher for these classes, with published weights and a new classifier, or random weights."""
    if pretrained is None:  # Random weights fit any clip; published ones need theirs.
        options = {"frames": frames, "size": size} | dict(options)
    new_head = pretrained is not None
    return teachers.load(architecture, pretrained, class_names=classes, new_head=new_head, progress=progress, **options)


def run_extract(a: argparse.Namespace) -> None:
    store = open_split(a.store, a.split)
    if a.teacher_file:
        reject(given_flags(a, "pretrained", "class_names"), "for --architecture; --teacher-file has its own")
    teacher = load_teacher(a.teacher_file) if a.teacher_file else published_teacher(a)
    teacher.name = a.name or teacher.name
    report_precision(a.precision, a.device)
    precision = runtime.pick_precision(runtime.pick_device(a.device), a.precision)
    arguments = keyword_arguments(a, "views", "batch_size", "device", "overwrite")
    share, before = files.environment_share(), 0 if a.overwrite else clips_with(store, teacher)
    teachers.extract(teacher, store, **arguments, precision=precision, **share)
    outputs, new = " and ".join(teachers.output_arrays(teacher)), len(store) - before
    if share["world_size"] > 1:
        print(
            f"{a.store}: wrote a share of {outputs}; {clips_with(store, teacher)} of {len(store)} clips have them now"
        )
    elif new:
        print(f"{a.store}: wrote {outputs} for {pluralize(new, 'clip')}")
    else:
        print(f"{a.store}: all {len(store)} clips had {outputs} before; nothing was left")
    suggest_training(store, teacher.name)


def clips_with(store: Any, teacher: teachers.Teacher) -> int:
    """Return how many clips of a store have the outputs of a teacher."""
    outputs = teachers.output_arrays(teacher)
    return int(np.all([store.done(name) for name in outputs], axis=0).sum()) if {*outputs} <= {*store.names} else 0


def teacher_clip(name: str, seconds: float | None = None) -> dict[str, int | None]:
    """Return the clips that a published teacher reads, as arguments of `data.prepare()`.

    Raise ValueError if those of the store have another length, `seconds` (None: the paper's).
    """
    seconds = seconds or CLIP_SECONDS
    if name not in teachers.MODELS:
        raise ValueError(f"--architecture: there is no teacher {name!r}; the names are {', '.join(teachers.MODELS)}")
    spec = teachers.MODELS[name].clip_spec
    if not math.isclose(spec.seconds, seconds, rel_tol=1e-6):
        frames = round(spec.frames * seconds / spec.seconds)
        raise ValueError(
            f"--architecture: {name} reads clips of {spec.seconds:.3f} s, those of a store have {seconds:.3f} s; "
            f"finetune it on clips of a store first, with its frame rate: --clip-frames {frames} --clip-size "
            f"{spec.size} (of `prepare`), --option frames={frames} (of `finetune`); `train` takes all three"
        )
    return {"clip_frames": spec.frames, "clip_size": spec.size}


def one_pass(a: argparse.Namespace, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `data.prepare()` for its teacher and --end-features."""
    consumers: list[Any] = []
    arguments: dict[str, Any] = {}
    if a.teacher_file or a.architecture or a.pretrained:
        reject(given_flags(a, "clip_frames", "clip_size"), "the clips are those that the teacher reads; leave it out")
    if a.architecture or a.pretrained:
        reject(["--teacher-file"] if a.teacher_file else [], "a second teacher beside --architecture; leave one out")
        if a.architecture:
            arguments = teacher_clip(a.architecture, a.clip_seconds)
    if a.teacher_file or a.pretrained:
        teacher = load_teacher(a.teacher_file) if a.teacher_file else published_teacher(a)
        consumers.append(teachers.Extraction(teacher, **given))
        arguments = {"class_names": teacher.class_names}
    if a.end_features:
        if a.end_features == "none":
            raise ValueError(
                "--end-features: give imagenet or a file; a student would start from other random weights than these"
            )
        encoder = {"image_encoder": a.image_encoder or "resnet18", "image_weights": a.end_features}
        choice = {"exact": not a.key_frames, "tolerance": a.tolerance or 0.0, **keyword_arguments(a, "clip_seconds")}
        model = replace(EPIC_KITCHENS.student, hidden=1, **encoder).build(1, frame_size=a.frame_size, **choice)
        consumers.append(distillation.EndFeatures(model, **given))
    if consumers:
        arguments["consumer"] = consumers[0] if len(consumers) == 1 else ConsumerGroup(*consumers)
    return arguments


# ---------------------------------------------------------------------------------------------------------------
# Students


def run_pretrain(a: argparse.Namespace) -> None:
    store, settings = open_split(a.store, a.split), training_settings(a, "pretraining")
    teacher = chosen_teacher(a, store)
    model = build_student(a, store, teacher, settings.seed)
    preset = [] if a.preset == "epic" else ["--preset", a.preset]
    report_training(
        a,
        settings,
        lambda: distillation.pretrain_imu(model, store, settings, teacher=teacher),
        *("distill", a.store, "--teacher", teacher, *preset, "--init", a.out, "--out", "student.safetensors"),
    )


def run_distill(a: argparse.Namespace) -> None:
    (store, validation), settings = open_splits(a), training_settings(a, "distillation")
    own = {"objective": resolve(a.objective)} if a.objective else {}
    teacher = chosen_teacher(a, store)
    model = build_student(a, store, teacher, settings.seed)
    clips = {"validation": validation, **held_out(a)}
    report_training(
        a,
        settings,
        lambda: distillation.distill(model, store, settings, teacher=teacher, **clips, **own),
        *use_of_student(a, teacher),
    )
