"""What the paper's two data sets would take on this machine: time, memory and disk of each stage.

    python benchmarks/paper_size.py                  # a few minutes on two cores
    python benchmarks/paper_size.py --clips 16 --teacher-clips 1     # to see how it works

Each stage runs on `--clips` clips of the paper's size (224 pixels, ResNet-18, N = 1, MotionFormer in fp32 on
`--teacher-clips` of them), cut from a rendered 1080p30 recording with a key frame each second. Its seconds a clip are
stretched to the numbers of clips and epochs of the paper; nothing is added for what a longer run may meet (slow disks,
other programs). Memory is the peak of a process that does nothing else; it does not depend on the number of clips but
in stage 1, which keeps the image features: 6 kB a clip, added here. Disk is the store's bytes a clip; five sixths are
the dense clips, which only the teacher reads.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from recording import render, repeat, write_imu  # benchmarks/recording.py

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout's egodistill, installed or not.

from egodistill import EgoDistill, data, distill, evaluate, pretrain_imu, teachers

# Clips to train on, clips to evaluate, epochs of stage 1 and 2 (section 4.1, appendix C); a clip a segment.
DATASETS = {"Ego4D": (8500, 3600, 50, 150), "EPIC-KITCHENS": (29000, 6200, 50, 50)}
CLASSES = [str(k) for k in range(97)]
SETTINGS = {"batch_size": 64, "epochs": 1, "progress": False}


def prepare(folder: Path, clips: int, jobs: int) -> dict[str, float]:
    """The videos' decoding is shared by processes, one a core, each with a recording of its own."""
    segments = [
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
    began = time.perf_counter()
    data.prepare(segments, folder / "store", clip_frames=16, class_names=CLASSES, progress=False)
    spent = time.perf_counter() - began
    return {"seconds": spent / clips, "disk": sum(f.stat().st_size for f in (folder / "store").glob("*.npy")) / clips}


def extract(folder: Path, clips: int) -> dict[str, float]:
    store = data.ClipStore(folder / "store")
    teacher = teachers.load("motionformer_16x4", class_names=CLASSES, progress=False).eval()
    teacher.name = "motionformer"
    clip = torch.from_numpy(store.read("clip", range(clips)))
    with torch.inference_mode():
        began = time.perf_counter()
        teacher(clip)
        spent = time.perf_counter() - began
    for name, width in (("feature", 768), ("logits", 97)):  # What the other stages need: any numbers.
        store.add(f"motionformer.{name}", (width,), np.float32)
        store.write(f"motionformer.{name}", range(len(store)), np.zeros((len(store), width), np.float32))
    return {"seconds": spent / clips, "disk": 4.0 * (768 + 97)}


def stage_1(folder: Path) -> dict[str, float]:
    store, model = data.ClipStore(folder / "store"), EgoDistill(97, image_weights=None)
    began = time.perf_counter()
    history = pretrain_imu(model, store, teacher="motionformer", **SETTINGS)
    epoch = 1 / history[0]["clips_per_second"]
    return {"seconds": epoch, "once": (time.perf_counter() - began) / len(store) - epoch}


def stage_2(folder: Path) -> dict[str, float]:
    store, model = data.ClipStore(folder / "store"), EgoDistill(97, image_weights=None)
    return {"seconds": 1 / distill(model, store, teacher="motionformer", **SETTINGS)[0]["clips_per_second"]}


def evaluation(folder: Path) -> dict[str, float]:
    store, model = data.ClipStore(folder / "store"), EgoDistill(97, image_weights=None)
    evaluate(model, store, precision="fp32", progress=False)  # warms up
    began = time.perf_counter()
    evaluate(model, store, precision="fp32", progress=False)
    return {"seconds": (time.perf_counter() - began) / len(store)}


STAGES = {"prepare": prepare, "extract": extract, "stage 1": stage_1, "stage 2": stage_2, "evaluate": evaluation}


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
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)  # What a process of its own does, and where.
    arguments = parser.parse_args()
    jobs = torch.get_num_threads()
    if arguments.stage:
        stage, folder = arguments.stage[0], Path(arguments.stage[1])
        torch.manual_seed(0)
        counts = {"prepare": (arguments.clips, jobs), "extract": (arguments.teacher_clips,)}.get(stage, ())
        found = STAGES[stage](folder, *counts)
        who = resource.RUSAGE_CHILDREN if stage == "prepare" else resource.RUSAGE_SELF
        found["MB"] = resource.getrusage(who).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        print(json.dumps(found))
        return

    print(f"torch {torch.__version__}, {jobs} threads, {arguments.clips} clips of 1080p30")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render(folder / "piece.mp4", 20)
        length = data.CLIP_SECONDS * (arguments.clips // jobs + 2)
        for k in range(jobs):
            repeat(folder / "piece.mp4", folder / f"{k}.mp4", int(length // 20) + 1)
        write_imu(folder / "imu.csv", length + 20)
        found = {}
        for stage in STAGES:
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

    columns = " | ".join(f"{name}: hours | GB of disk" for name in DATASETS)
    print(f"\n| stage | seconds a clip | MB of memory | {columns} |")
    print("| --- |" + " ---: |" * (2 + 2 * len(DATASETS)))
    for stage, one in found.items():
        cells = []
        for train, test, first, second in DATASETS.values():
            disk = f"{(train + test) * one['disk'] / 1e9:.1f}" if "disk" in one else ""
            cells += [f"{hours(stage, one, train, test, first, second):.1f}", disk]
        more = 6.1e-3 * DATASETS["EPIC-KITCHENS"][0] if stage == "stage 1" else 0.0
        print(f"| {stage} | {one['seconds']:.3f} | {one['MB'] + more:.0f} | " + " | ".join(cells) + " |")
    once = found["stage 1"]["once"]
    print(
        f"\nStage 1 also computes the image features once, {once:.3f} s a training clip, which is in its hours; its "
        "memory is that for EPIC-KITCHENS."
    )


if __name__ == "__main__":
    main()
