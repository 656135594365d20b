"""What the rendered world's head motion has of real heads, and what it lacks.

    python -m lab.world_and_heads --markdown results/world_and_heads.md      # a minute; and figures/real_heads

The world's wearers are drawn, not rendered; their readings go through the library's `Imu.window()` at the rate of the
real sensors. Real heads are study 1 of `real_heads.py`, in the same folder. All windows are of 2.13 s.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from egodistill import imu
from egodistill.drawing import canvas
from egodistill.support import tables
from egodistill.world import synthetic
from lab import figures, real_heads
from lab.real_heads import RATE, Windows

SECONDS = min(real_heads.STRIDES)
SIZE = round(SECONDS * RATE)
FREQUENCIES = np.fft.rfftfreq(SIZE, 1 / RATE)
BANDS = ((5, 10), (10, 25), (25, 50))  # Hz
STILL = 0.1  # rad/s
RECORDINGS = [f"P{wearer:02d}_{101 + k}" for wearer in range(1, 13) for k in range(3)]  # of two minutes
WORLD, WALK = "world", "world: walking"
ACTIVITIES = real_heads.ACTIVITIES[1]
GROUPS = {  # of activities
    "real: desk": ("read", "write", "type", "browse"),
    "real: head, chair, standing up": ("move head or body", "move chair", "stand up"),
    "real: walking": ("walk",),
    "real: running": ("run",),
    "real: stairs": ("stairs",),
}
WALKING = ACTIVITIES.index("walk")  # a label
LINES = {  # {group: colour, width, style} in the picture
    WORLD: ("#000000", 2.6, "-"),
    WALK: ("#000000", 1.8, (0, (4, 1.5))),
    "real: desk": (canvas.BLUE, 1.8, "-"),
    "real: walking": (canvas.ORANGE, 1.8, "-"),
    "real: running": (canvas.PINK, 1.8, "-"),
    "real: stairs": (canvas.GREEN, 1.8, (0, (1, 1))),
}


# ---------------------------------------------------------------------------------------------------------------
# The data


def drawn(names: list[str], acts: int = 40, seed: int = 0) -> Windows:
    """Return the windows of recordings of a world, which touch; labels are `WALKING`, or -1 for all else."""
    found: list[tuple] = []
    for number, name in enumerate(names):
        recording = synthetic.RenderedRecording(name, acts, seed)
        plan = recording.draw()
        (accel_time, accel), (gyro_time, gyro) = plan.head.readings(plan.duration, recording.rng(4))
        motion = imu.Imu(accel_time, accel, gyro_time, gyro).on_clock(*plan.wearer.clock)
        for start in np.arange(1.0, plan.duration - SECONDS - 1, SECONDS):
            # steps grow for half a second
            walks = any(begin + 0.5 <= start < begin + length - SECONDS for begin, length, *_ in plan.head.walks)
            window = motion.window(start, SIZE, RATE)
            found.append((window, WALKING if walks else -1, int(name[1:3]), number, True))
    return Windows(*map(np.stack, zip(*found, strict=True)))


def members(rendered: Windows, real: Windows) -> dict[str, tuple[Windows, np.ndarray]]:
    """Return {group: (windows of the world, or real ones; which of them are its own)}."""
    found = {WORLD: (rendered, np.full(len(rendered.labels), True)), WALK: (rendered, rendered.labels == WALKING)}
    for name, activities in GROUPS.items():
        found[name] = (real, np.isin(real.labels, [ACTIVITIES.index(one) for one in activities]))
    return found


# ---------------------------------------------------------------------------------------------------------------
# The numbers


def rms(values: np.ndarray) -> np.ndarray:
    """Return the root of the mean square length of vectors [n, T, 3], [n]."""
    return np.sqrt(np.square(values, dtype=np.float64).sum(2).mean(1))


def spectra(values: np.ndarray) -> np.ndarray:
    """Return the power density of windows [n, T, k] by frequency, [n, f, k]; its sum times the step is the variance."""
    taper = np.hanning(SIZE + 1)[:-1, None]
    found = np.abs(np.fft.rfft((values - values.mean(1, keepdims=True)) * taper, axis=1)) ** 2
    return 2 * found / (RATE * np.square(taper).sum())


def verticals(windows: Windows) -> np.ndarray:
    """Return where up is on the sensor in the recording of each window, unit vectors [n, 3]: its mean acceleration."""
    found = np.zeros((len(windows.labels), 3))
    for number in np.unique(windows.recordings):
        own = windows.recordings == number
        found[own] = windows.samples[own, :, :3].mean((0, 1))
    return unit(found)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def angle(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the angle in degrees between unit vectors [..., 3]."""
    return np.degrees(np.arccos(np.clip((one * other).sum(-1), -1, 1)))


def from_walking(windows: Windows) -> np.ndarray:
    """Return the angle of the mean acceleration of each window to that of its wearer's walks in degrees, [n]."""
    mean, found = windows.samples[..., :3].mean(1), np.full(len(windows.labels), np.nan)
    for wearer in np.unique(windows.wearers[windows.labels == WALKING]):
        own = windows.wearers == wearer
        found[own] = angle(unit(mean[own]), unit(mean[own & (windows.labels == WALKING)].mean(0)))
    return found


def numbers(windows: Windows) -> dict[str, np.ndarray]:
    """Return numbers of each window, {name: [n]}."""
    accel, gyro = windows.samples[..., :3], windows.samples[..., 3:]
    mean = accel.mean(1)
    power = spectra(accel).sum(2) * FREQUENCIES[1]
    bands = [power[:, (low <= FREQUENCIES) & (high > FREQUENCIES)].sum(1) for low, high in BANDS]
    return {
        "turn": rms(gyro),
        "acceleration": rms(accel - mean[:, None]),
        **{f"{low} Hz": np.sqrt(band) for (low, _), band in zip(BANDS, bands, strict=True)},
        "jerk": rms(np.diff(accel, axis=1) * RATE),
        "tilt": angle(unit(mean), verticals(windows)),
        "posture": from_walking(windows),
    }


def net_turns(windows: Windows) -> np.ndarray:
    """Return the mean turn about the vertical of each recording in rad/s, to the left positive, [recordings]."""
    about = (windows.samples[..., 3:].mean(1) * verticals(windows)).sum(1)
    return np.array([about[windows.recordings == number].mean() for number in np.unique(windows.recordings)])


def between_recordings(windows: Windows) -> np.ndarray:
    """Return the angle between the verticals of each two recordings in degrees, [pairs]."""
    up = verticals(windows)[np.unique(windows.recordings, return_index=True)[1]]
    first, second = np.triu_indices(len(up), 1)
    return angle(up[first], up[second])


def tabulated(groups: dict[str, tuple[Windows, np.ndarray]]) -> tables.Table:
    """Return the table of all groups: medians over windows, or over recordings."""
    measured = {id(windows): numbers(windows) for windows, _ in groups.values()}
    columns = []
    for name, (windows, own) in groups.items():
        values = {key: value[own] for key, value in measured[id(windows)].items()}
        middle = {key: float(np.nanmedian(value)) for key, value in values.items()}
        part = Windows(*(one[own] for one in windows))
        alone = name != WALK  # a walk is a part of a recording
        column = [
            f"{len(part.labels):,}, {len(np.unique(part.recordings))}",
            f"{middle['turn']:.2f}",
            f"{100 * np.mean(values['turn'] < STILL):.0f}",
            f"{middle['acceleration']:.2f}",
            ", ".join(f"{middle[f'{low} Hz']:.2f}" for low, _ in BANDS),
            f"{middle['jerk']:.0f}",
            f"{middle['tilt']:.1f}",
            f"{middle['posture']:.0f}",
            f"{np.median(np.abs(net_turns(part))):.2f}" if alone else "",
            f"{np.median(between_recordings(part)):.0f}" if alone else "",
        ]
        columns.append(column)
    titles = [
        "windows, recordings",
        "turning, rms (rad/s)",
        f"windows that turn less than {STILL} rad/s (%)",
        "acceleration without its mean, rms (m/s2)",
        "of it 5 to 10, 10 to 25, 25 to 50 Hz",
        "jerk, rms (m/s3)",
        "tilt from the recording's mean (degrees)",
        "tilt from the wearer's mean in walks (degrees)",
        "net turn of a recording about the vertical (rad/s)",
        "up on the sensor, between two recordings (degrees)",
    ]
    return tables.Table(["medians", *groups], [[title, *cells] for title, *cells in zip(titles, *columns, strict=True)])


# ---------------------------------------------------------------------------------------------------------------
# The picture


def draw(groups: dict[str, tuple[Windows, np.ndarray]], stem: Path) -> list[Path]:
    """Draw the median power of vertical acceleration and of turns by frequency; return the .png and .svg."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for name, (color, width, line) in LINES.items():
        windows, own = groups[name]
        samples = windows.samples[own]
        upright = real_heads.upright(torch.from_numpy(samples)).numpy()
        style = {"color": color, "lw": width, "ls": line, "label": name}
        left.loglog(FREQUENCIES[1:], np.median(spectra(upright[..., 2:3])[:, 1:, 0], axis=0), **style)
        right.loglog(FREQUENCIES[1:], np.median(spectra(samples[..., 3:])[:, 1:].sum(2), axis=0), **style)
    left.set(title="Vertical acceleration", ylabel="power, (m/s²)²/Hz", xlabel="frequency (Hz)")
    right.set(title="Turns, all three axes together", ylabel="power, (rad/s)²/Hz", xlabel="frequency (Hz)")
    left.text(9, 0.9, "footfall", color=canvas.PINK, ha="center")
    left.text(15, 1.1e-4, "only noise", ha="center")
    left.text(0.5, 3e-5, "stillness", color=canvas.BLUE)
    for axes in (left, right):
        axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.grid(alpha=0.35)
    drawing.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figures.save(drawing, stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=Path(__file__).resolve().parent.parent / "figures/real_heads")
    tables.markdown_option(parser)
    a = parser.parse_args()
    real = real_heads.cut(1, SECONDS)
    groups = members(drawn(RECORDINGS), Windows(*(one[real.tested] for one in real)))
    tables.report(tabulated(groups), "lab/world_and_heads.py", a.markdown, sys.argv)
    print("Wrote " + ", ".join(map(str, draw(groups, a.figure))))


if __name__ == "__main__":
    main()
