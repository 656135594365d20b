"""The picture of `egodistill demo`: all methods with their intervals, and test clips with what each model says.

from egodistill.experiments import showcase

clips = showcase.shown_clips(bench, runs)                    # of a `Bench`, its finished runs of one seed
showcase.draw_showcase(rows, leads, clips, "results.png")    # of `experiments.rows()` and `experiments.leads()`
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import data, inference
from ..drawing import canvas
from .figures import STYLES, error_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .benches import Bench, Run
    from .paper import Contrast, Row

__all__ = ["ShownClip", "draw_showcase", "shown_clips"]

SHOWN = 6  # clips
STRIP = 4  # frames of a clip below the one that the student reads
GAP = ((0, 0), (0, 0), (0, 0), (1, 1))  # white columns beside each of them


class ShownClip(NamedTuple):
    """A test clip, and what each method says about it.

    Attributes:
        frame: What the student reads, uint8 [3, H, W].
        strip: Frames of the whole clip, uint8 [n, 3, H, W].
        truth: Its class.
        said: {method: class}.
    """

    frame: np.ndarray
    strip: np.ndarray
    truth: str
    said: dict[str, str]


def shown_clips(bench: Bench, runs: Sequence[Run]) -> list[ShownClip]:
    """Return six clips of the test split, evenly spaced in it, with what the models of finished runs say.

    Args:
        bench: The bench of the runs; its store has clips for a teacher.
        runs: Runs of different methods, with one frame.
    """
    test = data.ClipStore(bench.store).split(bench.test)
    rows = np.unique(np.linspace(0, len(test) - 1, SHOWN + 2).round().astype(int)[1:-1])
    clips = test.select(rows)
    said: dict[str, list[str]] = {}
    for run in runs:
        found = inference.outputs(bench.load(run), clips, batch_size=len(rows), device=bench.device, progress=False)
        best = [int(number) for output, _ in found for number in output.logits.argmax(1)]
        said[run.method] = [test.class_names[number] for number in best]
    frames, whole = clips.read("frames_1", range(len(clips))), clips.read("clip", range(len(clips)))
    places = np.linspace(0, whole.shape[1] - 1, STRIP).round().astype(int)
    return [
        ShownClip(
            frames[k, 0],
            whole[k, places],
            test.class_names[clips.labels[k]],
            {method: answers[k] for method, answers in said.items()},
        )
        for k in range(len(clips))
    ]


def draw_showcase(
    rows: Sequence[Row],
    leads: Sequence[Contrast],
    clips: Sequence[ShownClip],
    path: str | os.PathLike,
    heading: str = "",
    limits: Mapping[str, float] | None = None,
    title: str = "egodistill",
) -> None:
    """Draw the accuracy of each method, how far EgoDistill leads it, and clips with answers, right and wrong ones.

    Raise ImportError without matplotlib.

    Args:
        rows: Rows of `experiments.rows()`, one for each method; without any, the clips alone are drawn.
        leads: Differences of `experiments.leads()`.
        clips: Test clips of `shown_clips()`.
        path: The .png to write.
        heading: What stands above it, such as what the intervals are over.
        limits: {inputs: best possible accuracy in %}, drawn as lines.
        title: The title in the file's metadata.
    """
    rows = sorted(rows, key=lambda row: row.top1)
    methods = [row.method for row in rows[::-1] if all(row.method in clip.said for clip in clips)]
    about = f"{len(clips)} test clips, evenly spaced and not picked"
    with canvas.picture(path, (12, 8 if rows else 4), title) as figure:
        if not rows:
            draw_clips(figure, clips, [], f"{heading}\n{about}")
            return
        parts: Any = figure.subfigures(2, 1, height_ratios=(1.08, 1.1), hspace=0.05)
        canvas.heading(parts[0], heading)
        panels = parts[0].subplots(1, 2, sharey=True, width_ratios=(1.4, 1))
        draw_accuracies(panels[0], rows, limits or {})
        draw_leads(panels[1], rows, leads)
        for axes, name in zip(panels, ("accuracy", "EgoDistill minus this method"), strict=True):
            axes.set_title(name, pad=36 if limits else 6)  # the names of the limits are below it
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        if clips:
            draw_clips(parts[1], clips, methods, f"{about}, and what each model says")


def draw_clips(part: Any, clips: Sequence[ShownClip], methods: Sequence[str], heading: str) -> None:
    """Draw clips side by side in a part of a figure, with the answers of methods, if any."""
    canvas.heading(part, heading)
    ratios = (4, 1, 3) if methods else (4, 1)
    columns = part.subplots(len(ratios), len(clips), squeeze=False, height_ratios=ratios).T
    for number, (clip, (picture, strip, *rest)) in enumerate(zip(clips, columns, strict=True)):
        draw_clip(picture, strip, clip)
        for answers in rest:
            draw_answers(answers, clip, methods)
            answers.set_yticks(range(len(methods)), methods if number == 0 else [""] * len(methods))


def draw_accuracies(axes: Axes, rows: Sequence[Row], limits: Mapping[str, float]) -> None:
    """Draw the accuracy of each method, with the interval if there is one, and the best possible ones."""
    for number, (row, low, high) in enumerate(zip(rows, *error_bars(rows), strict=True)):
        draw_interval(axes, number, row.top1, (low, high), f"{row.top1:.1f}", color=STYLES[row.method]["color"])
    about = {"xycoords": ("data", "axes fraction"), "ha": "center", "fontsize": 9, "color": canvas.GREY}
    for inputs, limit in limits.items():
        axes.axvline(limit, color=canvas.GREY, lw=1, ls=":")
        axes.annotate(f"best possible from\n{inputs}", (limit, 1.02), **about)
    axes.set_yticks(range(len(rows)), [f"{row.method}\n{row.inputs}" for row in rows])
    axes.set(ylim=(-0.6, len(rows) - 0.2), xlabel="top-1 (%) on wearers who are not in the training data")


def draw_leads(axes: Axes, rows: Sequence[Row], leads: Sequence[Contrast]) -> None:
    """Draw how far EgoDistill leads each other method, beside the method's accuracy."""
    methods = [row.method for row in rows]
    for _, other, found in leads:
        ends = found.mean - found.low, found.high - found.mean
        draw_interval(axes, methods.index(other.method), found.mean, ends, f"{found.mean:+.1f}", color="black")
    axes.axvline(0, color=canvas.GREY, lw=1)
    axes.set_xlabel("points")


def draw_interval(axes: Axes, number: int, mean: float, ends: tuple[float, float], text: str, color: str) -> None:
    """Draw a number with its interval in a row, and the number above it."""
    bars = [[ends[0]], [ends[1]]]
    axes.errorbar(mean, number, xerr=bars, color=color, marker="o", ms=8, lw=2.2, capsize=4)
    axes.annotate(text, (mean, number), (0, 9), textcoords="offset points", ha="center", color=color)


def draw_clip(picture: Axes, strip: Axes, clip: ShownClip) -> None:
    """Draw the student's frame of a clip, and the whole clip."""
    picture.imshow(clip.frame.transpose(1, 2, 0))
    picture.set_title(f"truth: {canvas.name(clip.truth, 20)}", loc="center")
    strip.imshow(np.concatenate(np.pad(clip.strip, GAP, constant_values=255), axis=2).transpose(1, 2, 0))
    for panel in (picture, strip):
        panel.axis("off")


def draw_answers(answers: Axes, clip: ShownClip, methods: Sequence[str]) -> None:
    """Draw what each method says about a clip."""
    for number, method in enumerate(methods):
        said = clip.said[method]
        right = said == clip.truth
        text = f"{'✓' if right else '✗'} {canvas.name(said, 18)}"
        answers.text(0.5, number, text, ha="center", va="center", color=canvas.BLUE if right else canvas.ORANGE)
    answers.set(xlim=(0, 1), ylim=(len(methods) - 0.4, -0.6), xticks=[])
    answers.tick_params(length=0)
    answers.spines[:].set_visible(False)
