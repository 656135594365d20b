"""Distil a published teacher from real recordings without labels, and compare with predictions that need no training.

    python -m lab.unlabelled films --pretrained i3d_kinetics400_fp16.npz --images mobilenet_v2.pth --out work

The recordings of a folder become a clip each 0.25 s, and the teacher's outputs are stored for all of them. The clips
are cut into blocks of 2.13 s of a recording. For each block, students learn from the clips that have no second in
common with one of the block's, and predict the teacher's feature and classes for those. Students start from ImageNet
weights; stage 1 is part of EgoDistill. Beside them:

- training mean: the mean feature, and the mean probabilities, of the training clips;
- nearest frame: the teacher's outputs for the training clip whose middle frame has the most similar pixels;
- teacher, 0.5 s later: its own outputs for a clip that starts 0.5 s later, as far as the recording has one.

R2 is 1 for the teacher's features and 0 for the training mean. Intervals are Student's t over blocks, with their ends
clamped to what a measure can be. A few recordings show that the road works, and nothing about the accuracy of a
student.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from egodistill import CLIP_SECONDS, EgoDistill, data, distill, pretrain_imu, teachers
from egodistill.commands import options
from egodistill.engine import batches
from egodistill.support import tables
from lab import intervals

STRIDE, LATER = 0.25, 0.5  # seconds
FORMATS = (".2f", ".0f", ".2f")  # of `measures()`
RANGES = ((-math.inf, 1), (0, 100), (0, math.inf))  # that `measures()` can have
TRAINING = {"batch_size": 16, "learning_rate": 1e-3, "schedule": "cosine", "precision": "fp32", "progress": False}
Outputs = tuple[Tensor, Tensor]  # features [n, D] and probabilities [n, C]


def prepare(films: list[str], pretrained: str, size: int, out: Path) -> data.ClipStore:
    """Return a store of the recordings of some folders, with the outputs of I3D."""
    segments = [segment for folder in films for segment in data.read_recordings(folder, data.Windows(stride=STRIDE))]
    teacher = teachers.load("i3d", pretrained)
    store = data.prepare(
        segments,
        out / "store",
        frame_size=size,
        clip_frames=teacher.clip_spec.frames,
        clip_size=teacher.clip_spec.size,
        class_names=teacher.class_names,
    )
    teachers.extract(teacher, store)
    return store


def blocks_of(store: data.ClipStore) -> np.ndarray:
    """Return the number of each clip's block, int [n]: CLIP_SECONDS of one recording, by the start of the clip."""
    keys = [(clip["video"], int(clip["start"] / CLIP_SECONDS)) for clip in store.clips]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys])


def apart(store: data.ClipStore, rows: np.ndarray) -> np.ndarray:
    """Return the clips that share no time with those of `rows`, as row numbers."""
    taken = [(store.clips[row]["video"], store.clips[row]["start"]) for row in rows]
    free = [
        all(clip["video"] != video or abs(clip["start"] - start) >= CLIP_SECONDS for video, start in taken)
        for clip in store.clips
    ]
    return np.flatnonzero(free)


def later(store: data.ClipStore) -> np.ndarray:
    """Return for each clip the row of the one that starts LATER seconds after it, -1 if there is none."""
    rows = {(clip["video"], round(clip["start"], 3)): row for row, clip in enumerate(store.clips)}
    return np.array([rows.get((clip["video"], round(clip["start"] + LATER, 3)), -1) for clip in store.clips])


def students(
    store: data.ClipStore, train: np.ndarray, images: str | None, epochs: int, seed: int
) -> dict[str, EgoDistill]:
    """Return students that were distilled from the clips of some rows."""
    part, found = store.select(train), {}
    size = store.read("frames_1", [0]).shape[-1]
    for name, encoder in (("EgoDistill", "cnn"), ("VisOnly-Distill", None)):
        torch.manual_seed(seed)
        student = EgoDistill(
            len(store.class_names),
            feature_dim=store.read("i3d.feature", [0]).shape[-1],
            image_encoder="mobilenet_v2" if images else "resnet10x16",
            image_weights=images,
            frame_size=size,
            imu_encoder=encoder,
            class_names=store.class_names,
        )
        if encoder:
            pretrain_imu(student, part, teacher="i3d", epochs=epochs, seed=seed, **TRAINING)
        distill(student, part, teacher="i3d", epochs=epochs, seed=seed, **TRAINING)
        found[name] = student.eval()
    return found


@torch.no_grad()
def answer(student: EgoDistill, store: data.ClipStore, rows: np.ndarray) -> Outputs:
    """Return what a student says about some clips."""
    inputs = [torch.from_numpy(store.read(name, rows)) for name in batches.arrays_of(student, store)]
    feature, logits = student(*inputs)
    return feature, logits.softmax(1)


def guesses(store: data.ClipStore, taught: Outputs, train: np.ndarray, rows: np.ndarray) -> dict[str, Outputs]:
    """Return what can be said about some clips without a student."""
    feature, shares = taught
    pixels = torch.from_numpy(store.read("frames_1", range(len(store)))).flatten(1).float()
    nearest = train[torch.cdist(pixels[rows], pixels[train]).argmin(1).numpy()]
    count = len(rows)
    return {
        "training mean": (feature[train].mean(0).expand(count, -1), shares[train].mean(0).expand(count, -1)),
        "nearest frame": (feature[nearest], shares[nearest]),
    }


def measures(said: Outputs, taught: Outputs, mean: Tensor) -> tuple[float, float, float]:
    """Return R2 of the features, agreement of the best classes in %, and KL divergence in nats, means over clips."""
    (feature, shares), (target, wanted) = said, taught
    r2 = 1 - float((feature - target).square().sum() / (mean - target).square().sum())
    same = 100 * float((shares.argmax(1) == wanted.argmax(1)).float().mean())
    kl = float(F.kl_div(shares.clamp_min(1e-12).log(), wanted, reduction="batchmean"))
    return r2, same, kl


def compare(store: data.ClipStore, images: str | None, epochs: int, seeds: int) -> dict[str, np.ndarray]:
    """Return {what is compared: [blocks, 3] measures}, the mean over seeds for students."""
    logits = torch.from_numpy(store.read("i3d.logits", range(len(store))))
    taught = torch.from_numpy(store.read("i3d.feature", range(len(store)))), logits.softmax(1)
    blocks, after = blocks_of(store), later(store)
    found: dict[str, list[np.ndarray]] = {}
    for block in range(blocks.max() + 1):
        rows = np.flatnonzero(blocks == block)
        train = apart(store, rows)
        own, mean = tuple(x[rows] for x in taught), taught[0][train].mean(0)
        said = {name: [given] for name, given in guesses(store, taught, train, rows).items()}
        for seed in range(seeds):
            for name, student in students(store, train, images, epochs, seed).items():
                said.setdefault(name, []).append(answer(student, store, rows))
        for name, given in said.items():
            found.setdefault(name, []).append(np.mean([measures(one, own, mean) for one in given], axis=0))
        rows = rows[after[rows] >= 0]
        if len(rows):
            shifted = tuple(x[after[rows]] for x in taught)
            found.setdefault("teacher, 0.5 s later", []).append(
                np.array(measures(shifted, tuple(x[rows] for x in taught), mean))
            )
        print(f"block {block + 1} of {blocks.max() + 1}: {len(train)} clips to learn from", file=sys.stderr)
    return {name: np.stack(rows) for name, rows in found.items()}


def table_of(found: Mapping[str, np.ndarray]) -> tables.Table:
    """Return a row for each method, with intervals over blocks."""
    rows = []
    for name, values in found.items():
        columns = zip(values.T, FORMATS, RANGES, strict=True)
        cells = [f"{intervals.one_way(column).within(*limits):{form}}" for column, form, limits in columns]
        rows.append([name, *cells, str(len(values))])
    return tables.Table(["prediction", "R2 of the feature", "best class (%)", "KL (nats)", "blocks"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("films", nargs="+", help="folders of recordings")
    parser.add_argument("--pretrained", required=True, help="weights of I3D; see `egodistill teachers`")
    parser.add_argument("--images", help="ImageNet weights of MobileNetV2 (default: a small ResNet, random weights)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the store")
    parser.add_argument("--size", type=options.positive_int, default=112, help="frame size of the students in pixels")
    parser.add_argument("--epochs", type=options.positive_int, default=60, help="of each stage")
    parser.add_argument("--seeds", type=options.positive_int, default=3)
    tables.markdown_option(parser)
    a = parser.parse_args()
    store = prepare(a.films, a.pretrained, a.size, a.out)
    found = compare(store, a.images, a.epochs, a.seeds)
    tables.report(table_of(found), "lab/unlabelled.py", a.markdown, sys.argv)


if __name__ == "__main__":
    main()
