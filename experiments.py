"""The paper's experiments as one command each: students and rivals under one protocol, over seeds.

    from egodistill import experiments

    bench = experiments.Bench("store", "out", experiments.PROTOCOLS["epic"])  # a clip store with a teacher's outputs
    runs = experiments.comparison(bench, teacher="motionformer", seeds=(0, 1, 2))
    bench.perform(runs, jobs=2)                                        # trains and evaluates what is not done yet
    for row in experiments.rows(bench, runs):                          # means over the seeds, and what each costs
        print(row.method, row.frames, row.top1, row.gmacs)
    experiments.draw(experiments.rows(bench, runs), "out/compare")     # accuracy against cost: the paper's Figure 3

`comparison()` is Figure 3, `ablation()` Table 1, `frame_choices()` Table 4. Table 2 is a comparison with other
teachers, which a bench can train itself (`teachers`, as `egodistill demo` does). A run is a file of weights and a
JSON of its accuracy in `out/seed-N/`: what is there is not done again, and a run that was killed goes on where it was.

The protocol. Every method sees the same clips, is trained by the same loop and judged by `evaluate()`. In the paper all
image networks start from ImageNet's weights. A protocol without such weights puts a stand-in in their place: an image
encoder trained on the store's labels ("start", one a seed), from which all students begin, and ListenToLook where its
image network is the same one. AdaFuse's and STTS's are of another kind and cannot begin from it, so they train for
twice the epochs: every image network has then seen every clip as often.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import multiprocessing
import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from egodistill import (
    DataError,
    EgoDistill,
    EgoDistillError,
    baselines,
    batches,
    checkpoints,
    clips,
    data,
    distillation,
    files,
    inference,
    teachers,
    video,
)
from egodistill.distillation import DistillationSettings, PretrainingSettings, Recipe
from egodistill.student import Output
from egodistill.training import Training

__all__ = [
    "PROTOCOLS",
    "TABLE_3",
    "AdaFuseSettings",
    "Bench",
    "ListenToLookSettings",
    "Protocol",
    "Row",
    "Run",
    "STTSSettings",
    "TeacherRecipe",
    "ablation",
    "comparison",
    "draw",
    "frame_choices",
    "rows",
    "write_rows",
]

STUDENTS = ("VisOnly", "VisOnly-Distill", "VisIMU", "EgoDistill")
STTS = tuple(f"STTS {variant}" for variant in baselines.STTS_VARIANTS)
RIVALS = ("ListenToLook", "AdaFuse", *STTS)
METHODS = (*STUDENTS, *RIVALS)
DISTILLED = ("VisOnly-Distill", "EgoDistill", "ListenToLook")
STAGE_1 = ("nce", "pretrain_l1")  # the losses of stage 1, as `Run.lacking` names them


@dataclass(frozen=True)
class AdaFuseSettings:
    """What AdaFuse is made of: arguments of `baselines.AdaFuse`."""

    weights: str | None = "imagenet"
    width: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 3)
    policy_hidden: int | None = None
    dropout: float = 0.5


@dataclass(frozen=True)
class STTSSettings:
    """What STTS is made of: arguments of `baselines.STTS`."""

    weights: str | None = "kinetics"
    width: int = 96
    depths: tuple[int, ...] = (1, 2, 11, 2)
    dropout: float = 0.5
    drop_path: float = 0.2
    samples: int = 500


@dataclass(frozen=True)
class ListenToLookSettings:
    """What ListenToLook is made of: arguments of `baselines.ListenToLook`."""

    weights: str | None = "imagenet"
    width: int = 64
    depths: tuple[int, ...] = (2, 2, 2, 2)
    hidden: int = 1024

    @property
    def image_encoder(self) -> str | None:
        """Return the name of a student's image encoder that is the same network, if there is one."""
        if self.depths == (1, 1, 1, 1):
            return f"resnet10x{self.width}"
        return "resnet18" if (self.width, self.depths) == (64, (2, 2, 2, 2)) else None


@dataclass(frozen=True)
class Protocol:
    """How all methods of a comparison are built and trained: the students' recipe, and what rivals need beyond it.

    narrow   STTS is too narrow for its published first weights, see `strong_start`.
    """

    recipe: Recipe = distillation.EPIC_KITCHENS
    adafuse: AdaFuseSettings = AdaFuseSettings()
    stts: STTSSettings = STTSSettings()
    listen_to_look: ListenToLookSettings = ListenToLookSettings()
    narrow: bool = False

    def record(self) -> dict[str, Any]:
        """Return what two runs under one protocol share."""
        return asdict(self) | {"recipe": self.recipe.record()}


PROTOCOLS = {
    "epic": Protocol(),
    "ego4d": Protocol(distillation.EGO4D),
    "demo": Protocol(
        distillation.SYNTHETIC,
        AdaFuseSettings(None, width=16, depths=(1, 1, 1, 1), policy_hidden=64, dropout=0.0),
        STTSSettings(None, width=32, depths=(1, 1, 2, 1), dropout=0.0, drop_path=0.0, samples=100),
        ListenToLookSettings(None, width=16, depths=(1, 1, 1, 1)),  # its image network is the students'
        narrow=True,
    ),
}


@dataclass(frozen=True)
class TeacherRecipe:
    """What a teacher is made of and how it is trained on labels.

    architecture   One of `teachers.MODELS`.
    options        Of the network, as `teachers.load()` takes them.
    narrow         A transformer too narrow for its published first weights, see `strong_start`.
    """

    architecture: str
    training: Training = Training()
    options: Mapping[str, Any] = field(default_factory=dict)
    narrow: bool = False


@dataclass(frozen=True)
class Run:
    """One network trained with one seed.

    method     A student or a rival by the paper's name; or what these need: "teacher", "start", "stage 1".
    teacher    Name of its outputs in the store; "{seed}" in it stands for the seed.
    lacking    Losses left out: of stage 2 "kd", "l1", "gt", of stage 1 "nce", "pretrain_l1" (both: no stage 1).
    sampling   Which frames of a clip it sees, one of `video.SAMPLING`.
    """

    method: str
    seed: int = 0
    frames: int = 1
    teacher: str | None = None
    lacking: tuple[str, ...] = ()
    sampling: str = "uniform"

    @property
    def outputs(self) -> str:
        """Return the teacher's name in the store."""
        return self.teacher.format(seed=self.seed)

    @property
    def name(self) -> str:
        """Return the name of its files below the bench's folder, and in messages."""
        if self.method == "teacher":
            parts = [self.outputs]
        elif self.method == "start":
            parts = ["start"]
        else:
            parts = [self.method, f"n{self.frames}", *([self.outputs] if self.teacher else [])]
            parts += [f"without-{loss}" for loss in self.lacking]
            parts += [] if self.sampling == "uniform" else [self.sampling]
        return f"seed-{self.seed}/" + re.sub(r"[^\w.-]+", "-", "-".join(parts)).lower()


@dataclass(frozen=True)
class Bench:
    """Where runs are made: a store, a folder, a protocol.

    store        Folder of a clip store with the splits `train` and `test`.
    out          Folder for weights and results; a bench refuses one of another protocol or store.
    protocol     Sizes and schedules: one of PROTOCOLS, or your own.
    teachers     Teachers to train where a run names one of them, as `egodistill demo` does.
    """

    store: str
    out: str
    protocol: Protocol = Protocol()
    train: str = "train"
    test: str = "test"
    teachers: Mapping[str, TeacherRecipe] = field(default_factory=dict)
    device: str | None = None
    progress: bool = True

    def claim(self) -> None:
        """Raise DataError if the folder holds runs of another protocol or store: their results would be taken."""
        store = data.ClipStore(self.store)
        counts = {split: len(store.split(split)) for split in (self.train, self.test)}
        about = {"protocol": self.protocol.record(), "clips": counts, "class_names": store.class_names}
        note = Path(self.out, "bench.json")
        if note.exists():
            files.require_same_run(note, files.read_json(note), about, f"Give another folder than {self.out}.")
        else:
            files.write_json(note, about)

    def path(self, run: Run, suffix: str = ".pt") -> Path:
        """Return a run's file of weights, or with the suffix ".json" that of its result."""
        return Path(self.out, run.name + suffix)

    def result(self, run: Run) -> dict[str, Any]:
        """Return what was found for a finished run. Raise DataError if there is nothing."""
        return files.read_json(self.path(run, ".json"))

    def splits(self, run: Run) -> tuple[Any, Any]:
        """Return the clips to train on and those to evaluate on."""
        store = data.ClipStore(self.store)
        if run.sampling != "uniform" and run.sampling not in samplings(store, run.frames):
            raise DataError(
                f"{self.store}: lacks {run.frames} frames by {run.sampling!r}: prepare --sampling makes them"
            )
        return store.split(self.train), store.split(self.test)

    def needs(self, run: Run) -> list[Run]:
        """Return the runs that have to be finished before a run can be made."""
        if run.method in ("teacher", "start"):
            return []
        first = [Run("teacher", run.seed, teacher=run.teacher)] if run.teacher in self.teachers else []
        if run.method == "EgoDistill" and not set(STAGE_1) <= set(run.lacking):
            return [*first, stage_1(run)]
        return first + [Run("start", run.seed)] * self.has_start(run)

    def has_start(self, run: Run) -> bool:
        """Return whether a run's image network begins from the stand-in for ImageNet's weights."""
        student = self.protocol.recipe.student
        same = self.protocol.listen_to_look.image_encoder == student.image_encoder
        starts = (*STUDENTS, "stage 1", *(["ListenToLook"] if same else []))
        return student.image_weights is None and run.method in starts

    def perform(self, runs: Iterable[Run], jobs: int = 1) -> None:
        """Make all runs and what they need, `jobs` at a time in processes of their own that share the cores.

        Print one line per run. Raise DataError if the folder holds runs of another protocol or store, or if the store
        lacks a run's frames; what training raises comes through, and what was finished before it stays.
        """
        self.claim()
        todo = [run for run in self.in_order(runs) if not self.is_done(run)]
        for run in todo:  # Before hours of training, not after them.
            if run.teacher and run.teacher not in self.teachers:
                batches.require_teacher(data.ClipStore(self.store), run.outputs, "feature")
        if jobs == 1 or len(todo) < 2:
            for number, run in enumerate(todo, 1):
                print(f"[{number}/{len(todo)}] {run.name}", flush=True)
                print(f"    {self.make(run)}", flush=True)
            return
        waiting, running, unfinished, quiet = list(todo), {}, set(todo), replace(self, progress=False)
        threads = max(1, torch.get_num_threads() // jobs)
        pool = concurrent.futures.ProcessPoolExecutor(
            jobs, multiprocessing.get_context("spawn"), initializer=begin_worker, initargs=(threads,)
        )
        try:
            while waiting or running:
                for run in list(waiting):
                    if unfinished.isdisjoint(self.needs(run)):
                        waiting.remove(run)
                        running[pool.submit(quiet.make, run)] = run
                for job in concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done:
                    run, told = running.pop(job), job.result()
                    unfinished.remove(run)
                    number = len(todo) - len(waiting) - len(running)
                    print(f"[{number}/{len(todo)}] {run.name}: {told}", flush=True)
        finally:  # Ctrl-C and failures, too: what has not begun is left for the next call.
            pool.shutdown(cancel_futures=True)

    def in_order(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs and all that they need, each after what it needs."""
        order: dict[Run, None] = {}

        def visit(run: Run) -> None:
            if run not in order:
                for needed in self.needs(run):
                    visit(needed)
                order[run] = None

        for run in runs:
            visit(run)
        return list(order)

    def hours(self, runs: Iterable[Run]) -> float:
        """Return the hours that finished runs and all that they need took, added up."""
        return sum(self.result(run)["seconds"] for run in self.in_order(runs)) / 3600

    def is_done(self, run: Run) -> bool:
        """Return whether a run has its result, and the store a teacher's outputs for all of its clips."""
        if not self.path(run, ".json").exists():
            return False
        if run.method != "teacher":
            return True
        store = data.ClipStore(self.store)
        arrays = (f"{run.outputs}.feature", f"{run.outputs}.logits")
        return all(name in store.names and store.done(name).all() for name in arrays)

    def make(self, run: Run) -> str:
        """Train what is not trained yet, evaluate it, write both down; return a line for the user."""
        path, began = self.path(run), time.monotonic()
        train, test = self.splits(run)
        settings = self.settings(run)
        if path.exists():  # Killed before it was judged.
            model = load(path)
            model.sampling = run.sampling
        else:
            torch.manual_seed(run.seed)
            model = self.build(run, train)
            model.sampling = run.sampling
            fit(run, model, train, settings)
            model.save(path)
        training_file(path).unlink(missing_ok=True)
        if run.method == "teacher":
            model.name = run.outputs
            teachers.extract(
                model,
                data.ClipStore(self.store),
                batch_size=32,
                precision=settings.precision,
                device=self.device,
                progress=self.progress,
            )
        seconds = time.monotonic() - began
        result: dict[str, Any] = {"run": asdict(run), "seconds": seconds, "precision": settings.precision}
        told = "trained"
        if run.method != "stage 1":
            with policy_gmacs(model) as spent:
                found = inference.evaluate(model, test, device=self.device, precision="fp32", progress=False)
            result |= {"top1": found.top1, "per_class": found.per_class, "segments": len(found.labels)}
            told = f"top-1 {100 * found.top1:.1f} %"
            if spent:
                result["gmacs"] = sum(spent) / len(test)
        files.write_json(self.path(run, ".json"), result)
        return f"{told} ({result['seconds']:.0f} s)"

    def build(self, run: Run, store: Any) -> nn.Module:
        """Return a new network for a run, or the one that it continues with."""
        if run.method == "teacher":
            return build_teacher(self.teachers[run.teacher], run.outputs, store)
        if run.method == "EgoDistill" and not set(STAGE_1) <= set(run.lacking):
            return EgoDistill.load(self.path(stage_1(run)))
        student = self.protocol.recipe.student
        width = store.read(f"{run.outputs}.feature", [0]).shape[1] if run.teacher else student.feature_dim
        if run.method in RIVALS:
            model = self.build_rival(run, store, width)
        else:
            uses_imu = run.method in ("VisIMU", "EgoDistill", "stage 1")
            model = replace(student, num_frames=run.frames, use_imu=uses_imu).build(
                len(store.class_names),
                feature_dim=width,
                frame_size=store.settings["frame_size"],
                sampling=run.sampling,
                exact=store.settings["exact"],
            )
        if self.has_start(run):
            encoder = model.image if run.method == "ListenToLook" else model.image_encoder
            encoder.load_state_dict(self.start(run).state_dict())
        return model

    def build_rival(self, run: Run, store: Any, width: int) -> baselines.Baseline:
        """Return a new network of another paper; `width` is that of ListenToLook's feature."""
        kind, _, variant = run.method.partition(" ")
        classes = len(store.class_names)
        options = {"num_frames": run.frames, "frame_size": store.settings["frame_size"]}
        if kind == "AdaFuse":
            return build_adafuse(classes, asdict(self.protocol.adafuse) | options)
        if kind == "ListenToLook":
            settings = asdict(self.protocol.listen_to_look)
            return baselines.ListenToLook(classes, feature_dim=width, **settings, **options)
        settings = asdict(self.protocol.stts)
        model = baselines.STTS(classes, **settings, **options, **baselines.STTS_VARIANTS[variant])
        if self.protocol.narrow:
            strong_start(model, model.head)
        return model

    def start(self, run: Run) -> nn.Module:
        return EgoDistill.load(self.path(Run("start", run.seed))).image_encoder

    def settings(self, run: Run) -> Training:
        """Return the settings that a run is trained by: those of the stage that trains it."""
        recipe, lacking = self.protocol.recipe, run.lacking
        settings: Training = recipe.finetuning
        if run.method == "teacher":
            settings = self.teachers[run.teacher].training
        elif run.method == "stage 1":
            stage = recipe.pretraining
            nce = 0.0 if "nce" in lacking else stage.nce_weight
            l1 = 0.0 if "pretrain_l1" in lacking else stage.l1_weight
            settings = replace(stage, nce_weight=nce, l1_weight=l1)
        elif run.method in DISTILLED:
            stage = recipe.distillation
            alpha = 1.0 if "gt" in lacking else 0.0 if "kd" in lacking else stage.alpha
            settings = replace(stage, alpha=alpha, beta=0.0 if "l1" in lacking else stage.beta)
        if run.method in RIVALS and recipe.student.image_weights is None and not self.has_start(run):
            settings = replace(settings, epochs=2 * settings.epochs)  # See "The protocol" above.
        file = training_file(self.path(run))
        settings = replace(settings, seed=run.seed, device=self.device, progress=self.progress, checkpoint=file)
        return settings.resolve()


def fit(run: Run, model: Any, store: Any, settings: Training) -> None:
    """Train a run's model by the stage that its settings belong to."""
    if isinstance(settings, PretrainingSettings):
        distillation.pretrain_imu(model, store, settings, teacher=run.outputs)
    elif isinstance(settings, DistillationSettings):
        distillation.distill(model, store, settings, teacher=run.outputs)
    else:
        distillation.finetune(model, store, settings)


def begin_worker(threads: int) -> None:
    """Set the threads of a worker, and end it with its parent: else it would wait for ever if that is killed."""

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    torch.set_num_threads(threads)
    threading.Thread(target=end_with_parent, daemon=True).start()


def stage_1(run: Run) -> Run:
    """Return the stage 1 from which a run of EgoDistill continues."""
    return replace(run, method="stage 1", lacking=tuple(loss for loss in run.lacking if loss in STAGE_1))


def load(path: str | os.PathLike) -> nn.Module:
    """Return the student, teacher or baseline in a file."""
    model = checkpoints.load_model(path)
    return channels_last(model) if isinstance(model, teachers.Teacher) else model


def training_file(out: str | os.PathLike) -> Path:
    """Return the file from which a stage continues after a kill."""
    return Path(f"{out}.training")


def build_teacher(how: TeacherRecipe, name: str, store: Any) -> teachers.Teacher:
    """Return a new teacher that fits the store's clips."""
    teacher = teachers.load(
        how.architecture,
        class_names=store.class_names,
        progress=False,
        seconds=store.specs["clip"].seconds,
        frames=store.settings["clip_frames"],
        size=store.settings["clip_size"],
        **how.options,
    )
    teacher.name = name
    if how.narrow:
        strong_start(teacher, teacher.classifier)
    return channels_last(teacher)


def strong_start(transformer: nn.Module, classifier: nn.Module) -> None:
    """Draw the first weights of a narrow transformer.

    The published deviation of 0.02 is made for a width of 768. A network of width 16 to 200 has to grow its weights for
    epochs before anything but the mean of the clip passes.
    """
    for layer in transformer.modules():
        if isinstance(layer, nn.Linear) and layer is not classifier:
            nn.init.normal_(layer.weight, std=0.6 * layer.in_features**-0.5)
    for name, parameter in transformer.named_parameters():
        if re.search(r"(^|\.)(cls_token|pos_embed|temp_embed)", name):
            nn.init.normal_(parameter, std=0.2)  # of the size of a token, not a thirtieth of it


def channels_last(teacher: teachers.Teacher) -> teachers.Teacher:
    """Put the weights of 3-D convolutions into the layout that is faster on CPUs."""
    for layer in teacher.modules():
        if isinstance(layer, nn.Conv3d):
            layer.to(memory_format=torch.channels_last_3d)
    return teacher


def build_adafuse(classes: int, options: dict[str, Any]) -> baselines.AdaFuse:
    """Return AdaFuse at any size, with its efficiency loss weighted so that it saves as much as at its own size.

    That loss is in GFLOPs, of which a small network has few.
    """
    model = baselines.AdaFuse(classes, **options)
    published = 4.147  # GFLOPs a frame of the released one, which goes with the weight of 0.125
    share = published / (model.frame_macs / 1e9)
    return model if 0.95 < share < 1.05 else baselines.AdaFuse(classes, **options, efficiency_weight=0.125 * share)


@contextlib.contextmanager
def policy_gmacs(model: nn.Module) -> Iterator[list[float]]:
    """Yield a list that gets the GFLOPs that AdaFuse's decisions need for each batch ("upb", as published).

    It stays empty for another model.
    """
    spent: list[float] = []
    if not isinstance(model, baselines.AdaFuse):
        yield spent
        return
    hook = model.register_forward_hook(lambda model, _, output: spent.append(model.gflops().upb * len(output.logits)))
    try:
        yield spent
    finally:
        hook.remove()


class Stored(nn.Module):
    """A teacher's outputs in the store, so that it can be evaluated without running it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.inputs = (f"{name}.feature", f"{name}.logits")

    def forward(self, feature: Tensor, logits: Tensor) -> Output:
        return Output(feature, logits)


# ---------------------------------------------------------------------------------------------------------------
# The paper's tables and its figure, as lists of runs


def comparison(
    bench: Bench,
    *,
    teacher: str,
    seeds: Sequence[int] = (0, 1, 2),
    num_frames: Sequence[int] = (1, 2, 4),
    methods: Sequence[str] = METHODS,
) -> list[Run]:
    """Return the runs of Figure 3: every method with every number of frames, AdaFuse and STTS with the largest.

    Variants of STTS that keep the same tokens at this size (at 64 pixels two do) are one run. Raise EgoDistillError if
    there is no such method.
    """
    if unknown := sorted(set(methods) - set(METHODS)):
        raise EgoDistillError(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    runs, kept = [], {}
    for method in methods:
        most = [max(num_frames)]
        if method in STTS and kept.setdefault(kept_tokens(bench, method, most[0]), method) != method:
            continue
        for frames in most if method in ("AdaFuse", *STTS) else sorted(num_frames):
            runs.append(Run(method, frames=frames, teacher=teacher if method in DISTILLED else None))
    return [replace(run, seed=seed) for seed in seeds for run in runs]


def kept_tokens(bench: Bench, method: str, frames: int) -> tuple[int, int]:
    """Return how many temporal tokens a variant of STTS keeps, and the side of its window."""
    size = data.ClipStore(bench.store).settings["frame_size"]
    options = asdict(bench.protocol.stts) | baselines.STTS_VARIANTS[method.split()[1]] | {"weights": None}
    with torch.device("meta"):
        model = baselines.STTS(2, **options, num_frames=frames, frame_size=size)
    return model.keep_times, getattr(model, "window", 0)


# Table 1: the losses that a row of EgoDistill lacks, after VisIMU, which has the labels' alone. (Which of the paper's
# numbers belongs to which of its rows is lost in the text that we have.)
ABLATIONS: dict[str, tuple[str, ...]] = {
    "without L_KD": ("kd",),
    "without L_1": ("l1",),
    "without L_GT": ("gt",),
    "without stage 1": STAGE_1,
    "stage 1 without L_1": ("pretrain_l1",),
    "stage 1 without L_NCE": ("nce",),
    "EgoDistill": (),
}


def ablation(teacher: str, seeds: Sequence[int] = (0, 1, 2)) -> list[Run]:
    """Return the runs of Table 1: EgoDistill with N = 1, each loss of both stages left out in turn."""
    runs = [Run("VisIMU"), *(Run("EgoDistill", teacher=teacher, lacking=lacking) for lacking in ABLATIONS.values())]
    return [replace(run, seed=seed) for seed in seeds for run in runs]


def frame_choices(bench: Bench, teacher: str, seeds: Sequence[int] = (0, 1, 2), frames: int = 4) -> list[Run]:
    """Return the runs of Table 4: EgoDistill with frames chosen by each rule that the store has frames of."""
    choices = samplings(data.ClipStore(bench.store), frames)
    runs = [Run("EgoDistill", frames=frames, teacher=teacher, sampling=rule) for rule in choices]
    return [replace(run, seed=seed) for seed in seeds for run in runs]


def samplings(store: data.ClipStore, frames: int) -> list[str]:
    """Return the rules by which a store's frames of this number are chosen."""
    names = {rule: clips.frames_name(clips.ClipSpec(frames=frames, sampling=rule)) for rule in video.SAMPLING}
    return [rule for rule, name in names.items() if name in store.names]


class Row(NamedTuple):
    """A method over its seeds: accuracy in %, and what it costs a clip (`inference.measure`)."""

    method: str
    frames: int
    inputs: str
    top1: float
    deviation: float | None
    top1_seeds: list[float]
    gmacs: float | None
    params: int | None
    ms_per_clip: float | None
    per_class: dict[str, float]
    run: Run


def rows(bench: Bench, runs: Iterable[Run], *, costs: bool = True) -> list[Row]:
    """Return a row for each kind of run: mean and deviation over seeds, and the costs of the first seed, measured now.

    Raise DataError for a run that has not been made.
    """
    kinds: dict[Run, list[Run]] = {}
    for run in runs:
        kinds.setdefault(replace(run, seed=0), []).append(run)
    table = []
    for kind, members in kinds.items():
        found = [bench.result(run) for run in members]
        model = load(bench.path(members[0]))
        cost = inference.measure(model, device=bench.device, precision="fp32") if costs else None
        gmacs = cost and cost.gmacs
        if "gmacs" in found[0]:  # AdaFuse: what its policy would need.
            gmacs = statistics.mean(one["gmacs"] for one in found)
        table.append(row(kind, found, describe_inputs(model), gmacs, cost))
    return table


def row(kind: Run, found: list[dict[str, Any]], inputs: str, gmacs: float | None, cost: Any) -> Row:
    top1 = [100 * one["top1"] for one in found]
    return Row(
        method=kind.method,
        frames=kind.frames,
        inputs=inputs,
        top1=statistics.mean(top1),
        deviation=statistics.stdev(top1) if len(top1) > 1 else None,
        top1_seeds=top1,
        gmacs=gmacs,
        params=cost and cost.params,
        ms_per_clip=cost and cost.ms_per_clip,
        per_class={
            name: statistics.mean(100 * one["per_class"][name] for one in found) for name in found[0]["per_class"]
        },
        run=kind,
    )


def teacher_row(bench: Bench, teacher: str, seeds: Sequence[int], checkpoint: str | os.PathLike | None = None) -> Row:
    """Return the row of a teacher, by its outputs in the store.

    Its costs need a file: `checkpoint` ("{seed}" in it stands for the seed), or one that the bench has trained itself.
    """
    run = Run("teacher", seeds[0], teacher=teacher)
    if checkpoint is None and bench.path(run).exists():
        checkpoint = bench.path(run)
    _, test = bench.splits(run)
    found = []
    for name in dict.fromkeys(teacher.format(seed=seed) for seed in seeds):
        result = inference.evaluate(Stored(name), test, device=bench.device, precision="fp32", progress=False)
        found.append({"top1": result.top1, "per_class": result.per_class})
    model = load(str(checkpoint).format(seed=seeds[0])) if checkpoint else None
    cost = model and inference.measure(model, device=bench.device, precision="fp32")
    return row(run, found, describe_inputs(model) if model else "clip", cost and cost.gmacs, cost)


def describe_inputs(model: nn.Module) -> str:
    count = model.clip_spec.frames if "clip" in model.inputs else model.num_frames
    names = {"imu": "IMU", "audio": "sound"}
    return " + ".join([f"{count} frame{'s' * (count > 1)}", *(names[name] for name in model.inputs if name in names)])


def write_rows(table: list[Row], stem: str | os.PathLike, about: Mapping[str, Any]) -> list[Path]:
    """Write `stem`.json with everything, `about` included, and `stem`.csv with one line per row; return both paths."""
    json_file, csv_file = Path(f"{stem}.json"), Path(f"{stem}.csv")
    files.write_json(
        json_file, {"rows": [one._asdict() | {"run": asdict(one.run)} for one in table], "about": dict(about)}
    )
    columns = [
        "method",
        "frames",
        "inputs",
        "lacking",
        "sampling",
        "top1",
        "deviation",
        "gmacs",
        "params",
        "ms_per_clip",
    ]
    with files.atomic_write(csv_file) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for one in table:
            cells = one._asdict() | {"lacking": " ".join(one.run.lacking), "sampling": one.run.sampling}
            writer.writerow(["" if cells[name] is None else cells[name] for name in columns])
    return [json_file, csv_file]


# ---------------------------------------------------------------------------------------------------------------
# Table 3: what the paper's models cost


class Published(NamedTuple):
    """A row of the paper's Table 3: one clip, on one A40 at batch 32."""

    gmacs: float
    ms_per_clip: float
    params: float


_STTS = Published(7.19, 1.63, 36.63e6)
_VIDEO = Published(369.51, 10.70, 108.91e6)
# The paper's Table 3: {row: (published, how to build it)}. Video's parameters fit a head of 97 classes, those of
# AdaFuse and ListenToLook one of 62; the others fit neither.
TABLE_3: dict[str, tuple[Published, Callable[[], nn.Module]]] = {
    "Video": (_VIDEO, lambda: teachers.load("motionformer_16x4", None, 97, fast=False, progress=False)),
    "MotionFormer": (_VIDEO, lambda: teachers.load("motionformer_16x4", None, 97, progress=False)),
    "AdaFuse": (Published(15.20, 2.04, 38.85e6), lambda: baselines.AdaFuse(62, weights=None)),
    "STTS-T0.8-S0.9": (_STTS, lambda: baselines.STTS(62, weights=None, **baselines.STTS_VARIANTS["T0.8-S0.9"])),
    "STTS-T0.5-S0.7": (_STTS, lambda: baselines.STTS(62, weights=None, **baselines.STTS_VARIANTS["T0.5-S0.7"])),
    "ListenToLook": (Published(3.10, 0.43, 25.53e6), lambda: baselines.ListenToLook(62, gru=True, weights=None)),
    "EgoDistill": (Published(1.91, 0.25, 20.56e6), lambda: EgoDistill(62, image_weights=None)),
}
# Why ours and the published numbers differ, as far as it is known; {} is `adafuse_counts`. A note serves all rows that
# begin with its name.
NOTES = {
    "Video": "MotionFormer 16x4 in the order of operations of its authors' code.",
    "MotionFormer": "the same network and outputs in this library's order of operations.",
    "AdaFuse": "computes every channel and masks some. With every gate at skip, its policy's best case, {skipping:.2f} "
    "would be left; by thop's rule {thop_skipping:.2f}, which is the published number, of {thop:.2f}.",
    "STTS": "no setting of the released code gives 7.19 and 36.63 M. T0.8-S0.9 has 6.92 by fvcore's rule and 6.70 by "
    "thop's, T0.5-S0.7 6.22 and 6.03, selection over time alone 7.44 and 7.21 (36.41 M).",
    "ListenToLook": "one frame through its GRU, a feature of 512 numbers, sound of 201 x 40. thop says 3.10: it "
    "counts the sound's first layer four times (3.02 without that).",
    "EgoDistill": "no reading of the paper gives 1.91 and 20.56 M; this one is nearest (1.87 by fvcore's rule and by "
    "thop's; 20.61 M with 97 classes).",
}
TABLE_3_LEGEND = (
    "ratio: how many times less than Video. Published: Table 3 of the paper, one A40, batch 32.",
    "The published GFLOPs are multiply-adds, too, by two rules: Video's fit fvcore's, which adds 5 for each number in "
    "a layer norm, AdaFuse's and ListenToLook's thop's, which adds 4 for each number in a batch norm and leaves out "
    "products of attention. STTS's and EgoDistill's fit neither.",
    "The published parameters fit a head of 97 classes for Video and of 62 for AdaFuse and ListenToLook, as here; the "
    "others have 62 here and fit neither.",
)


def notes_on(models: dict[str, nn.Module], costs: dict[str, inference.Cost]) -> list[str]:
    """Return the notes on those rows of Table 3 that were measured, with AdaFuse's numbers."""
    numbers = adafuse_counts(models["AdaFuse"], costs["AdaFuse"].gmacs) if "AdaFuse" in models else {}
    return [
        f"- {name}: {note.format(**numbers)}"
        for name, note in NOTES.items()
        if any(row.startswith(name) for row in models)
    ]


def adafuse_counts(model: baselines.AdaFuse, dense: float) -> dict[str, float]:
    """Return what is left with every gate at skip, in billions per clip, by our counter and by thop's rule."""
    thop = model.num_frames * model.frame_macs / 1e9
    saved = model.num_frames * sum(second for _, second in model.block_macs) / 1e9
    return {"skipping": dense - saved, "thop": thop, "thop_skipping": thop - saved}


# ---------------------------------------------------------------------------------------------------------------
# The figure

# Marker, line and grey value tell the methods apart in print as well; the colours are Okabe and Ito's.
STYLES: dict[str, dict[str, Any]] = {
    "EgoDistill": {"color": "#D55E00", "marker": "o", "linewidth": 2.4, "markersize": 8},
    "VisIMU": {"color": "#E69F00", "marker": "s", "linestyle": "--"},
    "VisOnly-Distill": {"color": "#0072B2", "marker": "^"},
    "VisOnly": {"color": "#56B4E9", "marker": "v", "linestyle": "--"},
    "ListenToLook": {"color": "#009E73", "marker": "D", "linestyle": "-."},
    "AdaFuse": {"color": "#000000", "marker": "P", "linestyle": "none", "markersize": 9},
    "STTS": {"color": "#CC79A7", "marker": "X", "linestyle": ":", "markersize": 9},
    "teacher": {"color": "#555555", "marker": "*", "linestyle": "none", "markersize": 13},
}


def draw(table: Sequence[Row], stem: str | os.PathLike, title: str = "") -> list[Path]:
    """Draw accuracy against GMACs, the paper's Figure 3, as `stem`.png and .svg; needs matplotlib (ImportError)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", xlabel="GMACs a clip (billions of multiply-adds)", ylabel="top-1 (%)")
    for method, style in STYLES.items():
        line = sorted(
            (one for one in table if one.method.split()[0] == method and one.gmacs), key=lambda one: one.gmacs
        )
        if not line:
            continue
        x, y = [one.gmacs for one in line], [one.top1 for one in line]
        axes.errorbar(x, y, yerr=[one.deviation or 0.0 for one in line], capsize=3, label=method, **style)
        if method in ("EgoDistill", "VisOnly-Distill"):
            for number, one in enumerate(line):  # Beside the line, not on it.
                side = {"xytext": (-9, 0), "ha": "right"} if number == 0 else {"xytext": (9, 0), "ha": "left"}
                axes.annotate(
                    f"N = {one.frames}",
                    (one.gmacs, one.top1),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                    **side,
                )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.14, y=0.08)
    axes.grid(which="major", alpha=0.35)
    axes.set_title(title, fontsize=11)
    figure.legend(loc="outside right center", frameon=False)
    paths = [Path(f"{stem}.{suffix}") for suffix in ("png", "svg")]
    for file in paths:
        with files.atomic_write(file) as part:
            figure.savefig(part, format=file.suffix[1:], dpi=150)
    return paths
