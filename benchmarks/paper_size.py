"""Estimate time, memory and disk of each stage for the paper's two data sets on this machine.

    python benchmarks/paper_size.py                  # a few minutes on two cores
    python benchmarks/paper_size.py --clips 16 --teacher-clips 1     # to try it
    python benchmarks/paper_size.py --tables disk stage-1            # two of its three tables

Each stage runs on `--clips` clips of the paper's size (224 pixels, ResNet-18, N = 1; MotionFormer in fp32 on
`--teacher-clips` of them), cut from a rendered 1080p30 recording with a key frame every second. Seconds per clip are
extrapolated to the paper's numbers of clips and epochs, without effects of longer runs such as slow disks or other
programs. Memory is the peak of a process that runs one stage. It does not depend on the number of clips, except in
stage 1, which keeps 6 kB of image features per clip; these are added here.

The table "disk" prepares stores of `--teacher-clips` clips in several ways, with MotionFormer's outputs, and counts the
bytes of their arrays. The table "stage-1" compares an epoch of stage 1 with one that encodes the frames in each step,
interleaved in one process: twice four epochs of each, of which the first warms up. Their losses have to be equal.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from recording import render, repeat, write_imu  # benchmarks/recording.py

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistill, data, distill, distillation, evaluate, pretrain_imu, teachers
from egodistill.datasets.one_pass import ConsumerGroup
from egodistill.support import tables

# Training clips, test clips, epochs of stages 1 and 2 (section 4.1, appendix C); one clip per segment.
DATASETS = {"Ego4D": (8500, 3600, 50, 150), "EPIC-KITCHENS": (29000, 6200, 50, 50)}
CLASSES = [str(k) for k in range(97)]
SETTINGS = {"batch_size": 64, "epochs": 1, "precision": "fp32", "progress": False}


def segments(folder: Path, clips: int, jobs: int) -> list[data.Segment]:
    """Return one clip per segment, from `jobs` recordings."""
    return [
        data.Segment(
            f"{k}",
            folder / f"{k % jobs}.mp4",
            start,
            start + data.CLIP_SECONDS,
            CLASSES[k % 97],
            folder / "imu.csv",
            "train",
        )
        for k, start in enumerate(data.CLIP_SECONDS * (np.arange(clips) // jobs))
    ]


def prepare(folder: Path, clips: int, jobs: int) -> dict[str, float]:
    """Decode with one process per core, each with its own recording."""
    clips_of = segments(folder, clips, jobs)
    start_time = time.perf_counter()
    data.prepare(clips_of, folder / "store", clip_frames=16, class_names=CLASSES, progress=False)
    return {"seconds": (time.perf_counter() - start_time) / clips, "disk": bytes_per_clip(folder / "store")}


def bytes_per_clip(store: Path) -> float:
    arrays = [np.load(file, mmap_mode="r") for file in store.glob("*.npy")]
    return sum(array.nbytes for array in arrays) / len(arrays[0])


def extract(folder: Path, clips: int) -> dict[str, float]:
    store = data.ClipStore(folder / "store")
    teacher = teachers.load("motionformer_16x4", class_names=CLASSES, progress=False).eval()
    teacher.name = "motionformer"
    clip = torch.from_numpy(store.read("clip", range(clips)))
    with torch.inference_mode():
        start_time = time.perf_counter()
        teacher(clip)
        seconds = time.perf_counter() - start_time
    for name, width in (("feature", 768), ("logits", 97)):  # any numbers, for the other stages
        store.add(f"motionformer.{name}", (width,), np.float32)
        store.write(f"motionformer.{name}", range(len(store)), np.zeros((len(store), width), np.float32))
    return {"seconds": seconds / clips, "disk": 4.0 * (768 + 97)}


def stage_1(folder: Path) -> dict[str, float]:
    store, model = data.ClipStore(folder / "store"), EgoDistill(97, image_weights=None)
    start_time = time.perf_counter()
    history = pretrain_imu(model, store, teacher="motionformer", **SETTINGS)
    epoch = 1 / history[0]["clips_per_second"]
    return {"seconds": epoch, "once": (time.perf_counter() - start_time) / len(store) - epoch}


class EncodeAgain(distillation.PretrainIMU):
    """Stage 1 that encodes the frames in each step."""

    def __init__(self, *given, **named) -> None:
        super().__init__(*given, **named)
        self.reads = [*self.reads, self.frames, "ends"]

    def setup(self, store, settings) -> None:
        """Encode nothing yet."""

    def forward(self, batch):
        stack = torch.cat([batch["ends"][:, :1], batch[self.frames], batch["ends"][:, 1:]], dim=1)
        self.model.image_encoder.eval()
        with torch.no_grad():
            self.features = self.model.encode_frames(stack, stack.shape[1])
        return super().forward(batch | {"row": torch.arange(len(stack))})


def stage_1_again(folder: Path) -> dict[str, float]:
    """Return seconds per clip of an epoch with features that were computed once, and with frames that are encoded."""
    store, kept = data.ClipStore(folder / "store"), distillation.PretrainIMU
    seconds, once, losses = {kept: [], EncodeAgain: []}, [], []
    for objective in 2 * (kept, EncodeAgain):
        torch.manual_seed(0)
        model, distillation.PretrainIMU = EgoDistill(97, image_weights=None), objective
        start_time = time.perf_counter()
        history = pretrain_imu(model, store, teacher="motionformer", **SETTINGS | {"epochs": 4})
        epochs = [1 / epoch["clips_per_second"] for epoch in history]
        losses.append(history[-1]["loss"])
        seconds[objective] += epochs[1:]  # The first one warms up.
        if objective is kept:
            once.append((time.perf_counter() - start_time) / len(store) - sum(epochs))
    if max(losses) - min(losses) > 1e-3:
        raise SystemExit(f"the two ways differ: {losses}")
    found = {"kept": seconds[kept], "once": once, "again": seconds[EncodeAgain]}
    return {name: statistics.median(values) for name, values in found.items()}


def stage_2(folder: Path) -> dict[str, float]:
    store, model = data.ClipStore(folder / "store"), EgoDistill(97, image_weights=None)
    return {"seconds": 1 / distill(model, store, teacher="motionformer", **SETTINGS)[0]["clips_per_second"]}


def evaluation(folder: Path) -> dict[str, float]:
    store, model = data.ClipStore(folder / "store"), EgoDistill(97, image_weights=None)
    evaluate(model, store, precision="fp32", progress=False)  # warms up
    start_time = time.perf_counter()
    evaluate(model, store, precision="fp32", progress=False)
    return {"seconds": (time.perf_counter() - start_time) / len(store)}


STAGES = {"prepare": prepare, "extract": extract, "stage 1": stage_1, "stage 2": stage_2, "evaluate": evaluation}
TABLES = ("stages", "disk", "stage-1")


def disk_table(folder: Path, clips: int) -> tables.Table:
    """Return the size of stores that are prepared in several ways."""
    teacher = teachers.load("motionformer_16x4", class_names=CLASSES, progress=False).eval()
    teacher.name = "motionformer"
    rows = []
    for passes, count, ends in (
        ("two", 1, "frames"),
        ("one", 1, "frames"),
        ("one", 4, "frames"),
        ("one", 1, "features"),
        ("one", 4, "features"),
    ):
        store = folder / f"{passes} {count} {ends}"
        options = {"num_frames": count, "class_names": CLASSES, "progress": False}
        if passes == "two":
            options["clip_frames"] = 16
        else:
            consumers = [teachers.Extraction(teacher)]
            if ends == "features":
                consumers.append(distillation.EndFeatures(EgoDistill(97, image_weights=None)))
            options["consumer"] = ConsumerGroup(*consumers)
        prepared = data.prepare(segments(folder, clips, 1), store, **options)
        if passes == "two":
            teachers.extract(teacher, prepared, progress=False)
        size = bytes_per_clip(store)
        sizes = [f"{(train + test) * size / 1e9:.1f}" for train, test, *_ in DATASETS.values()]
        rows.append([f"{passes} pass{'es' * (passes == 'two')}", str(count), ends, f"{size / 1e3:.1f}", *sizes])
        print(rows[-1], file=sys.stderr, flush=True)
    return tables.Table(
        ["prepare and extract", "N", "ends", "kB per clip", *(f"{name}: GB" for name in DATASETS)], rows
    )


def stage_1_table(found: dict[str, float]) -> tables.Table:
    train, _, epochs, _ = DATASETS["EPIC-KITCHENS"]
    rows = []
    for name, epoch, once in (
        ("features kept", found["kept"], found["once"]),
        ("frames encoded in each step", found["again"], 0.0),
    ):
        whole = train * (epochs * epoch + once) / 3600
        rows.append([name, f"{1e3 * epoch:.1f}", f"{1e3 * once:.1f}" if once else "", f"{whole:.1f}"])
    whole = epochs * found["again"] / (epochs * found["kept"] + found["once"])
    rows.append(["factor", f"{found['again'] / found['kept']:.1f}", "", f"{whole:.1f}"])
    columns = ["stage 1", "ms per clip and epoch", "ms per clip, once", f"EPIC-KITCHENS, {epochs} epochs: hours"]
    return tables.Table(columns, rows)


def hours(stage: str, found: dict[str, float], train: int, test: int, first: int, second: int) -> float:
    clips = {
        "prepare": train + test,
        "extract": train + test,
        "stage 1": train * first,
        "stage 2": train * second,
        "evaluate": test,
    }[stage]
    return (clips * found["seconds"] + train * found.get("once", 0.0)) / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--teacher-clips", type=int, default=4)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)  # stage and folder of a child process
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    jobs = torch.get_num_threads()
    if arguments.stage:
        stage, folder = arguments.stage[0], Path(arguments.stage[1])
        torch.manual_seed(0)
        counts = {"prepare": (arguments.clips, jobs), "extract": (arguments.teacher_clips,)}.get(stage, ())
        found = (STAGES | {"stage-1": stage_1_again})[stage](folder, *counts)
        who = resource.RUSAGE_CHILDREN if stage == "prepare" else resource.RUSAGE_SELF
        found["MB"] = resource.getrusage(who).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        print(json.dumps(found))
        return

    print(f"{arguments.clips} clips of 1080p30, {jobs} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render(folder / "piece.mp4", 20, 30)
        length = data.CLIP_SECONDS * (arguments.clips // jobs + 2)
        for k in range(jobs):
            repeat(folder / "piece.mp4", folder / f"{k}.mp4", int(length // 20) + 1)
        write_imu(folder / "imu.csv", length + 20, None, 20)
        found = {}
        again = ["stage-1"] if "stage-1" in arguments.tables else []
        wanted = [*STAGES] if "stages" in arguments.tables else ["prepare", "extract"] if again else []
        for stage in wanted + again:
            command = [
                sys.executable,
                __file__,
                "--stage",
                stage,
                name,
                "--clips",
                str(arguments.clips),
                "--teacher-clips",
                str(arguments.teacher_clips),
            ]
            found[stage] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(f"{stage}: {found[stage]}", file=sys.stderr, flush=True)
        if "disk" in arguments.tables:
            disk = disk_table(folder, arguments.teacher_clips)
            tables.report(disk, "benchmarks/paper_size.py disk", arguments.markdown, sys.argv)
    if again:
        table = stage_1_table(found.pop("stage-1"))
        tables.report(table, "benchmarks/paper_size.py stage 1", arguments.markdown, sys.argv)
    if "stages" in arguments.tables:
        report_stages(found, arguments.markdown)


def report_stages(found: dict[str, dict[str, float]], markdown: str | None) -> None:
    rows = []
    for stage, one in found.items():
        cells = []
        for train, test, first, second in DATASETS.values():
            disk = f"{(train + test) * one['disk'] / 1e9:.1f}" if "disk" in one else ""
            cells += [f"{hours(stage, one, train, test, first, second):.1f}", disk]
        features = 6.1e-3 * DATASETS["EPIC-KITCHENS"][0] if stage == "stage 1" else 0.0
        once = f" + {one['once']:.3f} once" if "once" in one else ""
        rows.append([stage, f"{one['seconds']:.3f}{once}", f"{(one['MB'] + features) / 1e3:.1f}", *cells])
    columns = [f"{name}: {unit}" for name in DATASETS for unit in ("hours", "GB of disk")]
    table = tables.Table(["stage", "seconds per clip", "GB of memory", *columns], rows)
    tables.report(table, "benchmarks/paper_size.py", markdown, sys.argv)
    print("once: stage 1 computes the image features of the training clips once; its memory is for EPIC-KITCHENS.")


if __name__ == "__main__":
    main()
