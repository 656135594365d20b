"""The commands of the lab: `demo` with a bench, `compare`, `ablate`, `table3`.

`Demo` adds to the demo of the library what a bench needs: teachers (Table 2) and a protocol.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from egodistill import data
from egodistill.commands import demo, models
from egodistill.commands.demo import SLOWFAST, TEACHING, check_output_folder
from egodistill.commands.loading import chosen_teacher
from egodistill.commands.recordings import describe_store
from egodistill.commands.settings import flag, text_or_none
from egodistill.datasets.segments import Segment
from egodistill.drawing import canvas
from egodistill.engine.published import GMACS_NOTE
from egodistill.support import files, tables
from egodistill.support.custom import resolve
from egodistill.support.errors import EgoDistillError
from egodistill.support.tables import Table
from egodistill.support.version import __version__
from egodistill.world import behaviour, synthetic
from lab import audio, baselines, benches, costs, figures, paper
from lab.options import CHANGES, DEMO_TEACHER
from lab.protocols import PROTOCOLS, Method, Protocol, TeacherRecipe

__all__ = ["DEMO", "QUICK", "Demo"]

Ceilings = dict[tuple[str, int], float]  # as in `figures.draw()`


# ---------------------------------------------------------------------------------------------------------------
# The paper's experiments


def build_bench(a: argparse.Namespace) -> benches.Bench:
    """Return the bench of `compare` and `ablate`."""
    protocol = PROTOCOLS[a.preset]
    changes = {name: getattr(a, name) for name in CHANGES if hasattr(a, name)}
    protocol = replace(protocol, recipe=protocol.recipe.with_training(**changes))
    for name, weights in a.pretrained:
        protocol = with_weights(protocol, name, text_or_none(weights) if isinstance(weights, str) else weights)
    return benches.Bench(a.store, a.out, protocol, device=a.device)


def with_weights(protocol: Protocol, name: str, weights: str | None) -> Protocol:
    """Return a protocol in which the image networks of a method start from a file, or from random weights."""
    if name == "students":
        student = replace(protocol.recipe.student, image_weights=weights)
        return replace(protocol, recipe=replace(protocol.recipe, student=student))
    fields = {"AdaFuse": "adafuse", "STTS": "stts", "ListenToLook": "listen_to_look"}
    if name not in fields:
        raise ValueError(f"--pretrained is for students, AdaFuse, STTS or ListenToLook; got {name!r}")
    field = fields[name]
    return replace(protocol, **{field: replace(getattr(protocol, field), weights=weights)})


def run_compare(a: argparse.Namespace) -> None:
    store = data.ClipStore(a.store)
    a.teacher = chosen_teacher(a, store)
    counts = a.num_frames or [n for n in (1, 2, 4) if f"frames_{n}" in store.names]
    if not counts:
        raise ValueError(f"{a.store}: has no sets of 1, 2 or 4 frames; give --num-frames")
    own = [custom_method(name) for name in a.methods or () if ":" in name]
    bench = replace(build_bench(a), methods=own)
    methods = [name for name in a.methods or () if ":" not in name] + [one.name for one in own]
    methods = methods or fitting_methods(bench, store, max(counts))
    runs = paper.comparison(bench, teacher=a.teacher, seeds=a.seeds, num_frames=counts, methods=methods)
    bench.run(runs, a.jobs)
    report_comparison(a, bench, runs)
    words = ["ablate", a.store, "--teacher", a.teacher, "--out", a.out, *protocol_words(a)]
    print(f"Next:\n  python -m lab {shlex.join(words)}")


def custom_method(name: str) -> Method:
    """Return the method that --methods names by its file. Raise ValueError for anything else."""
    found = resolve(name)
    if not isinstance(found, Method):
        raise ValueError(
            f"{name}: is a {type(found).__name__}, not a method; write there NAME = "
            f'lab.protocols.Method("...", the class or function that builds the student)'
        )
    return found


def protocol_words(a: argparse.Namespace) -> list[str]:
    """Return the options with which another command continues in the folder of `compare`."""
    changes = [word for name in CHANGES if hasattr(a, name) for word in (flag(name), str(getattr(a, name)))]
    weights = ["--pretrained", *(f"{name}={file}" for name, file in a.pretrained)] if a.pretrained else []
    preset = [] if a.preset == "epic" else ["--preset", a.preset]
    return ["--seeds", ",".join(map(str, a.seeds)), *preset, *changes, *weights]


def fitting_methods(bench: benches.Bench, store: data.ClipStore, frames: int) -> list[str]:
    """Return the methods that a store with this number of frames is enough for; print why others are left out."""
    lacking = {}
    if "audio" not in store.names or not store.done("audio").all():
        lacking["ListenToLook"] = "clips of the store have no sound (run `python -m lab sound STORE`)"
    for name in benches.STTS_METHODS:
        try:
            paper.kept_tokens(bench, name, frames)
        except baselines.BaselineError as error:
            lacking[name] = str(error).removeprefix("STTS: ")
    for name, why in lacking.items():
        print(f"{name} is left out: {why}")
    return [name for name in benches.METHODS if name not in lacking]


def report_comparison(a: argparse.Namespace, bench: benches.Bench, runs: list[benches.Run]) -> None:
    """Print the table; write compare.json, .csv, .png and .svg to the bench's folder."""
    rows = [paper.teacher_row(bench, a.teacher, a.seeds, a.teacher_file), *paper.rows(bench, runs)]
    print(f"\nTop-1 accuracy (%) on the split {bench.test}" + seeds_note(a.seeds))
    tables.report(cost_table(rows), "compare", a.markdown, a.words)
    print(f"{GMACS_NOTE}\nFor AdaFuse: what its decisions need; this code, like the released one, computes everything.")
    print("The teacher is evaluated by its outputs in the store, which may be of another precision than its own test.")
    found = report_differences(a, bench, runs, "compare differences")
    stem, hours = Path(bench.out, "compare"), bench.hours(runs)
    print(f"Training time, summed over runs: {60 * hours:.0f} minutes.")
    written = paper.write_rows(rows, stem, {"seeds": a.seeds, "hours": hours, **run_settings(bench)}, found)
    bars = ", 95 % intervals" if any(row.interval for row in rows) else seeds_note(a.seeds)
    written += draw_figure(rows, stem, "Accuracy against cost" + bars)
    print(f"Wrote {', '.join(map(str, written))}")


def draw_figure(rows: list[paper.Row], stem: Path, title: str, ceilings: Ceilings | None = None) -> list[Path]:
    """Draw accuracy against cost, and return the files; print why there are none without matplotlib."""
    try:
        return figures.draw(rows, stem, title, ceilings)
    except ImportError:
        print(f"No figure, because matplotlib is not installed: {canvas.EXTRA}")
        return []


def report_differences(
    a: argparse.Namespace, bench: benches.Bench, runs: list[benches.Run], section: str
) -> list[paper.Contrast]:
    """Print the paired differences of EgoDistill and the other methods, or why there are none; return them."""
    try:
        found = paper.leads(bench, runs)
    except EgoDistillError as error:
        print(f"\nNo intervals of the differences between methods: {error}")
        return []
    for name in dict.fromkeys(one.first.method for one in found):
        print(f"\n{name} minus each other method in points, 95 % intervals over {scope(found)}")
        lines = []
        for _, other, interval in (one for one in found if one.first.method == name):
            ends = f"{interval.low:+.1f} to {interval.high:+.1f}"
            lines.append([method_name(other), str(other.frames), f"{interval.mean:+.1f}", ends])
        table = Table(["other method", "frames", "difference", "95 % interval"], lines)
        about = section if name == "EgoDistill" else f"{section} of {name}"
        tables.report(table, about, a.markdown, a.words)
    return found


def scope(found: list[paper.Contrast]) -> str:
    """Return what the intervals are over, such as "3 seeds and 20 wearers"."""
    seeds, wearers = found[0].interval.seeds, found[0].interval.wearers
    if seeds == 1:
        return f"{wearers} wearers\n(one seed: they say nothing about other seeds)"
    if wearers == 1:
        return f"{seeds} seeds\n(one wearer: they say nothing about other people)"
    return f"{seeds} seeds and {wearers} wearers"


def method_name(run: benches.Run) -> str:
    return run.method + " without stage 1" * (set(benches.STAGE_1_LOSSES) <= set(run.without))


def run_ablate(a: argparse.Namespace) -> None:
    a.teacher = chosen_teacher(a, data.ClipStore(a.store))
    bench, losses = build_bench(a), paper.ablation(a.teacher, a.seeds)
    choices = paper.frame_choices(bench, a.teacher, a.seeds, a.num_frames)
    choices = choices if len({run.sampling for run in choices}) > 1 else []
    bench.run([*losses, *choices], a.jobs)
    rows = paper.rows(bench, losses, costs=False)
    names = ["labels and IMU only (VisIMU)", *paper.ABLATIONS]
    print("\nTable 1: losses, EgoDistill with N = 1" + seeds_note(a.seeds))
    table = Table(["losses", "top-1 (%)"], [[name, accuracy_cell(row)] for name, row in zip(names, rows, strict=True)])
    tables.report(table, "ablate", a.markdown, a.words)
    if choices:
        frames = paper.rows(bench, choices, costs=False)
        rows += frames
        print(f"\nTable 4: choice of frames, EgoDistill with N = {a.num_frames}" + seeds_note(a.seeds))
        table = Table(["frames", "top-1 (%)"], [[row.run.sampling, accuracy_cell(row)] for row in frames])
        tables.report(table, "ablate frames", a.markdown, a.words)
    else:
        print(
            f"\nTable 4 is left out: {a.store} has no second choice of {a.num_frames} frames; `egodistill prepare` "
            f"stores several with --num-frames {a.num_frames} --sampling uniform first last"
        )
    about = {"seeds": a.seeds, "hours": bench.hours([*losses, *choices]), **run_settings(bench)}
    print(f"Wrote {', '.join(map(str, paper.write_rows(rows, Path(a.out, 'ablate'), about)))}")


def run_settings(bench: benches.Bench) -> dict[str, Any]:
    """Return what the results depend on, for the JSON file."""
    versions = {"egodistill": __version__, "torch": torch.__version__}
    return {"versions": versions, "threads": torch.get_num_threads(), "protocol": bench.protocol.record()}


def seeds_note(seeds: list[int]) -> str:
    return f", mean and standard deviation of {len(seeds)} seeds" if len(seeds) > 1 else ""


def accuracy_cell(row: paper.Row) -> str:
    return f"{row.top1:.1f}" + (f" ± {row.std:.1f}" if row.std is not None else "")


def cost_table(rows: list[paper.Row]) -> Table:
    """Return a table of inputs, cost and accuracy of each model."""
    lines = []
    for row in rows:
        gmacs = "-" if row.gmacs is None else f"{row.gmacs:.3f}"
        parameters = "-" if row.params is None else f"{row.params / 1e6:.2f} M"
        time_per_clip = "-" if row.ms_per_clip is None else f"{row.ms_per_clip:.2f}"
        lines.append(
            [
                method_name(row.run),
                row.inputs,
                gmacs,
                parameters,
                time_per_clip,
                row.precision or "-",
                accuracy_cell(row),
            ]
        )
    return Table(["model", "inputs", "GMACs", "parameters", "ms per clip", "trained in", "top-1 (%)"], lines)


# ---------------------------------------------------------------------------------------------------------------
# The demo


@dataclass(frozen=True)
class Demo(demo.Demo):
    """Sizes and settings of the demo."""

    num_frames: tuple[int, ...] = (1, 2, 4)  # per clip for students
    teachers: dict[str, TeacherRecipe] = field(default_factory=dict)  # those of --teachers; the first is compared
    protocol: Protocol = PROTOCOLS["demo"]

    def record(self) -> dict[str, Any]:
        """Return the settings that must be equal for a run to continue in the same folder."""
        recipes = {name: recipe.record() for name, recipe in self.teachers.items()}
        return super().record() | {"teachers": recipes, "protocol": self.protocol.record()}

    def with_training(self, **changes: Any) -> Demo:
        """Return the demo with these fields of `Training` changed in all trainings."""
        recipes = {
            name: replace(recipe, training=replace(recipe.training, **changes))
            for name, recipe in self.teachers.items()
        }
        protocol = replace(self.protocol, recipe=self.protocol.recipe.with_training(**changes))
        return replace(self, teachers=recipes, protocol=protocol)


DEMO = Demo(
    teachers={
        "slowfast": TeacherRecipe("slowfast_8x8_r50", demo.DEMO.teaching, SLOWFAST),
        "x3d": TeacherRecipe(
            "x3d_m",
            replace(TEACHING, epochs=9, learning_rate=5e-3),
            {"width": 12, "depth_factor": 0.5, "bottleneck": 1.5, "feature_dim": 512, "pool": 2, "dropout": 0.0},
        ),
        "mvit": TeacherRecipe(
            "mvit_b_16x4",
            replace(TEACHING, epochs=12),
            {"width": 16, "depths": (1, 1, 1, 1), "kv_stride": 8, "dropout": 0.0, "drop_path": 0.0},
            narrow=True,
        ),
        "motionformer": TeacherRecipe(
            "motionformer_16x4",
            replace(TEACHING, epochs=10, learning_rate=1e-3, weight_decay=0.1),
            {"width": 96, "depth": 2, "heads": 4, "patch": 16, "drop_path": 0.1},
            narrow=True,
        ),
    },
)


def shortened(demo: Demo) -> Demo:
    """Return a demo with a few clips and two epochs."""
    demo = replace(demo.with_training(epochs=2), train_acts=48, test_acts=24, test_wearers=3)
    recipe = demo.protocol.recipe
    recipe = replace(recipe, pretraining=replace(recipe.pretraining, batch_size=32))
    return replace(demo, protocol=replace(demo.protocol, recipe=recipe))


QUICK = shortened(DEMO)
QUICK_NOTE = "Nothing can be learnt from so few clips in two epochs, so no accuracies are shown."


def run_demo(a: argparse.Namespace) -> None:
    out, start_time = Path(a.out), time.monotonic()
    demo = replace(QUICK if a.quick else DEMO, world_seed=a.world_seed)
    if hasattr(a, "precision"):
        demo = demo.with_training(precision=a.precision)
    demo = replace(demo, protocol=with_weights(demo.protocol, "students", a.image_weights))
    kinds = list(demo.teachers) if a.teachers == "all" else a.teachers.split(",")
    if kinds[0] != DEMO_TEACHER or set(kinds) - set(demo.teachers) or len(set(kinds)) < len(kinds):
        raise ValueError(
            f"--teachers must be all, or a list from {', '.join(demo.teachers)} that begins with {DEMO_TEACHER}; got "
            f"{a.teachers}"
        )
    check_output_folder(out, demo.record())
    for part in out.rglob(".*.part"):  # incomplete files of a killed run
        files.remove_stale_part(part)
    print(f"All files are written to {out}/. If you interrupt the demo, the same command continues it.\n")

    segments = make_store(demo, out)
    print("\n3. Train a teacher, extract its outputs, pretrain the IMU encoder (stage 1), distill (stage 2), evaluate")
    print("   `start` is an image encoder trained on the labels, where others take weights of ImageNet")
    named = {kind: kind + "-{seed}" for kind in kinds}
    recipes = {name: demo.teachers[kind] for kind, name in named.items()}
    bench = benches.Bench(str(out / "store"), str(out), demo.protocol, teachers=recipes, shows_accuracy=not a.quick)
    runs = {kind: demo_runs(name, a.seeds, distilled_only=kind != DEMO_TEACHER) for kind, name in named.items()}
    bench.run([run for some in runs.values() for run in some], a.jobs)

    rows = {kind: paper.rows(bench, some) for kind, some in runs.items()}
    found: list[paper.Contrast] = []
    if a.quick:
        report_quick(a, bench, rows, len(bench.with_dependencies(run for some in runs.values() for run in some)))
    else:
        report_demo(a, rows, demo.things)
        found = report_differences(a, bench, runs[DEMO_TEACHER], "demo differences")
    about = {"seeds": a.seeds, "quick": a.quick, "bounds": behaviour.bounds(things=demo.things), **run_settings(bench)}
    written = paper.write_rows([row for some in rows.values() for row in some], out / "results", about, found)
    minutes = (time.monotonic() - start_time) / 60
    drawn = draw_demo(rows[DEMO_TEACHER], found, demo.things, out / "results") if a.plot and not a.quick else []
    names = ", ".join(map(str, [written[0], *drawn]))
    print(f"\nWrote {names} and the models in {out}/seed-*/. This run took {minutes:.1f} minutes.")
    student, segment = runs[DEMO_TEACHER][1], next(s for s in segments if s.split == bench.test)
    predict = ["predict", segment.video, "--imu", *segment.imu, "--student", str(bench.path(student))]
    predict += ["--html", str(out / "predict.html")]
    print("Next:\n  label a recording of a test wearer with the student just made, and see it in a browser:")
    print(f"    egodistill {shlex.join(predict)}")
    if not a.quick:
        print("  compare all methods with 1, 2 and 4 frames (Figure 3), in about as long again:")
        print(f"    python -m lab {shlex.join(compare_words(bench, student.teacher, a.seeds))}")
    print("  the same steps in Python, one by one, in a checkout:\n    jupyter lab tutorials")


def compare_words(bench: benches.Bench, teacher: str, seeds: Sequence[int]) -> list[str]:
    """Return the command that continues a demo with all methods."""
    words = ["compare", bench.store, "--teacher", teacher, "--seeds", ",".join(map(str, seeds))]
    return [*words, "--out", bench.out, "--preset", "demo"]


def draw_demo(rows: list[paper.Row], found: list[paper.Contrast], things: Sequence[str], stem: Path) -> list[Path]:
    """Draw the demo's result with the best possible accuracies, and return the files."""
    limits = behaviour.bounds(things=things)
    told = {"1 frame": "one frame", "1 frame + IMU": "one frame and head motion"}
    ceilings = {(row.method, row.frames): 100 * limits[told[row.inputs]] for row in rows if row.inputs in told}
    about = [f"Accuracy against cost{f', 95 % intervals over {scope(found)}' if found else ''}"]
    for first, second, lead in found:
        ends = f"{lead.low:+.1f} to {lead.high:+.1f}"
        about.append(f"{first.method} minus {second.method}: {lead.mean:+.1f} points ({ends})")
    return draw_figure(rows, stem, "\n".join(about), ceilings)


def make_store(demo: Demo, out: Path) -> list[Segment]:
    """Render the demo's world, decode it into a store, and return its segments."""
    print("1. Render a world with video, head motion and sound, in the layout of EPIC-KITCHENS")
    world = synthetic.render(
        out / "world",
        seed=demo.world_seed,
        train_acts=demo.train_acts,
        test_acts=demo.test_acts,
        test_wearers=demo.test_wearers,
        things=demo.things,
        size=(demo.video_pixels,) * 2,
    )
    print("2. Decode each clip once, into a clip store")
    segments = data.read_epic_kitchens(world.annotations, world.root, evaluation_wearers=world.test_wearers)
    store = data.prepare(
        segments,
        out / "store",
        num_frames=demo.num_frames,
        frame_size=demo.pixels,
        clip_frames=demo.clip_frames,
        clip_size=demo.pixels,
    )
    audio.add_sound(store)
    describe_store(store, segments)
    return segments


def report_demo(a: argparse.Namespace, rows: dict[str, list[paper.Row]], things: Sequence[str]) -> None:
    """Print the demo's table, and one of the other teachers if there are any."""
    print("\nTop-1 accuracy (%) on wearers who are not in the training data" + seeds_note(a.seeds))
    tables.report(cost_table(rows[DEMO_TEACHER]), "demo", a.markdown, a.words)
    demo.report_limits(things)
    report_ratio(rows[DEMO_TEACHER])
    if len(rows) > 1:
        print("\nOther teachers (Table 2 of the paper), top-1 accuracy (%)" + seeds_note(a.seeds))
        tables.report(teachers_table(rows), "demo with all teachers", a.markdown, a.words)


def report_quick(a: argparse.Namespace, bench: benches.Bench, rows: dict[str, list[paper.Row]], networks: int) -> None:
    """Print what a quick run shows: costs, and that each step ran."""
    table = cost_table([row for some in rows.values() for row in some])
    print("\nCosts")
    tables.report(Table(table.header[:-1], [line[:-1] for line in table.rows]), "demo quick", a.markdown, a.words)
    report_ratio(rows[DEMO_TEACHER])
    store = data.ClipStore(bench.store)
    clips = " and ".join(f"{len(store.split(split))} {split}" for split in (bench.train, bench.test))
    print(f"\nEvery step ran: {clips} clips decoded, {networks} networks trained and evaluated.\n{QUICK_NOTE}")


def demo_runs(teacher: str, seeds: list[int], distilled_only: bool) -> list[benches.Run]:
    """Return the runs of the demo's table, or only a teacher and the students that are distilled from it."""
    run = benches.Run("EgoDistill", teacher=teacher)
    runs = [replace(run, method="teacher"), run, replace(run, method="VisOnly-Distill")]
    if not distilled_only:
        runs += [benches.Run("VisIMU"), benches.Run("VisOnly")]
    return [replace(run, seed=seed) for seed in seeds for run in runs]


def teachers_table(rows: dict[str, list[paper.Row]]) -> Table:
    lines = []
    for kind, some in rows.items():
        by_method = {row.method: row for row in some if not row.run.without}
        teacher = by_method["teacher"]
        cells = [accuracy_cell(by_method[name]) for name in ("teacher", "VisOnly-Distill", "EgoDistill")]
        lines.append([kind, f"{teacher.gmacs:.3f}", f"{teacher.params / 1e6:.2f} M", *cells])
    return Table(["teacher", "GMACs", "parameters", "teacher's top-1", "VisOnly-Distill", "EgoDistill"], lines)


def report_ratio(rows: list[paper.Row]) -> None:
    gmacs = {row.method: row.gmacs for row in rows}
    demo.report_ratio(gmacs["teacher"], gmacs["EgoDistill"])


def run_table3(a: argparse.Namespace) -> None:
    found = {name: costs.TABLE_3[name][1]() for name in a.rows or costs.TABLE_3}
    measured = models.measure_all(a, found)
    notes = [*costs.TABLE_3_LEGEND, *costs.table_3_notes(found, measured)]
    published = {name: costs.TABLE_3[name][0]._asdict() for name in found}
    models.report_costs(a, measured, costs.table_3(measured), "measure", notes, published)
