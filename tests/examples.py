"""The files that the examples in docstrings read, made once for all of them."""

import csv
import shutil
from pathlib import Path

import numpy as np
import torch

from egodistill import CLIP_SECONDS, EgoDistill, data, teachers
from egodistill.world import synthetic

TEACHER = {"frames": 8, "size": 64, "seconds": CLIP_SECONDS, "width": 8, "pool": 2, "progress": False}


def make(folder: Path) -> Path:
    """Fill a folder: a rendered world, a walk with a table of its IMU, a store with a teacher's outputs, two models."""
    # With this seed, all acts are shorter than a clip, so that there is one clip of each.
    small = {"train_acts": 16, "test_acts": 6, "train_wearers": 2, "size": (64, 64)}
    world = synthetic.render(folder / "world", seed=316, **small, workers=1, progress=False)
    segments = data.read_epic_kitchens(world.annotations, world.root)
    shutil.copy(segments[0].video, folder / "walk.mp4")
    write_walk(folder / "walk.csv", data.read_imu(segments[0].imu))
    (folder / "segments.csv").write_text(
        "video,start,stop,label,imu,split\n"
        "walk.mp4,0,2.1,walk,walk.csv,train\nwalk.mp4,00:00:02.1,00:00:04.2,look around,walk.csv,test\n"
    )
    store = data.prepare(
        segments,
        folder / "store",
        num_frames=(1, 4),
        frame_size=64,
        clip_frames=8,
        clip_size=64,
        workers=1,
        progress=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = teachers.load("x3d_m", class_names=store.class_names, **TEACHER)
        teacher.name = "x3d"
        student = EgoDistill(
            len(store.class_names),
            feature_dim=teacher.feature_dim,
            image_encoder="resnet10x8",
            image_weights=None,
            frame_size=64,
            hidden=64,
            class_names=store.class_names,
        )
    teacher.save(folder / "teacher.safetensors")
    student.save(folder / "student.safetensors")
    teachers.extract(teacher, store, progress=False, device="cpu")
    return folder


def write_walk(path: Path, imu: data.Imu) -> None:
    """Write both sensors as one table, on the accelerometer's times."""
    gyro = np.stack([np.interp(imu.accel_time, imu.gyro_time, axis) for axis in imu.gyro.T], axis=1)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "ax", "ay", "az", "gx", "gy", "gz"])
        writer.writerows(np.column_stack([imu.accel_time, imu.accel, gyro]).round(5).tolist())
