"""The command `train`: every step from recordings to a student, in one folder.

    egodistill train segments.csv --out run --architecture swin3d_t --pretrained torchvision

It runs the other commands one after the other, prints each as one would type it, and lets each continue what an earlier
run has begun.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import math
import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import data, teachers
from ..datasets.segments import CALIBRATION
from ..datasets.store_files import StoreFiles
from ..distillation import PRESETS
from ..engine.parts import HANDCRAFTED_ENCODERS
from ..recordings.spec import clip_starts
from ..support import files, tables
from ..support.defaults import CLIP_SECONDS, IMU_RATE, NONE
from ..support.errors import DataError
from ..support.names import Names, Place, absolute_path, is_same, portable
from ..support.tables import pluralize
from . import recordings
from .given import LIMITS, given_flags, keyword_arguments, reject, suggest, without_suggestions
from .loading import load_teacher
from .options import QUICK_CLIPS, STUDENT_FIELDS, TRAINING_FIELDS
from .paths import check_paths
from .recordings import NO_LABELS, examine, held_out, read_segments, require_training
from .report import CORRECTIONS, PLAN, note_plan, read_plan, write_report
from .settings import apply_options, flag
from .training import new_teacher, teacher_clip
from .whole_recordings import recordings_of

__all__ = ["plan"]

# Options of `prepare` that say which segments and clips there are.
ANNOTATIONS = ("root", "tier", "min_instances", "split_seed", "subsample", "reader", "imu_reader", "strict", "stride")
ANNOTATIONS += ("split_by", "test_share", "clip_seconds", "imu_axes", "background", "sparse", "calibration_share")
HELD_OUT = 0.1  # of the training wearers, for calibration
QUICK = {"epochs": "4", "schedule": "cosine", "warmup_epochs": "0.5", "learning_rate": "0.001"}


@dataclass(frozen=True)
class Step:
    """A command of the chain."""

    title: str  # what it does
    words: Sequence[Any]  # the command and its options

    @property
    def typed(self) -> str:
        """Return the command as one would type it."""
        return shlex.join(["egodistill", *map(str, self.words)])


def words_of(a: argparse.Namespace, *names: str) -> list[str]:
    """Return options as one would type them, without those that were not given."""
    words: list[str] = []
    for name in names:
        value = getattr(a, name, None)
        if value is True:
            words.append(flag(name))
        elif name in STUDENT_FIELDS[1:] and hasattr(a, name):
            words += [flag(name), value or "none"]
        elif value is None or value is False or (name == "subsample" and value == 1):
            continue
        elif name == "option":
            words += [flag(name), *(f"{key}={one}" for key, one in value)]
        elif name == "imu_reader":
            words += [word for suffix, one in value for word in (flag(name), f"{suffix}={one}")]
        elif isinstance(value, list):  # given several times
            words += [word for one in value for word in (flag(name), one)]
        else:
            words += [flag(name), str(value)]
    return words


# ---------------------------------------------------------------------------------------------------------------
# The steps


def plan(a: argparse.Namespace, segments: data.SegmentList, edited: bool = False) -> list[Step]:
    """Return the steps after the check of the recordings; of a table that was edited, models are trained anew."""
    run, store = Path(a.out), str(Path(a.out, "store"))
    labelled = any(segment.label is not None for segment in segments)
    teacher = how_taught(a, labelled)
    preset = [] if a.preset == "epic" else ["--preset", a.preset]
    anew = ["--overwrite"] if a.overwrite or a.retry_failed or edited else []  # only what differs is trained anew
    quick = [(flag(name), value) for name, value in QUICK.items() if a.quick and not hasattr(a, name)]
    trained = [*preset, *itertools.chain(*quick), *words_of(a, *TRAINING_FIELDS, "device"), *anew]
    student = words_of(a, *STUDENT_FIELDS)

    prepare = ["prepare", a.annotations, *words_of(a, *ANNOTATIONS, "imu_rate")]
    offsets = run / CORRECTIONS if a.check else a.imu_offsets
    prepare += ["--imu-offsets", offsets] if offsets else []
    settings = apply_options(PRESETS[a.preset], a).student
    frames = ["--num-frames", getattr(a, "num_frames", 1), "--frame-size", a.frame_size]
    prepare += ["--out", store, *(frames if settings.image_encoder else ["--no-frames"])]
    prepare += words_of(a, *LIMITS, "max_bad", "workers", "retry_failed")
    steps: list[Step] = []
    if teacher == "finetuned":
        network = ["--architecture", a.architecture, *words_of(a, "pretrained")]
        prepare += [word for name, value in clip_of(a).items() for word in (flag(name), value)]
        where = run / "teacher.safetensors"
        words = ["finetune", store, *network, *words_of(a, "option"), *trained, "--out", where]
        steps += [Step("train the teacher on the labels", words)]
        extract = ["extract", store, "--teacher-file", where, *words_of(a, "device"), *anew]
        steps += [Step("compute what the teacher says of each clip", extract)]
    elif teacher:
        prepare += words_of(a, "teacher_file", "architecture", "pretrained", "device")
    steps.insert(0, Step("decode the clips", prepare))
    has_stage_1 = settings.image_encoder and settings.imu_encoder not in (None, *HANDCRAFTED_ENCODERS)
    if teacher and not has_stage_1:  # for which a student needs frames, and an IMU encoder with weights
        words = ["distill", store, *student, *trained, "--out", run / "student.safetensors"]
        steps += [Step("distill the teacher into the student", words)]
    elif teacher:
        words = ["pretrain", store, *student, *trained, "--out", run / "imu.safetensors"]
        steps += [Step("stage 1: pretrain the IMU encoder", words)]
        words = ["distill", store, *trained, "--init", run / "imu.safetensors", "--out", run / "student.safetensors"]
        steps += [Step("stage 2: distill the teacher into the student", words)]
    on_labels = ["finetune", store, "--architecture", "student", *student, *trained, "--out"]
    if teacher and a.baselines and settings.image_encoder and settings.imu_encoder:
        frames_alone = words_of(a, *STUDENT_FIELDS[:3])
        words = ["distill", store, "--no-imu", *frames_alone, *trained, "--out", run / "frames-alone.safetensors"]
        steps += [Step("baseline: the teacher's student of frames alone", words)]
    if labelled and (a.baselines or not teacher):
        name = "labels-alone.safetensors" if teacher else "student.safetensors"
        steps += [Step("the student on labels alone", [*on_labels, run / name])]
    splits = {segment.split for segment in segments}
    tested, whole = "test" in splits, ["evaluate", "--recordings", store, "--student", run / "student.safetensors"]
    whole += words_of(a, "sparse", "reader", "imu_reader", "device")
    is_dense = a.background and not segments.origin.left_out  # all that happens has a segment
    if is_dense and CALIBRATION in splits:
        words = [*whole, "--split", CALIBRATION, "--save-thresholds"]
        steps += [Step("choose when an event of the student begins and ends", words)]
    for step in [step for step in steps if step.words[0] in ("distill", "finetune")] if tested else []:
        name = Path(step.words[-1])
        if name.name != "teacher.safetensors":
            words = ["evaluate", store, "--student", name, *words_of(a, "device"), "--out"]
            steps += [Step(f"evaluate {name.name}", [*words, name.with_suffix(".test.json")])]
    if is_dense and tested:
        words = [*whole, "--out", recordings_of(run / "student.safetensors")]
        steps += [Step("evaluate events of student.safetensors on whole recordings", words)]
    return steps


OF_TEACHER = ("architecture", "pretrained", "option", "clip_frames", "clip_size")
# {how the student's teacher comes about: (options of a teacher that it takes, why the others are refused)}
TAUGHT = {
    "given": ((), "the teacher of --teacher-file has its own; leave them out"),
    "finetuned": (OF_TEACHER, ""),
    "published": (("architecture", "pretrained"), "a teacher without labels runs as it is published; leave them out"),
    None: ((), "only with --architecture, the name of a teacher's network"),
}


def how_taught(a: argparse.Namespace, labelled: bool) -> str | None:
    """Return how the student's teacher comes about, a key of `TAUGHT`; None: the student learns from labels alone.

    Raise an error without anything to learn from, and for options that would have no effect.
    """
    taught = None
    if a.teacher_file:
        taught = "given"
    elif a.architecture and (labelled or a.pretrained):
        taught = "finetuned" if labelled else "published"
    taken, why = TAUGHT[taught]
    if labelled or taught:
        reject(given_flags(a, *(name for name in OF_TEACHER if name not in taken)), why)
        reject(
            [] if taught else given_flags(a, "baselines"),
            "without a teacher, the student itself learns from labels; give one (--architecture, --teacher-file)",
        )
        return taught
    raise DataError(
        f"{a.annotations}: {NO_LABELS}; give a published teacher, such as --architecture swin3d_t --pretrained "
        f"torchvision, or one of your own with --teacher-file"
    )


def clip_of(a: argparse.Namespace) -> dict[str, Any]:
    """Return number and size of the frames of a teacher that is trained on the labels, as arguments of `prepare`."""
    clip = teacher_clip(a.architecture, a.clip_seconds) if not (a.clip_frames and a.clip_size) else {}
    return clip | {name: value for name in ("clip_frames", "clip_size") if (value := getattr(a, name))}


def sizes_of_models(a: argparse.Namespace, taught: str | None, run: Path) -> dict[str, float]:
    """Return the MB of the weights of {"student", "teacher"}, the teacher's only if it is to be trained.

    Raise an error, before hours of work, for one that cannot be read or built. What is published is downloaded. A
    teacher that an earlier run has trained needs its weights no more.
    """
    student, own = apply_options(PRESETS[a.preset], a).student, keyword_arguments(a, "clip_seconds", "imu_rate")
    built: dict[str, Any] = {"student": student.build(2, frame_size=a.frame_size, **own)}
    if taught == "given":
        load_teacher(a.teacher_file)
    elif taught == "published":
        teachers.load(a.architecture, a.pretrained, progress=False)
    elif taught and not (run / "teacher.safetensors").exists():
        options = {"seconds": a.clip_seconds or CLIP_SECONDS} | dict(a.option or ())
        clip = clip_of(a).values()
        built["teacher"] = new_teacher(a.architecture, ("0", "1"), *clip, a.pretrained, options, progress=False)
    return {name: 4e-6 * sum(weight.numel() for weight in model.parameters()) for name, model in built.items()}


def size_of_store(words: Sequence[Any], clips: int) -> float:
    """Return about how many MB `prepare` with these options writes for this number of clips."""
    option = functools.partial(_number_after, words)
    frames = (option("--num-frames", -2) + 2) * option("--frame-size", 224) ** 2  # and the two of stage 1
    frames += option("--clip-frames") * option("--clip-size", 224) ** 2
    samples = option("--imu-rate", IMU_RATE) * option("--clip-seconds", CLIP_SECONDS)
    return clips * (3 * frames + 4 * 6 * samples) / 1e6


def _number_after(words: Sequence[Any], name: str, default: float = 0) -> float:
    return float(words[words.index(name) + 1]) if name in words else default


def run_train(a: argparse.Namespace) -> None:
    run = Path(a.out)
    before = read_plan(run) if files.content(run) else None
    a.check = a.check and not a.imu_offsets  # the table has what is known of clocks and axes
    a.calibration_share = calibration_share(a, before)
    segments = read_segments(a)
    if a.quick and len(segments) > QUICK_CLIPS:
        a.subsample *= -(-len(segments) // QUICK_CLIPS)
        segments = read_segments(a)
    require_training(a, segments)
    taught = how_taught(a, any(segment.label is not None for segment in segments))
    reads = (["clip for the teacher"] if taught else []) + ["frame"] * (getattr(a, "image_encoder", "") is not None)
    data.require_videos(segments, reads, "--image-encoder none, without a teacher")
    examine(segments, a.strict, **keyword_arguments(a, "clip_seconds"))
    about = {"segments": fingerprint(segments, a.annotations), "left_out": segments.dropped, "quick": a.quick}
    edited = bool(before) and has_new_table(run, before, about["segments"])
    steps = plan(a, segments, edited)
    if before:
        require_same_plan(run, before, steps, a.overwrite)
    sizes = sizes_of_models(a, taught, run)
    splits = ", ".join(f"{count} {split}" for split, count in sorted(Counter(s.split for s in segments).items()))
    videos, classes = len({s.path for s in segments}), len({s.label for s in segments} - {None})
    seconds = a.clip_seconds or CLIP_SECONDS
    clips = sum(len(clip_starts(one.start, one.stop, math.inf, seconds)) for one in segments)
    background = sum(one.is_background for one in segments)
    paths = [Path(str(step.words[-1])) for step in steps]
    # The checkpoint of a training has the weights and AdamW's two averages of each.
    missing = [path for path in paths if path.suffix == files.MODEL_SUFFIX and not path.exists()]
    models = [sizes.get(path.stem, sizes["student"]) for path in missing]
    print(
        f"{pluralize(len(segments), 'segment')} ({splits}) of {pluralize(videos, 'recording')}, "
        f"{pluralize(classes, 'class')}: {pluralize(clips, 'clip')}"
        + (f" ({background:,} of {NONE})" if background else "")
        + f", about {size_of_store(steps[0].words, clips):,.0f} MB, "
        f"{sum(models):,.0f} MB of models, and up to {3 * max(models, default=0):,.0f} MB while one is trained; "
        f"{files.free_megabytes(run.parent):,.0f} MB are free"
    )
    if not any(segment.split == "test" for segment in segments):
        print("note: no segment has the split test, so nothing is evaluated")
    if not a.architecture and not a.teacher_file:
        print("note: no teacher was given (--architecture, --teacher-file), so the student learns from labels alone")
    if a.calibration_share and classes:
        print(f"note: {held_out(a, segments)}")
    if edited:
        print(f"note: {a.annotations} has changed: new clips are decoded, and what learned from it is made anew")
    titles = ["check clocks and axes"] * a.check + [step.title for step in steps]
    for number, title in enumerate(titles, 1):
        print(f"  {number}. {title}")
    with files.work_lock(run / "train"):
        typed = tables.command_line(a.words), [step.typed for step in steps]
        note_plan(run, *typed, about | ({"edited": True} if edited else {}))
        if a.check:
            print(f"\n[1/{len(titles)}] {titles[0]}", flush=True)
            check(a, segments)
        for number, step in enumerate(steps, 1 + a.check):
            print(f"\n[{number}/{len(titles)}] {step.typed}", flush=True)
            run_step(step.words)
        note_plan(run, *typed, about)
        found = write_report(run)
    print(f"\n{found}")
    store = run / "store"  # its axes, given or corrected, are those of the recordings to come if one camera made all
    axes = {one.imu_axes for one in StoreFiles(store).segments} if (store / "store.json").exists() else set[str]()
    given = [*(["--imu-axes", *axes] if len(axes) == 1 and axes != {"gopro"} else []), *words_of(a, "zero_accel")]
    source = ["VIDEO"] if any(segment.video for segment in segments) else ["--imu", "CSV"]
    suggest("predict", *source, *given, "--student", run / "student.safetensors")


def calibration_share(a: argparse.Namespace, before: Mapping[str, Any] | None) -> float | None:
    """Return the share of the training wearers to hold out, None for none: as given, or as when the run began."""
    if a.calibration_share is not None:
        return a.calibration_share or None
    if before is None:
        return None if a.quick else HELD_OUT
    words = itertools.chain(*map(shlex.split, before["steps"]))
    return next((float(next(words)) for word in words if word == flag("calibration_share")), None)


def has_new_table(run: Path, before: Mapping[str, Any], now: str) -> bool:
    """Return whether the table has changed since the run's store was made, or a run that followed it has not ended."""
    return before.get("edited", False) or ((run / "store").exists() and before.get("segments", now) != now)


def require_same_plan(run: Path, before: Mapping[str, Any], steps: Sequence[Step], overwrite: bool) -> None:
    """Raise DataError, before anything is written, if an earlier command made a store or model that this one would not.

    What only changes the speed may differ, and there may be more steps or fewer, such as those of --baselines.
    """
    where = f"`{before['command']}` in {before.get('folder', 'its folder')}"
    try:
        earlier = results_of(before["steps"])
    except SystemExit as error:  # what the parser says is above
        raise DataError(
            f"{run / PLAN}: has a step that this version does not know, by {where}; give another --out, or use the "
            f"version that began it"
        ) from error
    place = Place(before.get("folder", os.getcwd()), before.get("run", absolute_path(run)))
    for name, now in results_of([step.typed for step in steps]).items():
        made, then = run / name, earlier.get(name, now)
        if not (made.exists() or files.training_file(made).exists()):
            continue
        store = now["command"] == "prepare"
        if (store or not overwrite) and (changed := changed_options(then, now, place, run)):
            anew = f"delete {run} to start again" if store else "--overwrite to train anew with the same clips"
            raise DataError(
                f"{made}: was made with other options, by {where}: {'; '.join(changed)}. Give another --out, or run "
                f"that command, or {anew}"
            )


NAMED = {"command": "the command", "annotations": "the table", "store": "the store"}  # what is no option
# They change no result.
FREE = {"workers", "device", "overwrite", "retry_failed", "strict", "words", "roles", "run"}


def results_of(steps: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return {what a step writes into the folder: its command and options}, without those that change nothing in it."""
    parsed = [options_of(shlex.split(step)[1:]) for step in steps]
    return {Path(one.pop("out")).name: one for one in parsed if one.get("out")}


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """Return a command and its options, without those that change nothing in what it writes."""
    from . import cli

    return {name: value for name, value in vars(cli.parse([*words])).items() if name not in FREE}


def changed_options(then: Mapping[str, Any], now: Mapping[str, Any], place: Place, run: Path) -> list[str]:
    """Return a clause for each option that differs; a file is the same under all its names, also if all was moved."""
    pairs = {name: (then.get(name), now.get(name)) for name in dict.fromkeys((*then, *now))}
    return [
        f"{NAMED.get(name) or flag(name)} was {_shown(old)} and is now {_shown(new)}"
        for name, (old, new) in pairs.items()
        if _differs(old, new, place, run)
    ]


def _differs(old: Any, new: Any, place: Place, run: Path) -> bool:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return any(_differs(*pair, place, run) for pair in zip(old, new, strict=True))
    if old == new or not (isinstance(old, str) and isinstance(new, str)):
        return old != new
    moved = portable(os.path.join(place.cwd, old), place.home) == portable(new, run)
    return not (moved or is_same(place.find(old, run), new))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "not given" if value is None or value is False else str(value)


def fingerprint(segments: data.SegmentList, table: str) -> str:
    """Return a hash of segments that stays if the folder of their table is moved, with the recordings in it."""
    folder = Path(table) if Path(table).is_dir() else Path(table).parent
    rows = (one.record() | {name: _inside(folder, getattr(one, name)) for name in ("video", "imu")} for one in segments)
    return hashlib.sha256("\n".join(map(repr, rows)).encode(errors="surrogateescape")).hexdigest()[:16]


def _inside(folder: Path, path: Any) -> Any:
    return portable(path, folder) if path and isinstance(path, str) else path and [_inside(folder, one) for one in path]


def check(a: argparse.Namespace, segments: data.SegmentList) -> None:
    """Check recordings that are new or have changed, and write the corrections of their clocks and axes.

    If one is, all are checked again: those of one camera decide about its axes together. What cannot be read is left to
    `prepare`, which counts it.
    """
    result, corrections = Path(a.out, "check.json"), Path(a.out, CORRECTIONS)
    words = ["check", a.annotations, *words_of(a, "root", "tier", "reader", "imu_reader", "imu_axes")]
    done = files.read_json(result) if result.exists() and corrections.exists() else {"words": None}
    earlier = done["words"] and options_of(done["words"])
    is_known = earlier and not changed_options(earlier, options_of(words), Place.of(a.out), Path(a.out))
    sources = {one.path: one.recording for one in data.name_imu_files(segments)}
    name = Names(sources)
    known = {name(one["video"]): one for one in done["recordings"]} if is_known else {}
    signatures = {video: signatures_of(one) for video, one in sources.items()}
    measured = {video: one.get("files") for video, one in known.items()}
    fresh = {video for video, now in signatures.items() if measured.get(video) != now}
    if not fresh:
        print(f"{result}: already checked")
        return
    if changed := sorted(video for video in fresh if measured.get(video)):
        more = f", as have {len(changed) - 1} more recordings" if len(changed) > 1 else ""
        print(f"{changed[0]}: video, IMU or clock has changed since the last check{more}: all are measured again")
    from . import cli

    found = recordings.check_recordings(cli.parse([*words, "--out", str(corrections)]))
    rows = [
        {"video": one.path, "problem": one.problem, "notes": one.notes, "verdict": one.verdict()}
        | {"axes": one.right_axes, "axes_state": one.axes_state, "files": signatures.get(name(one.path))}
        for one in found
    ]
    files.write_json(result, {"words": words, "recordings": rows})


def signatures_of(recording: data.Recording) -> list[str | None]:
    """Return the signature of each file that a recording is measured from, None if it is missing, and of its clock."""
    clock = (recording.imu_offset, recording.imu_stretch, recording.imu_axes)
    found = [files.signature(file) if Path(file).is_file() else None for file in recording.files]
    return [*found, str(clock)]


def run_step(words: Sequence[Any]) -> None:
    """Run another command in this process."""
    from . import cli

    arguments = cli.parse([*map(str, words)])
    check_paths(arguments)
    with without_suggestions():
        arguments.run(arguments)
