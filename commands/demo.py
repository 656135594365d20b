"""The commands `demo` and `synthesize`: the paper's main comparison on a small rendered world, and the world alone.

    egodistill demo                                         # a world, a teacher, four students
    egodistill synthesize FOLDER                            # only the world

`train_students()` is what a user would write: each stage has `out`, so a killed demo continues.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import data, teachers
from ..datasets.segments import Segment
from ..distillation import SYNTHETIC, Recipe, distill, finetune, pretrain_imu
from ..engine.published import GMACS_NOTE
from ..engine.recipes import Augment, Training
from ..inference import count_macs, evaluate, measure
from ..student import EgoDistill
from ..support import files
from ..support.tables import pluralize
from ..world import behaviour, synthetic
from .evaluations import Result, findings
from .given import suggest
from .models import answers_of, cost_table
from .recordings import describe_store

__all__ = ["DEMO", "QUICK", "SLOWFAST", "Demo"]

SETTINGS_FILE = "demo.json"
SLOWFAST = {"width": 32, "beta": 4, "depths": (1, 1, 1, 1), "stem_size": 3, "dropout": 0.3}  # options of the network
# Sized for minutes on two cores. The paper has 224 pixels, ResNet-18, MotionFormer and 50 to 150 epochs.
TEACHING = Training(epochs=8, learning_rate=2e-3, batch_size=16, schedule="cosine", warmup_epochs=1.5)
FIRST = replace(TEACHING, augment=Augment(crop=0.2, jitter=0.3), label_smoothing=0.1)  # of the SlowFast


@dataclass(frozen=True)
class Demo:
    """Sizes and settings of the demo."""

    train_acts: int = 800  # annotated actions of the training wearers
    test_acts: int = 600  # annotated actions of the test wearers
    test_wearers: int = 12  # over whom the intervals are
    world_seed: int = 0
    things: tuple[str, ...] = ("cupboard", "carrot", "jug")  # a quarter, of verbs as mixed as in all of them
    video_pixels: int = 96  # height and width of the rendered videos
    pixels: int = 64  # height and width of the frames in the store
    clip_frames: int = 16  # per clip for the teacher
    teaching: Training = FIRST
    recipe: Recipe = SYNTHETIC

    def with_training(self, **changes: Any) -> Demo:
        """Return the demo with these fields of `Training` changed in all trainings."""
        teaching = replace(self.teaching, **changes)
        return replace(self, teaching=teaching, recipe=self.recipe.with_training(**changes))

    def record(self) -> dict[str, Any]:
        """Return the settings that must be equal for a run to continue in the same folder."""
        return asdict(self) | {"teaching": self.teaching.record(), "recipe": self.recipe.record()}


DEMO = Demo()
QUICK = replace(DEMO.with_training(epochs=2), train_acts=48, test_acts=24, test_wearers=3)  # every step, in a minute
QUICK = replace(QUICK, recipe=replace(QUICK.recipe, pretraining=replace(QUICK.recipe.pretraining, batch_size=32)))


def run_synthesize(a: argparse.Namespace) -> None:
    world = synthetic.render(
        a.out, seed=a.seed, train_acts=a.train_acts, test_acts=a.test_acts, label_noise=a.label_noise
    )
    print(f"Wrote {world.root}, with the annotations {world.annotations}.")
    suggest("prepare", world.annotations, "--root", world.root, "--out", "STORE")


def run_demo(a: argparse.Namespace) -> None:
    out, start_time = Path(a.out), time.monotonic()
    demo = replace(QUICK if a.quick else DEMO, world_seed=a.world_seed).with_training(seed=a.seed)
    demo = demo.with_training(precision=a.precision) if hasattr(a, "precision") else demo
    check_output_folder(out, demo.record())
    print(f"All files are written to {out}/. If you interrupt the demo, the same command continues it.\n")
    store, segments = make_store(demo, out)
    print("\n3. Train a teacher and extract its outputs; train four students, two of them on labels alone")
    models = train_students(demo, store, out)
    print("\n4. Evaluate on wearers who are not in the training data")
    test = store.split("test")
    results, costs = {}, {}
    for name, model in models.items():
        found = evaluate(model, test, precision="fp32", progress=False)
        results[name] = Result(name, {"class_names": store.class_names, "answers": answers_of(found, test)})
        costs[name] = measure(model, precision="fp32")
    print(cost_table(costs).text())
    report_ratio(costs["teacher"].gmacs, costs["EgoDistill"].gmacs)
    if a.quick:
        clips = f"{pluralize(len(store), 'clip')} decoded, {pluralize(len(models) + 2, 'network')} trained"
        print(f"\nEvery step ran: {clips}.\nNothing can be learned from so few clips in two epochs: no accuracies.")
    else:
        print("\nTop-1 accuracy of one seed (the intervals say nothing about other seeds)")
        for what, text in findings(list(results.values())):
            print(f"  {what}: {text}")
        report_limits(demo.things)
    rows = {name: {"answers": results[name].answers, **costs[name]._asdict()} for name in models}
    files.write_json(out / "results.json", {"class_names": store.class_names, "models": rows, "demo": demo.record()})
    print(
        f"\nWrote {out / 'results.json'} and models to {out}/. It took {(time.monotonic() - start_time) / 60:.1f} min."
    )
    segment = next(segment for segment in segments if segment.split == "test")
    words = ["predict", segment.video, "--imu", *segment.imu, "--student", str(out / "egodistill.safetensors")]
    print("Next:\n  label a recording of a test wearer with the student just made, and see it in a browser:")
    print(f"    egodistill {shlex.join([*words, '--html', str(out / 'predict.html')])}")
    print("  the same steps in Python, one by one, in a checkout:\n    jupyter lab tutorials")


def make_store(demo: Demo, out: Path) -> tuple[data.ClipStore, list[Segment]]:
    """Render the demo's world, decode it into a store, and return that and its segments."""
    print("1. Render a world with video and head motion, in the layout of EPIC-KITCHENS")
    sizes = {"train_acts": demo.train_acts, "test_acts": demo.test_acts, "test_wearers": demo.test_wearers}
    size = (demo.video_pixels, demo.video_pixels)
    world = synthetic.render(out / "world", seed=demo.world_seed, things=demo.things, size=size, **sizes)
    print("2. Decode each clip once, into a clip store")
    segments = data.read_epic_kitchens(world.annotations, world.root, evaluation_wearers=world.test_wearers)
    clip = {"clip_frames": demo.clip_frames, "clip_size": demo.pixels}
    store = data.prepare(segments, out / "store", frame_size=demo.pixels, **clip)
    describe_store(store, segments)
    return store, segments


def train_students(demo: Demo, store: data.ClipStore, out: Path) -> dict[str, Any]:
    """Return the teacher and the four students of the paper, trained, by name; their files are in `out`."""
    train, recipe, names = store.split("train"), demo.recipe, list(store.class_names)
    seed, clip = recipe.finetuning.seed, store.specs["clip"]

    torch.manual_seed(seed)
    shape = {"frames": clip.frames, "size": clip.size, "seconds": clip.seconds}
    teacher = teachers.load("slowfast_8x8_r50", class_names=names, progress=False, **shape, **SLOWFAST)
    teacher.name = "slowfast"
    teacher.to(memory_format=torch.channels_last_3d)  # faster on CPUs
    finetune(teacher, train, demo.teaching, out=out / "teacher.safetensors")
    teachers.extract(teacher, store, batch_size=32, precision="fp32")  # as it is evaluated

    def student(**arguments: Any) -> EgoDistill:
        torch.manual_seed(seed)
        return replace(recipe.student, **arguments).build(len(names), frame_size=demo.pixels, class_names=names)

    # The paper starts from ImageNet weights; here an image encoder that learned from the labels takes their place.
    start = student(imu_encoder=None)
    finetune(start, train, recipe.finetuning, out=out / "start.safetensors")
    weights = {"image_weights": start.image_encoder.state_dict()}
    frames_alone = weights | {"imu_encoder": None}

    vis_only, vis_imu = student(**frames_alone), student(**weights)  # on labels alone
    finetune(vis_only, train, recipe.finetuning, out=out / "visonly.safetensors")
    finetune(vis_imu, train, recipe.finetuning, out=out / "visimu.safetensors")
    width = {"feature_dim": teacher.feature_dim}
    vis_only_distill, egodistill = student(**width, **frames_alone), student(**width, **weights)
    distill(vis_only_distill, train, recipe.distillation, teacher=teacher.name, out=out / "visonly-distill.safetensors")
    pretrain_imu(egodistill, train, recipe.pretraining, teacher=teacher.name, out=out / "imu.safetensors")  # stage 1
    distill(egodistill, train, recipe.distillation, teacher=teacher.name, out=out / "egodistill.safetensors")  # stage 2
    students = {"VisOnly-Distill": vis_only_distill, "VisIMU": vis_imu, "VisOnly": vis_only}
    return {"EgoDistill": egodistill, **students, "teacher": teacher}


def check_output_folder(out: Path, settings: dict[str, Any]) -> None:
    """Write the demo's settings file. Refuse a folder that holds a demo with other settings, or other files."""
    path = out / SETTINGS_FILE
    before = files.read_json(path) if path.exists() else None
    if isinstance(before, dict) and "train_acts" in before:
        files.require_same_run(path, before, settings, "Choose another --out, or delete the folder.")
        return
    if out.exists() and any(map(is_foreign, out.iterdir())):
        raise ValueError(f"{out}: is not empty and holds no demo; choose a new folder with --out")
    files.write_json(path, settings)


def is_foreign(file: Path) -> bool:
    """Return whether a file is neither an incomplete settings file of a killed demo nor written by a desktop."""
    return not file.name.startswith(f".{SETTINGS_FILE}.") and not files.is_system_file(file.name)


def report_limits(things: Sequence[str]) -> None:
    """Print the best possible accuracies in a rendered world."""
    limits = behaviour.bounds(things=things)
    print(
        f"This world is smaller than those of the README: {len(things)} of {len(behaviour.THINGS)} objects, "
        f"{len(behaviour.verbs_of(things))} of {len(behaviour.VERBS)} verbs.\nThe best possible accuracy here is "
        f"{100 * limits['one frame']:.0f} % from one frame and {100 * limits['one frame and head motion']:.0f} % from "
        f"one frame and head motion."
    )


def report_ratio(teacher: float, student: float) -> None:
    """Print how GMACs of a teacher and a student compare, and those of the same models at the paper's size."""
    meta = torch.device("meta")  # Counting needs shapes only.
    with meta:
        at_paper_size = {
            "SlowFast 8x8 R50 (34.6 M parameters)": teachers.load("slowfast_8x8_r50", progress=False),
            "EgoDistill, ResNet-18, one frame (20.6 M parameters)": EgoDistill(62, image_weights=None),
        }
    print(
        f"{GMACS_NOTE}\nThe student needs {teacher / student:.0f} times fewer multiply-adds than its teacher. ", end=""
    )
    print("At the paper's size (224 pixels):")
    for name, model in at_paper_size.items():
        print(f"  {name}: {count_macs(model, meta) / 1e9:.2f} GMACs")
    print("  MotionFormer, as counted in the paper: 369.51 GMACs, 198 times the student's")
