"""Train and evaluate models under one protocol: `Run`, one network trained with one seed, and `Bench`, which runs them.

    from lab.benches import Bench, Run
    from lab.protocols import PROTOCOLS, Method

    bench = Bench("store", "out", PROTOCOLS["epic"])                   # a clip store with a teacher's outputs
    run = Run("EgoDistill", seed=1, teacher="motionformer")
    bench.run([run], jobs=2)                                           # with the runs that it starts from
    print(bench.result(run)["top1"])
    mine = Method("Mine", MyStudent)                                   # a student of your own, in the same bench
    bench = Bench("store", "out", PROTOCOLS["epic"], methods=[mine])
    bench.run([Run("Mine", seed=1, teacher="motionformer")])

A run is two files in `out/seed-N/`, weights and a JSON file with the accuracy. Finished runs are reused, and
interrupted runs continue. `paper` has the paper's tables as lists of runs.

Protocol: all methods see the same clips, are trained by the same loop and evaluated by `evaluate()`. In the paper, all
image networks start from ImageNet weights. A protocol without these weights replaces them for all students, and for
ListenToLook if it has the same image network, by an image encoder trained on the store's labels (method "start", one
per seed). The image networks of AdaFuse and STTS differ and cannot start from it, so they are trained for twice the
epochs. Then every image network has seen every clip equally often, unless `Protocol.changes` gives a method other
epochs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import math
import multiprocessing
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from egodistill import data, distillation, inference, teachers, video
from egodistill.distillation import DistillationSettings, PretrainingSettings
from egodistill.engine import batches, models, safetensors
from egodistill.engine.checkpoints import load_model, load_strictly, read_tensors
from egodistill.engine.teacher import channels_last
from egodistill.recordings.spec import ClipSpec, frames_name
from egodistill.student import EgoDistill
from egodistill.support import files
from egodistill.support.custom import import_again, imported
from egodistill.support.errors import DataError, EgoDistillError, did_you_mean
from egodistill.training import Training
from lab import adafuse, baselines, contrasts, listen_to_look, stts
from lab.contrasts import Outcome
from lab.protocols import PROTOCOLS, Method, Protocol, TeacherRecipe

__all__ = ["BASELINES", "DISTILLED", "METHODS", "STAGE_1_LOSSES", "STTS_METHODS", "STUDENTS", "Bench", "Run"]

STUDENTS = ("VisOnly", "VisOnly-Distill", "VisIMU", "EgoDistill")
STTS_METHODS = tuple(f"STTS {variant}" for variant in stts.STTS_VARIANTS)
BASELINES = ("ListenToLook", "AdaFuse", *STTS_METHODS)
METHODS = (*STUDENTS, *BASELINES)
OF_THE_LIBRARY = ("teacher", "start", "stage 1", *METHODS)  # names for `Run.method`
DISTILLED = ("VisOnly-Distill", "EgoDistill", "ListenToLook")
STAGE_1_LOSSES = ("nce", "pretrain_l1")  # names for `Run.without`


@dataclass(frozen=True)
class Run:
    """One network trained with one seed.

    Attributes:
        method: Name of a student or baseline in the paper, of a method of the bench's own, or of a run that these
            depend on: "teacher", "stage 1", "stage 1 of" a method of its own, or "start", which trains the image
            encoder that replaces ImageNet weights.
        seed: Seed of the initial weights and of the order of the clips.
        frames: N, the number of frames.
        teacher: Name of the teacher's outputs in the store; "{seed}" in it stands for the seed.
        without: Losses left out: "kd", "l1", "gt" of stage 2; "nce", "pretrain_l1" of stage 1 (both: no stage 1).
        sampling: How the frames of a clip are chosen, one of `video.SAMPLING`.
        share: Share of the training clips that have outputs of the teacher; stage 2 uses only these. None: all clips
            have outputs, and a run without stage 1 is shorter.
        stage_1_on: With a share, the clips of stage 1: "all" (those without outputs in L_NCE only), or "share", the
            same as in stage 2. Both of these, and EgoDistill without stage 1, take equally many steps in total.

    >>> from lab import benches
    >>> benches.Run("EgoDistill", seed=1, frames=4, teacher="x3d", without=("kd",)).name
    'seed-1/egodistill-n4-x3d-without-kd'
    """

    method: str
    seed: int = 0
    frames: int = 1
    teacher: str | None = None
    without: tuple[str, ...] = ()
    sampling: str = "uniform"
    share: float | None = None
    stage_1_on: Literal["all", "share"] = "all"

    @property
    def outputs(self) -> str:
        """Return the name of the teacher's outputs in the store."""
        return self.teacher.format(seed=self.seed)

    @property
    def name(self) -> str:
        """Return the path of its files below the bench's folder, without suffix; also its name in messages."""
        if self.method == "teacher":
            parts = [self.outputs]
        elif self.method == "start":
            parts = ["start"]
        else:
            parts = [self.method, f"n{self.frames}", *([self.outputs] if self.teacher else [])]
            parts += [f"without-{loss}" for loss in self.without]
            parts += [] if self.sampling == "uniform" else [self.sampling]
            parts += [] if self.share is None else [f"share-{self.share:g}"]
            parts += [] if self.stage_1_on == "all" else ["stage-1-on-share"]
        return f"seed-{self.seed}/" + file_stem("-".join(parts))


@dataclass(frozen=True)
class Bench:
    """A store, a protocol, and a folder in which runs are trained and evaluated.

    Attributes:
        store: Folder of a clip store with the splits `train` and `test`.
        out: Folder for weights and results. A folder with runs of another protocol or store is refused.
        protocol: Sizes and schedules: one of `PROTOCOLS`, or your own.
        train: Name of the split to train on.
        test: Name of the split to evaluate on.
        every: Train on every n-th clip only, a positive integer; 1: on all.
        validation: A split on which the best epoch of the bench's own teachers is chosen; None: they keep the last.
        teachers: Teachers that the bench trains itself, by name, on all classes of the store, "(none)" as well;
            `python -m lab demo` uses this.
        methods: Methods of your own, whose names runs can have.
        device: Device to train on; None: a GPU if there is one.
        progress: Show a progress bar for each training on stderr.
        shows_accuracy: Print the accuracy of each run.

    Raises:
        EgoDistillError: If `every` is not a positive integer, if the protocol changes an unknown method, or if a
            method has a name that is taken.

    >>> from dataclasses import replace
    >>> from egodistill import StudentSettings
    >>> from lab import benches, paper, protocols
    >>> demo = protocols.PROTOCOLS["demo"]
    >>> student = StudentSettings(image_encoder="resnet10x4", image_weights=None, hidden=32)
    >>> recipe = replace(demo.recipe, student=student).with_training(epochs=1, batch_size=8)
    >>> bench = benches.Bench("store", "out", replace(demo, recipe=recipe), device="cpu", progress=False)
    >>> runs = [benches.Run("VisOnly"), benches.Run("EgoDistill", teacher="x3d")]
    >>> bench.run(runs)
    [1/4] seed-0/start
        top-1 ... % (... s)
    [2/4] seed-0/visonly-n1, about ... left
        top-1 ... % (... s)
    [3/4] seed-0/stage-1-n1-x3d, about ... left
        trained (... s)
    [4/4] seed-0/egodistill-n1-x3d, about ... left
        top-1 ... % (... s)
    >>> rows = paper.rows(bench, runs)
    >>> for row in rows:
    ...     print(row.method, row.inputs, f"{row.gmacs:.4f} GMACs", row.params)
    VisOnly 1 frame ... GMACs ...
    EgoDistill 1 frame + IMU ... GMACs ...
    >>> [file.name for file in paper.write_rows(rows, "out/compare", {"note": "an example"})]
    ['compare.json', 'compare.csv']
    """

    store: str
    out: str
    protocol: Protocol = PROTOCOLS["epic"]
    train: str = "train"
    test: str = "test"
    every: int = 1
    validation: str | None = None
    teachers: Mapping[str, TeacherRecipe] = field(default_factory=dict)
    device: str | None = None
    progress: bool = True
    methods: Sequence[Method] = ()
    shows_accuracy: bool = True

    def __post_init__(self) -> None:
        batches.require_number("every", self.every, 1, whole=True)
        known = list(OF_THE_LIBRARY)
        for method, name in ((one, name) for one in self.methods for name in (one.name, stage_1_of(one.name))):
            taken = file_stem(name)
            if taken in map(file_stem, known) or not taken.strip("-") or method.name.startswith("stage 1"):
                raise EgoDistillError(f"a method cannot have the name {name!r}, which is taken or empty; give another")
            known.append(name)
        if unknown := sorted(set(self.protocol.changes) - set(known)):
            raise EgoDistillError(
                f"the protocol changes the training of {', '.join(map(repr, unknown))}; methods are {', '.join(known)}"
            )

    def require_known(self, run: Run) -> None:
        """Raise EgoDistillError if a run is of no method of this bench, or lacks the teacher that it learns from.

        Args:
            run: The run.
        """
        known = list(OF_THE_LIBRARY)
        known += [name for one in self.methods for name in (one.name, stage_1_of(one.name))]
        if run.method not in known:
            raise EgoDistillError(
                f"there is no method {run.method!r}{did_you_mean(run.method, known)}; methods are {', '.join(known)}"
            )
        own = self.own(run)
        taught = own.taught if own else run.method in ("teacher", *DISTILLED)
        if run.teacher is None and (taught or is_stage_1(run)):
            raise EgoDistillError(
                f"{run.method} learns from a teacher; give Run({run.method!r}, teacher=NAME), the name of its outputs "
                f"in the store"
            )

    def check_folder(self, begin: bool = True) -> None:
        """Raise DataError if the folder holds runs of another protocol or store.

        Args:
            begin: Write the settings files of a folder that has none.
        """
        store = data.ClipStore(self.store)
        views = {"train": self.train_clips(store), "test": store.split(self.test)}
        if self.validation is not None:
            views["validation"] = store.split(self.validation)
        about = {"protocol": self.protocol.record(), "class_names": store.class_names}
        about["clips"] = {split: len(view) for split, view in views.items()}
        about["fingerprint of the clips"] = {split: view.fingerprint[:16] for split, view in views.items()}
        about["weights"] = {path: files.signature(path) for path in self.protocol.weight_files()}
        path = Path(self.out, "bench.json")
        if path.exists():
            before = files.read_json(path)
            if not (isinstance(before, dict) and isinstance(before.get("protocol"), dict)):
                raise DataError(f"{path}: is no file of a bench; give another folder than {self.out}")
            for changes in before["protocol"].get("changes", {}).values():
                if "augment" in changes:  # version 0.4 had no shift
                    changes["augment"] = {"shift": 0.0} | changes["augment"]
            files.require_same_run(path, before, about, f"Use another folder than {self.out}.")
        elif begin:
            files.write_json(path, about)
        segments = Path(self.out, contrasts.SEGMENTS_FILE)
        if not segments.exists():
            if begin:
                files.write_json(segments, contrasts.segments_record(views["test"]))
        elif not (isinstance(record := files.read_json(segments), dict) and "digest" in record):
            raise DataError(f"{segments}: is no file of a bench; give another folder than {self.out}")

    def own(self, run: Run) -> Method | None:
        """Return the method of one's own that a run is of, itself or its stage 1.

        Args:
            run: The run.
        """
        return next((one for one in self.methods if run.method in (one.name, stage_1_of(one.name))), None)

    def path(self, run: Run, suffix: str = ".safetensors") -> Path:
        """Return the path of a run's weights or result.

        Args:
            run: The run.
            suffix: ".safetensors" for the weights, ".json" for the result.
        """
        return Path(self.out, run.name + suffix)

    def load(self, run: Run) -> nn.Module:
        """Return the network of a run that is trained, with the recipe's own parts.

        Args:
            run: The run.
        """
        if self.own(run) is None:
            return models.load_any(self.path(run), list(self.protocol.recipe.student.custom().values()))
        model, path = self.build(run, self.splits(run)[0], trained=False), self.path(run)
        if isinstance(model, EgoDistill):
            return load_model(path, type(model), getattr(model, "parts", {}))
        load_strictly(model, read_tensors(path), f"the file {path}", exact=True)
        return model.eval()

    def save(self, run: Run, model: Any) -> None:
        """Write the network of a run, as `load()` reads it.

        Args:
            run: The run.
            model: The network.
        """
        if self.own(run) is None or isinstance(model, EgoDistill):
            model.save(self.path(run))
        else:
            with files.atomic_write(self.path(run)) as part:
                part.write_bytes(safetensors.pack(model.state_dict(), {}))

    def result(self, run: Run) -> dict[str, Any]:
        """Return the result of a finished run.

        Args:
            run: The run; DataError if it has no result.
        """
        return files.read_json(self.path(run, ".json"))

    def outcome(self, run: Run) -> Outcome:
        """Return which test segments a finished run has right, for `contrasts`.

        Args:
            run: The run.

        Raises:
            DataError: If there is no result, or if it does not record this; see `contrasts.read_outcome()`.
        """
        return replace(contrasts.read_outcome(self.path(run, ".json")), name=run.name)

    def splits(self, run: Run) -> tuple[Any, Any]:
        """Return the training and the test clips of a run.

        Args:
            run: The run; DataError if the store lacks its frames.
        """
        store = data.ClipStore(self.store)
        if run.method != "teacher" and run.sampling not in samplings(store, run.frames):
            rule = "" if run.sampling == "uniform" else f" --sampling {run.sampling}"
            raise DataError(
                f"{self.store}: has no {run.frames} frames per clip with sampling {run.sampling!r}; `egodistill "
                f"prepare --num-frames {run.frames}{rule}` writes them"
            )
        train = self.train_clips(store)
        if run.share is not None and not (is_stage_1(run) and run.stage_1_on == "all"):
            train = train.select(taught_rows(run, len(train)))
        return train, store.split(self.test)

    def train_clips(self, store: data.ClipStore) -> data.ClipStore:
        """Return the clips to train on.

        Args:
            store: The whole store.
        """
        clips = store.split(self.train)
        return clips.select(slice(None, None, self.every)) if self.every > 1 else clips

    def dependencies(self, run: Run) -> list[Run]:
        """Return the runs that must be finished before another one.

        Args:
            run: The other one.
        """
        if run.method in ("teacher", "start"):
            return []
        first = [Run("teacher", run.seed, teacher=run.teacher)] if run.teacher in self.teachers else []
        if self.has_stage_1(run):
            return [*first, stage_1(run)]
        return first + [Run("start", run.seed)] * self.has_start(run)

    def has_stage_1(self, run: Run) -> bool:
        """Return whether a run starts from a run of stage 1.

        Args:
            run: The run.
        """
        own = self.own(run)
        pretrained = own.pretrain and run.method == own.name if own else run.method == "EgoDistill"
        return pretrained and not set(STAGE_1_LOSSES) <= set(run.without)

    def has_start(self, run: Run) -> bool:
        """Return whether a run's image network starts from the replacement for ImageNet weights.

        Args:
            run: The run.
        """
        student = self.protocol.recipe.student
        same = self.protocol.listen_to_look.image_encoder == student.image_encoder
        starts = (*STUDENTS, "stage 1", *(["ListenToLook"] if same else []))
        own = self.own(run)
        return student.image_weights is None and (own.start if own else run.method in starts)

    def run(self, runs: Iterable[Run], jobs: int = 1, done: Callable[[Run], None] | None = None) -> None:
        """Train and evaluate all runs and their dependencies, except finished ones, and print one line per run.

        Runs that were finished before an error are kept.

        Args:
            runs: The runs.
            jobs: Number of runs that are trained at a time, in separate processes that share the cores.
            done: `done(run)` is called in this process: first for each run that was finished before, then for each run
                as it ends.

        Raises:
            DataError: If the folder holds runs of another protocol or store, or if the store lacks the frames or the
                labels that a run needs.
            DownloadError: Of `engine.image_encoders`, if weights cannot be downloaded; the folder is then as it was.
            EgoDistillError: If a run is of an unknown method, or lacks its teacher, if the store lacks the teacher's
                outputs, and for the errors of training.
        """
        if isinstance(runs, Run):
            raise EgoDistillError("runs is one Run; give a list of them: [run]")
        runs = list(runs)
        for run in runs:
            self.require_known(run)
        self.check_folder(begin=False)
        if jobs > 1:
            require_files(self.methods)
        done, wanted = done or (lambda run: None), self.with_dependencies(runs)
        todo = [run for run in wanted if not self.is_done(run)]
        self.check_labels(todo)
        self.check_networks(todo)
        self.check_folder()
        for run in wanted:
            if run not in todo:
                done(run)
        if jobs == 1 or len(todo) < 2:
            for number, run in enumerate(todo, 1):
                print(f"[{number}/{len(todo)}] {run.name}{self.time_left(wanted, todo[number - 1 :])}", flush=True)
                print(f"    {self.train_and_evaluate(run)}", flush=True)
                done(run)
            return
        waiting, running, unfinished, worker = list(todo), {}, set(todo), replace(self, progress=False)
        threads = max(1, torch.get_num_threads() // jobs)
        pool = concurrent.futures.ProcessPoolExecutor(
            jobs, multiprocessing.get_context("spawn"), initializer=init_worker, initargs=(threads, imported())
        )
        try:
            while waiting or running:
                for run in list(waiting):
                    if unfinished.isdisjoint(self.dependencies(run)):
                        waiting.remove(run)
                        running[pool.submit(worker.train_and_evaluate, run)] = run
                for job in concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done:
                    run, result = running.pop(job), job.result()
                    unfinished.remove(run)
                    number = len(todo) - len(waiting) - len(running)
                    left = self.time_left(wanted, unfinished, jobs)
                    print(f"[{number}/{len(todo)}] {run.name}: {result}{left}", flush=True)
                    done(run)
        finally:  # After Ctrl-C and errors, too: do not start the remaining runs.
            pool.shutdown(cancel_futures=True)

    def time_left(self, wanted: Iterable[Run], left: Collection[Run], jobs: int = 1) -> str:
        """Return how long the runs that are left will take, for a message; "" as long as nothing is known about them.

        A run takes as long as others of its method, or else as long per epoch as the other students.

        Args:
            wanted: All runs.
            left: Those that are left.
            jobs: Number of runs that are trained at a time.
        """
        took = {
            run: self.result(run)["seconds"] for run in wanted if run not in left and self.path(run, ".json").exists()
        }
        students = [run for run in took if run.method != "teacher"]
        seconds = 0.0
        for run in left:
            alike = [other for other in took if other.method == run.method] or students
            if not alike:
                return ""
            seconds += self.settings(run).epochs * sum(took[r] / self.settings(r).epochs for r in alike) / len(alike)
        return f", about {files.clock(seconds / jobs)} left" if left else ""

    def check_labels(self, runs: Sequence[Run]) -> None:
        """Raise DataError if no training clip has a label that a run trains on, or a test clip has none.

        Args:
            runs: The runs that are left.
        """
        store = data.ClipStore(self.store)
        taught = (*DISTILLED, *(one.name for one in self.methods if one.taught))
        on_labels = [run for run in runs if run.method not in taught and not is_stage_1(run)]
        if on_labels and not (self.train_clips(store).labels >= 0).any():
            raise DataError(
                f"{self.store}: {on_labels[0].name} is trained on labels, but no clip of the split {self.train!r} has "
                f"one; prepare it from a table with labels, or train with distill() alone"
            )
        lacking = int((store.split(self.test).labels < 0).sum())
        if lacking and not all(map(is_stage_1, runs)):
            raise DataError(
                f"{self.store}: {lacking} clips of the split {self.test!r} have no label, so no accuracy can be "
                f"measured; `egodistill evaluate` reports the agreement with a teacher"
            )

    def check_networks(self, runs: Sequence[Run]) -> None:
        """Raise the errors of the store's sets, and of the networks and their initial weights, before any training.

        Args:
            runs: The runs that are left.
        """
        kinds: dict[str, tuple[Run, Any]] = {}
        for run in runs:
            clips = self.splits(run)[0]
            if run.teacher in self.teachers or run.method == "teacher":
                continue  # the store has no outputs yet, by which a network is built
            if run.teacher:
                batches.require_teacher(data.ClipStore(self.store), run.outputs, "feature")
            kind = run.method.partition(" ")[0] if run.method in BASELINES else "students"
            kinds.setdefault(run.method if self.own(run) else kind, (run, clips))
        for run, clips in kinds.values():
            self.build(run, clips, trained=False)

    def with_dependencies(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs and all their dependencies, each after its own dependencies.

        Args:
            runs: The runs.
        """
        order: dict[Run, None] = {}
        for run in runs:
            order |= dict.fromkeys([*self.with_dependencies(self.dependencies(run)), run])
        return list(order)

    def hours(self, runs: Iterable[Run]) -> float:
        """Return the training time of finished runs and their dependencies, summed, in hours.

        Args:
            runs: The runs.
        """
        return sum(self.result(run)["seconds"] for run in self.with_dependencies(runs)) / 3600

    def is_done(self, run: Run) -> bool:
        """Return whether a run has a result and, for a teacher, the store has its outputs for all clips.

        Args:
            run: The run.

        Raises:
            DataError: If there is a result of other outputs of its teacher, or of a teacher of another recipe.
        """
        file, made = self.path(run, ".json"), self.path(run, ".method.json")
        if (own := self.own(run)) and made.exists():  # also of a training that was interrupted
            advice = (
                f"Delete {made.with_suffix('').stem}.* beside it to train anew, or use another folder than {self.out}."
            )
            files.require_same_run(made, files.read_json(made), own.record(), advice)
        if not file.exists():
            return False
        if run.method != "teacher":
            if now := self.provenance(run):  # The bench's own teacher may still have to write its outputs.
                before = {"outputs": self.result(run).get("outputs", {})}
                files.require_same_run(file, before, now, f"Delete it, or use another folder than {self.out}.")
            return True
        if run.teacher in self.teachers and "recipe" in (before := self.result(run)):
            now = {"recipe": self.teachers[run.teacher].record()}
            advice = f"Give the teacher another name, or use another folder than {self.out}."
            files.require_same_run(file, {"recipe": before["recipe"]}, now, advice)
        store = data.ClipStore(self.store)
        arrays = (f"{run.outputs}.feature", f"{run.outputs}.logits")
        return all(name in store.names and store.done(name).all() for name in arrays)

    def provenance(self, run: Run) -> dict[str, Any]:
        """Return the fingerprints of the teacher outputs that a run learns from, to be kept with its result.

        Args:
            run: The run; {} if it has no teacher or is one.
        """
        if run.teacher is None or run.method == "teacher":
            return {}
        store, reads = data.ClipStore(self.store), [f"{run.outputs}.{kind}" for kind in ("feature", "logits")]
        return {"outputs": self.train_clips(store).fingerprints(reads)} if set(reads) <= set(store.names) else {}

    def train_and_evaluate(self, run: Run) -> str:
        """Train a run unless it is trained, evaluate it, write the result, and return a line that describes it.

        If another process works on the same run in the same folder, wait for its result.

        Args:
            run: The run; its dependencies must be finished.
        """
        self.path(run).parent.mkdir(parents=True, exist_ok=True)
        with files.work_lock(self.path(run)):
            if self.is_done(run):
                return "done by another process"
            return self._train_and_evaluate(run)

    def _train_and_evaluate(self, run: Run) -> str:
        path, start_time = self.path(run), time.monotonic()
        train, test = self.splits(run)
        settings = self.settings(run)
        if path.exists():  # Interrupted between training and evaluation.
            model = self.load(run)
            model.sampling = run.sampling
        else:
            torch.manual_seed(run.seed)
            model = self.build(run, train)
            if own := self.own(run):  # after what a mistake in it may raise
                files.write_json(self.path(run, ".method.json"), own.record())
            model.sampling = run.sampling
            validation = None
            if run.method == "teacher" and self.validation is not None:
                validation = data.ClipStore(self.store).split(self.validation)
            self.fit(run, model, train, settings, validation)
            self.save(run, model)
        own_loop = self.own(run) is not None and not files.log_path(files.training_file(path)).exists()
        precision = "" if own_loop else logged_precision(files.training_file(path))
        files.training_file(path).unlink(missing_ok=True)
        if run.method == "teacher":
            model.name = run.outputs
            teachers.extract(
                model,
                data.ClipStore(self.store),
                batch_size=32,
                precision=precision,
                device=self.device,
                progress=self.progress,
            )
        # An earlier process may have trained a part.
        seconds = max(time.monotonic() - start_time, logged_seconds(files.training_file(path), len(train)))
        result: dict[str, Any] = {"run": asdict(run), "seconds": seconds, "precision": precision}
        result |= {"recipe": self.teachers[run.teacher].record()} if run.method == "teacher" else self.provenance(run)
        summary = "trained"
        if not is_stage_1(run):
            with record_policy_gmacs(model) as gmacs:
                found = inference.evaluate(model, test, device=self.device, precision="fp32", progress=False)
            result |= {"top1": found.top1, "per_class": found.per_class, "segments": len(found.labels)}
            result["confusion"] = found.confusion.tolist()
            result |= outcome_record(found, test)
            summary = f"top-1 {100 * found.top1:.1f} %" if self.shows_accuracy else "trained and evaluated"
            if gmacs:
                result["gmacs"] = sum(gmacs) / len(test)
        files.write_json(self.path(run, ".json"), result)
        return f"{summary} ({seconds:.0f} s)"

    def build(self, run: Run, store: Any, trained: bool = True) -> nn.Module:
        """Return a new network for a run, or the one that an earlier stage trained.

        Args:
            run: The run.
            store: Its training clips.
            trained: Let the network start from what earlier runs trained; False: from random weights.
        """
        if run.method == "teacher":
            return build_teacher(self.teachers[run.teacher], run.outputs, store)
        if trained and self.has_stage_1(run):
            return self.load(stage_1(run))
        student, own = self.protocol.recipe.student, self.own(run)
        width = store.read(f"{run.outputs}.feature", [0]).shape[1] if run.teacher else student.feature_dim
        if run.method in BASELINES:
            model = self.build_baseline(run, store, width)
        else:
            uses_imu = own is not None or run.method in ("VisIMU", "EgoDistill", "stage 1")
            encoder = student.imu_encoder if uses_imu else None
            student = replace(student, num_frames=run.frames, imu_encoder=encoder)
            clips: dict[str, Any] = {
                "feature_dim": width,
                "frame_size": store.settings["frame_size"],
                "sampling": run.sampling,
                "exact": store.settings["exact"],
                "tolerance": store.settings.get("tolerance", 0.0),  # older stores lack it
                "imu_axes": batches.stored_axes(store),
            }
            if own:
                student = replace(student, imu_encoder="cnn", fusion=None, student_class=None)
                bound = getattr(own.build, "keywords", {})  # those of a partial, which ours would override
                arguments = student.arguments() | clips | bound
                try:
                    inspect.signature(own.build).bind(len(store.class_names), **arguments)
                except (TypeError, ValueError) as error:  # ValueError: those of a partial
                    raise EgoDistillError(
                        f"{own.name}: build does not take the arguments of EgoDistill ({error}); let it take **others, "
                        f"and bind only its own in a partial"
                    ) from error
                model = own.build(len(store.class_names), **arguments)
                if not isinstance(model, nn.Module):
                    raise EgoDistillError(f"{own.name}: build returns a {type(model).__name__}, not a torch.nn.Module")
                for name in ("num_frames", *clips):  # what `measure()` and tables ask a network
                    if not hasattr(model, name):
                        setattr(model, name, clips.get(name, run.frames))
            else:
                model = student.build(len(store.class_names), **clips)
        if trained and self.has_start(run):
            self.load_start(run, model)
        return model

    def load_start(self, run: Run, model: nn.Module) -> None:
        """Load the image encoder that replaces ImageNet weights. Raise EgoDistillError if it is another network.

        Args:
            run: The run.
            model: Its network.
        """
        weights = self.start(run).state_dict()
        try:
            encoder = model.get_submodule("image" if run.method == "ListenToLook" else "image_encoder")
            encoder.load_state_dict(weights)
        except (AttributeError, RuntimeError) as error:
            raise EgoDistillError(
                f"{run.method}: its image_encoder is not that of the students, from which it would start; build it "
                f"from the arguments, or give Method(..., start=False)"
            ) from error

    def build_baseline(self, run: Run, store: Any, width: int) -> baselines.Baseline:
        """Return a new baseline.

        Args:
            run: The run.
            store: Its training clips.
            width: D, the size of ListenToLook's feature.
        """
        kind, _, variant = run.method.partition(" ")
        classes = len(store.class_names)
        options = {"num_frames": run.frames, "frame_size": store.settings["frame_size"]}
        if kind == "AdaFuse":
            return build_adafuse(classes, asdict(self.protocol.adafuse) | options)
        if kind == "ListenToLook":
            settings = asdict(self.protocol.listen_to_look)
            return listen_to_look.ListenToLook(classes, feature_dim=width, **settings, **options)
        settings = asdict(self.protocol.stts)
        model = stts.STTS(classes, **settings, **options, **stts.STTS_VARIANTS[variant])
        if self.protocol.narrow:
            init_narrow(model, model.head)
        return model

    def fit(self, run: Run, model: Any, store: Any, settings: Training, validation: Any = None) -> None:
        """Train a run's model with the stage that its settings are for, or that of its method.

        Args:
            run: The run.
            model: Its network.
            store: The training clips.
            settings: The settings of the stage.
            validation: With them, the best epoch on these clips is kept, for teachers.
        """
        own = self.own(run)
        if isinstance(settings, PretrainingSettings):
            partly = run.share is not None and run.stage_1_on == "all"
            rows = taught_rows(run, len(store)) if partly else None
            distillation.pretrain_imu(model, store, settings, teacher=run.outputs, teacher_rows=rows)
        elif isinstance(settings, DistillationSettings):
            (own.stage if own else distillation.distill)(model, store, settings, teacher=run.outputs)
        else:
            (own.stage if own else distillation.finetune)(model, store, settings, validation=validation)

    def start(self, run: Run) -> nn.Module:
        """Return the image encoder that replaces ImageNet weights.

        Args:
            run: The run that starts from it; there is one encoder per seed.
        """
        return self.load(Run("start", run.seed)).get_submodule("image_encoder")

    def settings(self, run: Run) -> Training:
        """Return the settings of the stage that trains a run.

        Args:
            run: The run.
        """
        recipe, without, own = self.protocol.recipe, run.without, self.own(run)
        settings: Training = recipe.finetuning
        if run.method == "teacher":
            settings = self.teachers[run.teacher].training
        elif is_stage_1(run):
            stage = recipe.pretraining
            nce = 0.0 if "nce" in without else stage.nce_weight
            l1 = 0.0 if "pretrain_l1" in without else stage.l1_weight
            settings = replace(stage, nce_weight=nce, l1_weight=l1)
        elif run.method in DISTILLED or (own and own.taught):
            stage = recipe.distillation
            alpha = 1.0 if "gt" in without else 0.0 if "kd" in without else stage.alpha
            settings = replace(stage, alpha=alpha, beta=0.0 if "l1" in without else stage.beta)
        alone = run.method in BASELINES or own is not None
        if alone and recipe.student.image_weights is None and not self.has_start(run):
            settings = replace(settings, epochs=2 * settings.epochs)  # See the protocol in the module's docstring.
        settings = distillation.change_settings(type(settings), settings, self.protocol.changes.get(run.method, {}))
        if run.share is not None:
            settings = replace(settings, epochs=self.epochs_of_share(run, settings))
        file = files.training_file(self.path(run))
        return replace(settings, seed=run.seed, device=self.device, progress=self.progress, checkpoint=file)

    def epochs_of_share(self, run: Run, settings: Training) -> int:
        """Return the epochs of a stage with which all runs of one share take equally many steps.

        Args:
            run: A run with a share.
            settings: The settings of its stage, with the epochs of a run without one.
        """
        clips = len(self.train_clips(data.ClipStore(self.store)))
        share, first = max(1, round(run.share * clips)), replace(run, share=None, without=())
        if is_stage_1(run):
            steps = settings.epochs * math.ceil(clips / settings.batch_size)
            return settings.epochs if run.stage_1_on == "all" else round(steps / math.ceil(share / settings.batch_size))
        if self.own(run) or run.method != "EgoDistill" or self.has_stage_1(run):
            return settings.epochs
        before = self.settings(stage_1(first))
        steps = before.epochs * math.ceil(clips / before.batch_size)
        return settings.epochs + round(steps / math.ceil(share / settings.batch_size))


def taught_rows(run: Run, clips: int) -> np.ndarray:
    """Return which training clips have outputs of the teacher in a run with a share of them, bool [clips].

    A smaller share is a part of a larger one of the same seed.
    """
    order = np.random.default_rng(run.seed).permutation(clips)
    rows = np.zeros(clips, bool)
    rows[order[: max(1, round(run.share * clips))]] = True
    return rows


def samplings(store: data.ClipStore, frames: int) -> list[str]:
    """Return the ways in which a store's sets of this number of frames are chosen."""
    names = {rule: frames_name(ClipSpec(frames=frames, sampling=rule)) for rule in video.SAMPLING}
    return [rule for rule, name in names.items() if name in store.names]


def outcome_record(found: inference.Evaluation, test: Any) -> dict[str, Any]:
    """Return what a result keeps of each test segment, for `contrasts.read_outcome()`."""
    correct = contrasts.split_by_wearer(found.correct.numpy(), found.wearers)
    return {"test": contrasts.segments_record(test)["digest"], "correct": contrasts.pack(correct)}


def require_files(methods: Sequence[Method]) -> None:
    """Raise EgoDistillError for a method that another process cannot build: it is not in a file, but in a notebook."""
    for method in methods:
        content = None
        with contextlib.suppress(AttributeError, TypeError, pickle.PicklingError):
            content = pickle.dumps(method)
        if content is None or (b"__main__" in content and not hasattr(sys.modules["__main__"], "__file__")):
            raise EgoDistillError(
                f"{method.name}: other processes cannot read its functions; write them as named functions into a "
                f"file, and import it, or leave out jobs"
            )


def init_worker(threads: int, sources: Mapping[str, str]) -> None:
    """Set a worker's number of threads, and exit with the parent: else a worker would wait forever if it is killed.

    `sources` are the files of the methods, which are imported.
    """
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import_again(sources)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def stage_1(run: Run) -> Run:
    """Return the run of stage 1 that a run of EgoDistill, or of a method of one's own, starts from."""
    without = tuple(loss for loss in run.without if loss in STAGE_1_LOSSES)
    return replace(run, method=stage_1_of(run.method), without=without)


def stage_1_of(method: str) -> str:
    """Return the name of the runs of stage 1 of a method."""
    return "stage 1" if method == "EgoDistill" else f"stage 1 of {method}"


def is_stage_1(run: Run) -> bool:
    """Return whether a run is one of stage 1."""
    return run.method == "stage 1" or run.method.startswith("stage 1 of ")


def file_stem(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text).lower()


def build_teacher(how: TeacherRecipe, name: str, store: Any) -> teachers.Teacher:
    """Return a new teacher with random weights for the store's clips."""
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
        init_narrow(teacher, teacher.classifier)
    return channels_last(teacher)


def init_narrow(transformer: nn.Module, classifier: nn.Module) -> None:
    """Initialize a narrow transformer with larger weights than published.

    The published standard deviation of 0.02 is meant for a width of 768. With a width of 16 to 200, little but the mean
    of the clip passes through the network until its weights have grown, which takes epochs.
    """
    for layer in transformer.modules():
        if isinstance(layer, nn.Linear) and layer is not classifier:
            nn.init.normal_(layer.weight, std=0.6 * layer.in_features**-0.5)
    for name, parameter in transformer.named_parameters():
        if re.search(r"(^|\.)(cls_token|pos_embed|temp_embed)", name):
            nn.init.normal_(parameter, std=0.2)  # as large as a token; 0.02 would be a thirtieth of it


def build_adafuse(classes: int, options: dict[str, Any]) -> adafuse.AdaFuse:
    """Return AdaFuse at any size, with the weight of its efficiency loss scaled to the size of the network.

    The loss is in GFLOPs; with the published weight it would have no effect on a small network.
    """
    model = adafuse.AdaFuse(classes, **options)
    published = 4.147  # GFLOPs per frame of the released model, whose weight is 0.125
    share = published / (model.frame_macs / 1e9)
    return model if 0.95 < share < 1.05 else adafuse.AdaFuse(classes, **options, efficiency_weight=0.125 * share)


@contextlib.contextmanager
def record_policy_gmacs(model: nn.Module) -> Iterator[list[float]]:
    """Yield a list to which each forward pass of AdaFuse appends the GFLOPs that its decisions need, over all clips.

    They are the published count, "upb" of `adafuse.Gflops`. The list stays empty for other models.
    """
    gmacs: list[float] = []
    if not isinstance(model, adafuse.AdaFuse):
        yield gmacs
        return
    hook = model.register_forward_hook(lambda model, _, output: gmacs.append(model.gflops().upb * len(output.logits)))
    try:
        yield gmacs
    finally:
        hook.remove()


def logged_precision(checkpoint: str | os.PathLike) -> str:
    """Return the precision in the history beside a checkpoint. Raise DataError if it names none."""
    rows = list(files.read_lines(files.log_path(checkpoint), "precision"))
    if not rows:
        raise DataError(
            f"{files.log_path(checkpoint)}: names no precision of a training; delete the model or checkpoint beside it "
            f"to train again"
        )
    return rows[-1]["precision"]


def logged_seconds(checkpoint: str | os.PathLike, clips: int) -> float:
    """Return about how many seconds the epochs in the history beside a checkpoint took, each of `clips` clips.

    An epoch in which a process had nothing left to do has no rate, and does not count.
    """
    rates = [row["clips_per_second"] for row in files.read_lines(files.log_path(checkpoint), "clips_per_second")]
    return sum(clips / rate for rate in rates if rate > 0)
