"""Draw figures/idea.png: what the teacher watches, and what the student looks at, of one clip of the rendered world.

python figures/idea.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import CLIP_SECONDS, IMU_RATE, data
from egodistill.drawing.canvas import BLUE, GREY, ORANGE
from egodistill.world import behaviour, synthetic

HERE = Path(__file__).resolve().parent
SHOWN = 10  # frames in the upper row
NAME, SEED = "P02_101", 49  # a recording in which someone opens a cupboard and does not walk meanwhile


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recording = synthetic.RenderedRecording(NAME, acts=3, seed=SEED, width=192, height=192)
        act = next(act for act in recording.draw().acts if behaviour.VERBS[act.verb] == "open")
        recording.write(Path(folder))
        video, *tables = recording.files(Path(folder))
        start = act.centre - CLIP_SECONDS / 2
        frames = data.read_frames(video, data.clip_times(start, SHOWN), 192).transpose(0, 2, 3, 1)
        middle = data.read_frames(video, data.clip_times(start, 1), 192)[0].transpose(1, 2, 0)
        motion = data.read_imu(tables).window(start)
    draw(frames, middle, motion).savefig(HERE / "idea.png", dpi=120)


def draw(frames: np.ndarray, middle: np.ndarray, motion: np.ndarray) -> plt.Figure:
    figure = plt.figure(figsize=(10, 3.5))
    grid = figure.add_gridspec(
        2, SHOWN, height_ratios=(1, 1.35), left=0.01, right=0.99, top=0.9, bottom=0.13, hspace=0.42
    )
    for column, frame in enumerate(frames):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(frame)
        axes.axis("off")
    figure.text(0.01, 0.93, "The teacher watches the whole clip", color=GREY, weight="bold", fontsize=14)
    figure.text(0.99, 0.93, "MotionFormer: 369.5 GMACs", color=GREY, ha="right", fontsize=14)
    figure.text(
        0.01, 0.53, "EgoDistill looks at one frame and the head motion", color=ORANGE, weight="bold", fontsize=14
    )
    figure.text(0.99, 0.53, "1.9 GMACs: 198 times fewer", color=ORANGE, ha="right", weight="bold", fontsize=14)
    one = figure.add_subplot(grid[1, :2])
    one.imshow(middle)
    one.set(xticks=[], yticks=[])
    for spine in one.spines.values():
        spine.set(color=ORANGE, linewidth=2.5)
    times = np.arange(len(motion)) / IMU_RATE
    force = motion[:, :3] - motion[:, :3].mean(0)  # without gravity
    halves = (
        (slice(2, 6), "accelerometer, minus mean (m/s²)", force),
        (slice(6, 10), "gyroscope (rad/s)", motion[:, 3:]),
    )
    for place, title, values in halves:
        axes = figure.add_subplot(grid[1, place])
        box = axes.get_position()
        axes.set_position([box.x0 + 0.045, box.y0, box.width - 0.05, box.height - 0.04])
        for axis, color in zip(values.T, (BLUE, ORANGE, GREY), strict=True):
            axes.plot(times, axis, color=color, linewidth=1.2)
        axes.legend(("left", "back", "up"), loc="upper left", ncols=3, fontsize=9, frameon=False, handlelength=1)
        axes.set_title(title, fontsize=11, loc="left", color=GREY)
        axes.set_xlabel("seconds", fontsize=10)
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0, y=0.3)
    return figure


if __name__ == "__main__":
    main()
