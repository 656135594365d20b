"""The pictures of the notebooks, so that their cells show the library and not matplotlib.

import charts

charts.style()
charts.head_motion(recording, 0, 14)           # frames of a recording above the readings of its IMU
charts.moving(recording, start=3.0)            # a clip as a moving picture, beside the turns of the head
charts.timeline(recording, names, predictions) # scores along a recording
"""

import io

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib_inline.backend_inline import set_matplotlib_formats

from egodistill import data

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"  # distinguishable in grey, too
COLORS = (BLUE, ORANGE, GREEN, GREY, "#CC79A7", "black")
LINES = ("o-", "s--", "^-.", "v:", "D--", "-")


def style(photographs=False):
    """Set fonts, frames and resolution; figures of photographs become JPEGs, which are smaller."""
    plt.rcParams |= {
        "figure.constrained_layout.use": True,
        "figure.dpi": 80,
        "font.size": 11,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    if photographs:
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 70, "subsampling": 0})


def say(text):
    """Print a text with numbers as a paragraph."""
    display(Markdown(" ".join(text.split())))


def film(axes, pictures, extent=None, title=""):
    """Draw pictures, [n, 3, height, width], side by side."""
    row = np.concatenate(list(np.moveaxis(np.asarray(pictures), 1, 3)), axis=1)
    axes.imshow(row, extent=extent, aspect="auto" if extent else None)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)
    axes.spines[:].set_visible(False)


def turns(axes, window, color=BLUE, limit=60):
    """Draw how fast the head turns to the left (solid) and down (dashed) in a clip's IMU window [samples, 6]."""
    seconds, speed = np.arange(len(window)) / data.IMU_RATE, np.degrees(window[:, 3:])
    axes.plot(seconds, speed[:, 2], "-", color=color, lw=1.2, label="left")
    axes.plot(seconds, speed[:, 0], "--", color=color, lw=1.2, label="down")
    axes.set(ylim=(-limit, limit), yticks=(-limit * 2 / 3, 0, limit * 2 / 3))
    axes.tick_params(labelsize=9)


def head_motion(recording, start, stop, *, acts=(), accelerometer=False, count=10):
    """Draw frames of a recording above its gyroscope, and its accelerometer; grey bands are annotated acts."""
    motion = recording.motion()
    sensors = [(motion.gyro_time, motion.gyro, "gyroscope (rad/s)")]
    if accelerometer:
        sensors.append((motion.accel_time, motion.accel, "accelerometer (m/s²)"))
    figure = plt.figure(figsize=(11, 2 + 2.1 * len(sensors)))
    strip, *rows = figure.subplots(1 + len(sensors), 1, height_ratios=(1.1, *[1.3] * len(sensors)))
    step = (stop - start) / count
    moments = start + step * (np.arange(count) + 0.5)
    film(strip, data.read_frames(recording.video, moments, size=96), (start, stop, 0, 1), f"a frame every {step:.1f} s")
    for axes, (times, values, unit) in zip(rows, sensors):
        part = (times >= start) & (times < stop)
        for axis, color, line in zip(range(3), (BLUE, GREEN, ORANGE), (":", "--", "-")):
            axes.plot(
                times[part], values[part, axis], line, color=color, lw=1.4, label=("X, left", "Y, back", "Z, up")[axis]
            )
        for act in acts:
            axes.axvspan(act.start, act.stop, color="#dddddd", zorder=0)
        axes.set(xlim=(start, stop), ylabel=unit)
    for act in acts:
        rows[0].text((act.start + act.stop) / 2, rows[0].get_ylim()[1], act.label, ha="center", va="bottom", fontsize=9)
    rows[-1].set_xlabel("time in the video (s)")
    figure.legend(*rows[0].get_legend_handles_labels(), title="axis", loc="outside right center")
    plt.show()


def moving(recording, start, rate=10):
    """Return a clip as a moving picture (an animated PNG), beside the turns of the head meanwhile."""
    times = np.arange(start, start + data.CLIP_SECONDS, 1 / rate)
    pictures = data.read_frames(recording.video, times, size=96).transpose(0, 2, 3, 1).repeat(2, 1).repeat(2, 2)
    figure, axes = plt.subplots(figsize=(5, 2.4))
    window = recording.motion().window(start)
    turns(axes, window, limit=max(60, 30 * np.ceil(np.degrees(abs(window[:, 3:])).max() / 30)))
    axes.set(xlabel="time in the clip (s)", ylabel="head turns (°/s)")
    axes.legend(fontsize=9, ncols=2, loc="upper center")
    figure.canvas.draw()
    chart = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    places = axes.transData.transform([(t - start, 0) for t in times])[:, 0].round().astype(int)
    plt.close(figure)
    frames = []
    for picture, place in zip(pictures, places):
        drawn = chart.copy()
        drawn[10:-45, place : place + 2] = (213, 94, 0)
        frames.append(np.concatenate([picture, drawn], axis=1))
    height = len(frames[0])
    film = PIL.Image.fromarray(np.concatenate(frames)).quantize(64, dither=PIL.Image.Dither.NONE)  # one palette
    first, *rest = (film.crop((0, y, film.width, y + height)) for y in range(0, film.height, height))
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True, append_images=rest, duration=1000 / rate, loop=0)
    return Image(file.getvalue(), format="png")


def lines(axes, series, levels=(), beside=False, **labels):
    """Draw {name: (x, y)} as lines with markers, and {name: y} as levels; labels are those of `axes.set()`.

    The legend stands beside the axes, or in them.
    """
    for (name, (x, y)), color, line in zip(series.items(), COLORS, LINES):
        axes.plot(x, y, line, color=color, ms=5, lw=1.4, label=name)
    for (name, y), line in zip(dict(levels).items(), (":", "--", "-.")):
        axes.axhline(y, color=GREY, ls=line, lw=1.2, label=name)
    axes.set(**labels)
    axes.legend(fontsize=9, **({"loc": "center left", "bbox_to_anchor": (1, 0.5)} if beside else {}))


def confusion(axes, shares, names):
    """Draw a confusion matrix in %, rows are the true classes; orange squares are pairs of neighbours."""
    shown = axes.imshow(shares, cmap="Greys", vmin=0, vmax=100)
    for pair in range(len(names) // 2):
        axes.add_patch(plt.Rectangle((2 * pair - 0.5, 2 * pair - 0.5), 2, 2, fill=False, edgecolor=ORANGE))
    axes.set(xlabel="predicted", ylabel="true", title="test clips, % of each verb")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xticks(range(len(names)), names, fontsize=9, rotation=90)
    axes.spines[:].set_visible(True)
    plt.colorbar(shown, ax=axes, shrink=0.8)


def timeline(recording, names, predictions, *, acts=(), events=(), looks=(), count=10):
    """Draw frames of a recording above the scores of its clips, dark for high ones.

    Orange boxes are annotated acts, blue bars events, and blue lines the times of the frames that a gate took.
    """
    told = [clip for clip in predictions if clip.classes]
    middles = np.array([(clip.start + clip.stop) / 2 for clip in told])
    half = np.median(np.diff(middles)) / 2
    start, stop = middles[0] - half, middles[-1] + half
    figure = plt.figure(figsize=(11, 2.2 + 0.45 * len(names)))
    strip, chart = figure.subplots(2, 1, height_ratios=(1.2, 0.45 * len(names) + 0.5))
    moments = start + (stop - start) / count * (np.arange(count) + 0.5)
    film(strip, data.read_frames(recording.video, moments, size=96), (start, stop, 0, 1))
    scores = np.array([[dict(clip.classes).get(name, 0.0) for clip in told] for name in names])
    edges = np.append(middles - half, stop)
    shown = chart.pcolormesh(edges, np.arange(len(names) + 1) - 0.5, scores, cmap="Greys", vmin=0, vmax=1)
    for act in acts:
        if act.stop > start and act.start < stop:
            corner = (act.start, names.index(act.label) - 0.45)
            chart.add_patch(plt.Rectangle(corner, act.stop - act.start, 0.9, fill=False, edgecolor=ORANGE, lw=2))
    for event in events:
        chart.barh(names.index(event.label), event.stop - event.start, 0.25, event.start, color=BLUE, alpha=0.7)
    for look in looks:
        chart.axvline(look, color=BLUE, lw=0.8)
    chart.set(xlim=(start, stop), ylim=(len(names) - 0.5, -0.5), xlabel="time in the video (s)")
    chart.set_yticks(range(len(names)), names)
    figure.colorbar(shown, ax=chart, label="score")
    plt.show()


def stacked(table, xlabel):
    """Draw {row: {part: value}} as bars of stacked parts, with their sums."""
    parts = list(next(iter(table.values())))
    figure, axes = plt.subplots(figsize=(11, 0.55 * len(table) + 0.6))
    left = np.zeros(len(table))
    for part, color in zip(parts, ("black", BLUE, "#56B4E9", GREY, ORANGE, "#E69F00", "#F0E442")):
        widths = [values[part] for values in table.values()]
        axes.barh(list(table), widths, 0.65, left, color=color, label=part)
        left += widths
    for row, total in enumerate(left):
        axes.text(total, row, f" {total:.0f}", va="center")
    axes.set(xlabel=xlabel, xlim=(0, 1.1 * left.max()))
    axes.invert_yaxis()
    figure.legend(loc="outside right center")
    plt.show()
