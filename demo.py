"""The commands of the paper's experiments: `demo`, `compare`, `ablate`, and `synthesize` for the demo's world alone.

egodistill demo                                         # the main comparison on a small rendered world
egodistill compare store --teacher NAME --out FOLDER    # every method of Figure 3
egodistill ablate store --teacher NAME --out FOLDER     # Tables 1 and 4
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import egodistill
from egodistill import EgoDistill, data, experiments, files, inference, options, runtime, synthetic, teachers
from egodistill.commands import describe_store, positive, table
from egodistill.experiments import PROTOCOLS, Protocol, TeacherRecipe
from egodistill.model_commands import GMACS, option
from egodistill.training import Training

__all__ = ["COMMANDS", "DEMO", "QUICK", "Demo"]


# ---------------------------------------------------------------------------------------------------------------
# The paper's experiments


CHANGES = ("epochs", "batch_size", "precision")  # settings that `compare` and `ablate` change in every training


def experiment_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `compare` and `ablate` share; `bench_of` reads them."""
    parser.add_argument("store", help="folder that `egodistill prepare` made, with splits train and test")
    parser.add_argument("--teacher", required=True, help="name of the extracted teacher; {seed} in it is the seed")
    parser.add_argument("--out", required=True, help="folder for weights and results; what is there is not done again")
    parser.add_argument("--seeds", type=numbers, default="0,1,2", help="of the training runs (default: %(default)s)")
    options.preset_option(parser)
    options.add_fields(parser, Training(), CHANGES)
    parser.add_argument(
        "--pretrained",
        metavar="NAME=FILE",
        nargs="+",
        action="extend",
        default=[],
        type=option,
        help="start of the image networks: students=resnet18.pth AdaFuse=resnet50.pth STTS=... ListenToLook=..., or "
        "NAME=None for random; without, torchvision downloads them (by the presets of the paper)",
    )
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time, which share the cores")
    options.device_option(parser)


def numbers(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers with commas between, such as 0,1,2")
    return list(dict.fromkeys(map(int, text.split(","))))


def bench_of(a: argparse.Namespace) -> experiments.Bench:
    """Return the bench of `compare` and `ablate`."""
    protocol = PROTOCOLS[a.preset]
    changes = {name: getattr(a, name) for name in CHANGES if hasattr(a, name)}
    if "precision" in changes:
        options.report_precision(a.precision, a.device)
        changes["precision"] = runtime.pick_precision(runtime.pick_device(a.device), a.precision)
    protocol = replace(protocol, recipe=protocol.recipe.with_training(**changes))
    for name, weights in a.pretrained:
        protocol = with_weights(protocol, name, weights)
    return experiments.Bench(a.store, a.out, protocol, device=a.device)


def with_weights(protocol: Protocol, name: str, weights: str | None) -> Protocol:
    """Return a protocol in which the image networks of a method start from a file, or from random weights."""
    if name == "students":
        student = replace(protocol.recipe.student, image_weights=weights)
        return replace(protocol, recipe=replace(protocol.recipe, student=student))
    rivals = {"AdaFuse": "adafuse", "STTS": "stts", "ListenToLook": "listen_to_look"}
    if name not in rivals:
        raise ValueError(f"--pretrained names students, AdaFuse, STTS or ListenToLook; got {name!r}")
    rival = rivals[name]
    return replace(protocol, **{rival: replace(getattr(protocol, rival), weights=weights)})


def compare_options(parser: argparse.ArgumentParser) -> None:
    experiment_options(parser)
    parser.add_argument("--num-frames", type=positive, nargs="+", help="N (those of 1, 2, 4 that the store has)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help=f"of {', '.join(experiments.METHODS)} (all)")
    parser.add_argument(
        "--teacher-file", metavar="FILE", help="the teacher itself, to know its costs (the demo's is found)"
    )


def run_compare(a: argparse.Namespace) -> None:
    store = data.ClipStore(a.store)
    counts = a.num_frames or [n for n in (1, 2, 4) if f"frames_{n}" in store.names]
    methods = a.methods or experiments.METHODS
    if "audio" not in store.names and a.methods is None:
        methods = [name for name in methods if name != "ListenToLook"]
        print("without ListenToLook: the store has no sound (prepare --audio)")
    bench = bench_of(a)
    runs = experiments.comparison(bench, teacher=a.teacher, seeds=a.seeds, num_frames=counts, methods=methods)
    bench.perform(runs, a.jobs)
    report_comparison(bench, runs, a.teacher, a.seeds, a.teacher_file)


def report_comparison(
    bench: experiments.Bench, runs: list[experiments.Run], teacher: str, seeds: list[int], checkpoint: str | None
) -> None:
    """Print the table; write compare.json, .csv, .png and .svg to the bench's folder."""
    found = [experiments.teacher_row(bench, teacher, seeds, checkpoint), *experiments.rows(bench, runs)]
    print(f"\nTop-1 (%) on the split {bench.test}" + spread(seeds))
    print(cost_table(found))
    print(f"{GMACS}\nAdaFuse's are those that its decisions would need; this code, as the released one, computes all.")
    stem, hours = Path(bench.out, "compare"), bench.hours(runs)
    print(f"Training them, and what they start from, took {60 * hours:.0f} minutes, run by run added up.")
    written = experiments.write_rows(found, stem, {"seeds": seeds, "hours": hours, **about_this_run(bench)})
    try:
        written += experiments.draw(found, stem, "Accuracy against cost" + spread(seeds))
    except ImportError:
        print('No figure: it needs matplotlib, which `pip install "egodistill[tutorials]"` brings.')
    print(f"Written: {', '.join(map(str, written))}")


def ablate_options(parser: argparse.ArgumentParser) -> None:
    experiment_options(parser)
    parser.add_argument("--num-frames", type=positive, default=4, help="N of Table 4 (default: %(default)s)")


def run_ablate(a: argparse.Namespace) -> None:
    bench, losses = bench_of(a), experiments.ablation(a.teacher, a.seeds)
    choices = experiments.frame_choices(bench, a.teacher, a.seeds, a.num_frames)
    choices = choices if len({run.sampling for run in choices}) > 1 else []
    bench.perform([*losses, *choices], a.jobs)
    found = experiments.rows(bench, losses, costs=False)
    names = ["labels and IMU only (VisIMU)", *experiments.ABLATIONS]
    print("\nTable 1: EgoDistill with N = 1, top-1 (%)" + spread(a.seeds))
    print(table(["losses", "top-1"], [[n, accuracy(one)] for n, one in zip(names, found, strict=True)]))
    if choices:
        found += (frames := experiments.rows(bench, choices, costs=False))
        print(f"\nTable 4: the choice of frames, EgoDistill with N = {a.num_frames}, top-1 (%)" + spread(a.seeds))
        print(table(["frames", "top-1"], [[one.run.sampling, accuracy(one)] for one in frames]))
    about = {"seeds": a.seeds, "hours": bench.hours([*losses, *choices]), **about_this_run(bench)}
    written = experiments.write_rows(found, Path(a.out, "ablate"), about)
    print(f"Written: {', '.join(map(str, written))}")


def about_this_run(bench: experiments.Bench) -> dict[str, Any]:
    versions = {"egodistill": egodistill.__version__, "torch": torch.__version__}
    return {"versions": versions, "threads": torch.get_num_threads(), "protocol": bench.protocol.record()}


def spread(seeds: list[int]) -> str:
    return f", mean and deviation of {len(seeds)} seeds" if len(seeds) > 1 else ""


def accuracy(one: experiments.Row) -> str:
    return f"{one.top1:.1f}" + (f" ± {one.deviation:.1f}" if one.deviation is not None else "")


def cost_table(found: list[experiments.Row]) -> str:
    """Return a table of what each model reads and costs."""
    lines = []
    for one in found:
        cells = [
            "-" if value is None else f"{value:{how}}"
            for value, how in ((one.gmacs, ".3f"), (one.params and one.params / 1e6, ".2f"), (one.ms_per_clip, ".2f"))
        ]
        without = " without stage 1" * (set(experiments.STAGE_1) <= set(one.run.lacking))
        lines.append([one.method + without, one.inputs, *cells, accuracy(one)])
    return table(["model", "inputs", "GMACs", "M parameters", "ms a clip", "top-1"], lines)


# ---------------------------------------------------------------------------------------------------------------
# The demo


@dataclass(frozen=True)
class Demo:
    """Sizes and settings of the demo.

    teachers   The first is the comparison's teacher; --teachers adds others (the paper's Table 2).
    """

    train_acts: int = 1200
    test_acts: int = 400
    world_seed: int = 0
    video_pixels: int = 96
    pixels: int = 64
    clip_frames: int = 16
    num_frames: tuple[int, ...] = (1, 2, 4)
    teachers: dict[str, TeacherRecipe] = field(default_factory=dict)
    protocol: Protocol = PROTOCOLS["demo"]

    def record(self) -> dict[str, Any]:
        """Return what two runs in one folder share."""
        teachers = {name: asdict(how) | {"training": how.training.record()} for name, how in self.teachers.items()}
        return asdict(self) | {"teachers": teachers, "protocol": self.protocol.record()}


# Sizes are chosen for two cores and ten minutes. The paper's are 224 pixels, ResNet-18, MotionFormer, 50 to 150 epochs.
TEACHING = Training(epochs=8, learning_rate=2e-3, batch_size=16, schedule="cosine", warmup_epochs=1.5)
DEMO = Demo(
    teachers={
        "slowfast": TeacherRecipe(
            "slowfast_8x8_r50",
            replace(TEACHING, precision="auto"),
            {"width": 48, "beta": 4, "depths": (1, 1, 1, 1), "stem_size": 3, "dropout": 0.0},
        ),
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
    """Return a demo of a few clips and two epochs."""
    teachers = {name: replace(how, training=replace(how.training, epochs=2)) for name, how in demo.teachers.items()}
    recipe = demo.protocol.recipe.with_training(epochs=2)
    recipe = replace(recipe, pretraining=replace(recipe.pretraining, batch_size=32))
    protocol = replace(demo.protocol, recipe=recipe)
    return replace(demo, train_acts=48, test_acts=24, teachers=teachers, protocol=protocol)


QUICK = shortened(DEMO)
TEACHER = "slowfast"


def synthesize_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--train-acts", type=int, default=800, help="annotated acts of the training wearers")
    parser.add_argument("--test-acts", type=int, default=400, help="annotated acts of the evaluation wearers")
    parser.add_argument("--label-noise", type=float, default=0.25, help="share of wrong training verbs")


def run_synthesize(a: argparse.Namespace) -> None:
    world = synthetic.render(
        a.out, seed=a.seed, train_acts=a.train_acts, test_acts=a.test_acts, label_noise=a.label_noise
    )
    print(
        f"{world.root}: annotations in {world.annotations}\n"
        f"  egodistill prepare {world.annotations} --root {world.root} --out STORE"
    )


def demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="egodistill-demo", help="folder for everything")
    parser.add_argument("--seeds", type=numbers, default="0", help="of the training runs, such as 0,1,2")
    parser.add_argument("--world-seed", type=int, default=0, help="of the world; choose settings on another than 0")
    parser.add_argument(
        "--teachers", default=TEACHER, help="all: also distil a small X3D, MViT and MotionFormer (Table 2), hours"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of about a minute; its accuracies mean nothing"
    )
    text = "start of the image encoders: none (random), imagenet, or a file (default: none)"
    parser.add_argument("--image-weights", type=options.text_or_none, help=text)
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time, which share the cores")


def run_demo(a: argparse.Namespace) -> None:
    out, began = Path(a.out), time.monotonic()
    demo = replace(QUICK if a.quick else DEMO, world_seed=a.world_seed)
    demo = replace(demo, protocol=with_weights(demo.protocol, "students", a.image_weights))
    kinds = list(demo.teachers) if a.teachers == "all" else a.teachers.split(",")
    if kinds[0] != TEACHER or set(kinds) - set(demo.teachers) or len(set(kinds)) < len(kinds):
        raise ValueError(f"--teachers is all, or a part of {','.join(demo.teachers)} that begins with {TEACHER}")
    demo = with_precision(demo, out / DEMO_NOTE)
    claim(out, demo.record())
    options.report_precision("auto")
    precision = {name: demo.teachers[name].training.precision for name in kinds}
    for name in kinds:
        print(f"The teacher {name} trains in {precision[name]}.")
    for part in out.rglob(".*.part*"):  # What a killed run left half written.
        part.unlink(missing_ok=True)
    print(f"Everything goes to {out}/. Interrupt at will: the same command goes on where it stopped.\n")

    make_store(demo, out)
    print(
        "\n3. Train a teacher, let it watch every clip, pretrain the IMU encoder (stage 1), distil (stage 2), evaluate"
    )
    named = {kind: kind + "-{seed}" for kind in kinds}
    recipes = {name: demo.teachers[kind] for kind, name in named.items()}
    bench = experiments.Bench(str(out / "store"), str(out), demo.protocol, teachers=recipes)
    comparison = [demo_runs(name, a.seeds, alone=kind == TEACHER) for kind, name in named.items()]
    bench.perform([run for runs in comparison for run in runs], a.jobs)

    found = [experiments.rows(bench, runs) for runs in comparison]
    report_demo(dict(zip(kinds, found, strict=True)), a.seeds)
    if a.quick:
        print("This was a quick run: its accuracies mean nothing.")
    about = {"seeds": a.seeds, "quick": a.quick, "ceilings": synthetic.ceilings(), **about_this_run(bench)}
    about["precision"] = {named[kind]: precision[kind] for kind in kinds}
    written = experiments.write_rows([one for rows in found for one in rows], out / "results", about)
    print(f"\n{written[0]} holds these numbers. This run took {(time.monotonic() - began) / 60:.1f} minutes.")
    if not a.quick:
        print(
            f"Next, all methods with 1, 2 and 4 frames (Figure 3), about an hour:\n"
            f"  egodistill compare {out / 'store'} --teacher {named[TEACHER]} --out {out} --preset demo"
        )


def make_store(demo: Demo, out: Path) -> None:
    """Render the demo's world, and decode it into a store."""
    print("1. Render a world: wearers, head motion, kitchen things (the files are laid out as EPIC-KITCHENS is)")
    world = synthetic.render(
        out / "world",
        seed=demo.world_seed,
        train_acts=demo.train_acts,
        test_acts=demo.test_acts,
        size=(demo.video_pixels,) * 2,
    )
    print("2. Prepare: decode every clip once into a clip store")
    segments = data.read_epic_kitchens(world.annotations, world.root)
    store = data.prepare(
        segments,
        out / "store",
        num_frames=demo.num_frames,
        frame_size=demo.pixels,
        audio=True,
        clip_frames=demo.clip_frames,
        clip_size=demo.pixels,
    )
    describe_store(store, segments)


def report_demo(found: dict[str, list[experiments.Row]], seeds: list[int]) -> None:
    """Print the demo's table, and that of other teachers if there are any."""
    print("\nTop-1 (%) on wearers never seen in training" + spread(seeds))
    print(cost_table(found[TEACHER]))
    report_limits(found[TEACHER])
    if len(found) > 1:
        print("\nOther teachers (the paper's Table 2), top-1 (%)" + spread(seeds))
        print(teachers_table(found))


def demo_runs(teacher: str, seeds: list[int], alone: bool) -> list[experiments.Run]:
    """Return a teacher and the students of the demo's table; if not `alone`, only those that are distilled from it."""
    run = experiments.Run("EgoDistill", teacher=teacher)
    runs = [replace(run, method="teacher"), run, replace(run, method="VisOnly-Distill")]
    if alone:
        runs.insert(2, replace(run, lacking=experiments.STAGE_1))
        runs += [experiments.Run("VisIMU"), experiments.Run("VisOnly")]
    return [replace(run, seed=seed) for seed in seeds for run in runs]


DEMO_NOTE = "demo.json"


def with_precision(demo: Demo, note: Path) -> Demo:
    """Replace each teacher's "auto" by the precision that it began with in this folder, else by this machine's."""
    begun = files.read_json(note).get("teachers", {}) if note.exists() else {}
    chosen = {}
    for name, how in demo.teachers.items():
        training = how.training
        if training.precision == "auto" and name in begun:
            training = replace(training, precision=begun[name]["training"]["precision"])
        chosen[name] = replace(how, training=training.resolve())
    return replace(demo, teachers=chosen)


def claim(out: Path, about: dict[str, Any]) -> None:
    """Refuse a folder that holds a demo of other settings, or something else."""
    note = out / DEMO_NOTE
    if note.exists():
        files.require_same_run(note, files.read_json(note), about, "Give another --out, or delete the folder.")
        return
    # A run killed while it wrote its note leaves a part of it.
    if out.exists() and any(map(is_foreign, out.iterdir())):
        raise ValueError(f"{out} exists and holds no demo; give --out a new folder")
    files.write_json(note, about)


def is_foreign(file: Path) -> bool:
    """Return whether a file is neither a part of a demo's note nor a desktop's. A demo removes ".*.part*" from its
    folder, so other names that begin with a dot are foreign, too."""
    return not file.name.startswith(".demo.json.") and not files.is_system_file(file.name)


def teachers_table(found: dict[str, list[experiments.Row]]) -> str:
    lines = []
    for kind, rows in found.items():
        by_method = {one.method: one for one in rows if not one.run.lacking}
        teacher = by_method["teacher"]
        cells = [accuracy(by_method[name]) for name in ("teacher", "VisOnly-Distill", "EgoDistill")]
        lines.append([kind, f"{teacher.gmacs:.3f}", f"{teacher.params / 1e6:.2f}", *cells])
    return table(["teacher", "GMACs", "M parameters", "teacher's", "VisOnly-Distill", "EgoDistill"], lines)


def report_limits(found: list[experiments.Row]) -> None:
    """Print what can be reached on the rendered world, and what the same comparison costs at the paper's size."""
    limits = synthetic.ceilings()
    print(
        f"Nobody can do better here than {100 * limits['frame']:.0f} from one frame and "
        f"{100 * limits['frame + imu']:.1f} from one frame and head motion.\n{GMACS}"
    )
    gmacs = {one.method: one.gmacs for one in found}
    with torch.device("meta"):  # Counting needs shapes, no numbers.
        paper = {
            "SlowFast 8x8 R50 (34.6 M parameters)": teachers.load("slowfast_8x8_r50", progress=False),
            "EgoDistill, ResNet-18, one frame (20.6 M parameters)": EgoDistill(62, image_weights=None),
        }
    print(
        f"Here the student needs {gmacs['teacher'] / gmacs['EgoDistill']:.0f} times fewer multiply-adds than its "
        "teacher. At the paper's size (224 pixels):"
    )
    for name, model in paper.items():
        print(f"  {name}: {inference.count_macs(model, torch.device('meta')) / 1e9:.2f} GMACs")
    print("  MotionFormer, as the paper counts it: 369.51 GMACs, 198 times the student's.")


COMMANDS: dict[str, tuple[Callable, Callable]] = {
    "compare": (compare_options, run_compare),
    "ablate": (ablate_options, run_ablate),
    "demo": (demo_options, run_demo),
    "synthesize": (synthesize_options, run_synthesize),
}
