"""The training loop of all stages: settings, shuffled batches, checkpoints, several processes.

    from egodistill import training

    settings = training.Training(epochs=50, checkpoint="run.training")
    history = training.train(objective, store, settings)

An `Objective` is a module that holds the model and computes the losses of a batch. `distillation` has the objectives of
the paper's stages; `train()` shows one of your own.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .engine import augmentation, batches, checkpoints, distributed, runtime
from .engine.batches import Augment, Store
from .engine.calibration import Calibration, calibration_of
from .engine.distributed import Share
from .engine.recipes import Training, TrainingOptions
from .engine.steps import accepts_missing_input
from .support import files
from .support.defaults import MIN_CALIBRATION_CLIPS
from .support.errors import DataError, EgoDistillError, NoteWarning, named
from .support.tables import pluralize

__all__ = ["History", "Objective", "Training", "TrainingOptions", "fold_seed", "train"]

TRAINING_FORMAT = "egodistill training 2"
SPEEDS = ("clips_per_second", "loader_share")  # of the history; a model file has no times, so that its bytes repeat
SAME_RUN = (
    "Start again with the same model (built with the same seed, or loaded from the same file), clips and settings; or "
    f"give another path; or train anew into this one with {named('overwrite', True)}."
)
UNSEEN_STEPS = 10  # whose values a device may keep before the loop waits for them
LEFT = 1e-3  # share of batch norm's statistics that may be of the start: a deep network multiplies it by layers
MOST_CLIPS = 2000  # from which they are computed anew

History = list[dict[str, float]]


class Batch(dict[str, Tensor]):
    """The arrays of a batch by name. Raise EgoDistillError for one that an objective does not read."""

    def __missing__(self, name: str) -> Tensor:
        raise EgoDistillError(f"the batch has no {name!r}; the objective reads {', '.join(sorted(self))}")


class Objective(nn.Module):
    """Base class of what a stage trains: the model, the arrays that it reads, and the losses of a batch.

    Under torchrun, set `find_unused = True` (of the objective or its model) if a step can leave trained parameters
    without a gradient: it is DistributedDataParallel's `find_unused_parameters`. `train()` shows an example.

    `reads` are names of the store's arrays. Modules of the objective other than the model are trained, too. `record` is
    what must be equal for a run to be resumed, in addition to `Training.record()`; its "stage", without which
    EgoDistillError is raised, is the name of the stage in messages.
    """

    find_unused = False

    def __init__(self, model: nn.Module, reads: list[str], record: dict[str, Any]) -> None:
        super().__init__()
        if "stage" not in record:
            raise EgoDistillError(f"{type(self).__name__}: the record needs a 'stage', the name in messages")
        self.model, self.reads, self.record = model, reads, record

    @property
    def stage(self) -> str:
        """Return the name of the stage in messages."""
        return self.record["stage"]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return values per clip, each [b]: "loss", whose mean is minimized, and others to report.

        The batch has the arrays of `reads`, "label", "row", and "weight", which is 1, or 0 for clips that a process of
        torchrun only reads to take part in a step. "loss" must be 0 for a clip to which no term applies. Clips with NaN
        in another value are left out of its mean.
        """
        raise NotImplementedError

    def setup(self, store: Store, settings: Training) -> None:
        """Compute what the training needs; called once before the first step, when the objective is on its device."""

    def optimizer(self, parameters: list[nn.Parameter], settings: Training) -> torch.optim.Optimizer:
        """Return the optimizer; override it for another one, or for groups of parameters with rates of their own.

        The schedule multiplies the rate of each group.
        """
        return torch.optim.AdamW(
            parameters,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=parameters[0].device.type in ("cpu", "cuda"),
        )

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Do what an epoch ends with, in each process, before the run is saved; the default does nothing.

        `row` has the epoch's values, the last row of the history, and may get more.
        """

    def set_progress(self, done: float) -> None:
        """Pass the progress of the training, 0 to 1, to models that depend on it, such as STTS."""
        if hasattr(self.model, "set_progress"):
            self.model.set_progress(done)


def train(
    objective: Objective,
    store: Store,
    settings: Training,
    validation: Store | None = None,
    calibration: Store | None = None,
) -> History:
    """Minimize an objective with AdamW over shuffled batches of a store; return one dict per epoch.

    With `settings.checkpoint`, a run that was killed continues from the last saved step when it is started again with
    the same arguments; other start weights, clips or teacher outputs are an error. On a CPU it ends with the same
    weights as an uninterrupted run, bit by bit, unless processor, threads, processes or the version of torch have
    changed, which it prints. A finished run is loaded. With `settings.out`, the model is written there at the end, with
    settings and history (without speeds), so that it is enough to know a finished run, and the checkpoint is removed.
    The history is also written beside the checkpoint, as one JSON line per epoch. With precision "auto", a run begins
    in the precision that suits the device, which it prints, and continues in that of its checkpoint.

    Training on several processes under torchrun computes the same losses and gradients as one process: each of K
    processes takes a share of every batch, and DistributedDataParallel averages the gradients. So a run may be resumed
    with another K. Batch norm is the exception: in training it sees only the clips of its process (unless
    `sync_batch_norm`), and after each step its running statistics are averaged over the processes, weighted by clips.
    Process 0 writes the files; all processes return the same history. After at most ten steps, batch norm goes on to
    update its statistics on all clips, and this is printed. Then the method `end_training(read, labels, groupings)` of
    each module that has one is called, in every process, for what no gradient trains; see `IMUFilterbank`. At the end,
    `model.trained_by` is the name of the stage, and `model.trained_with` has its settings and history; model files keep
    both.

    A store has two clips or more. A warning says if some of them, but not all, are of the split test. `validation` are
    clips of the same classes that are not trained on. With them, the history also has the means of the objective's
    values on them, as "validation_loss" and so on, and the model ends with the weights of the epoch with the highest
    "validation_top1", or the lowest "validation_loss" if the objective has no "top1"; the earlier one of equal epochs.
    `calibration` are clips of the same classes that are neither trained on nor validated with. With 50 or more that
    have a label, the trained model gets a temperature, see `engine.calibration`; a training begins without one. Errors
    are those of `distillation.finetune()`.

    >>> from egodistill import EgoDistill, data, training
    >>> class MatchFeature(training.Objective):
    ...     def __init__(self, model):
    ...         super().__init__(model, ["frames_1", "imu", "x3d.feature"], {"stage": "match feature"})
    ...     def forward(self, batch):
    ...         feature = self.model(batch["frames_1"], batch["imu"]).feature
    ...         return {"loss": (feature - batch["x3d.feature"]).square().mean(1)}
    >>> store = data.ClipStore("store").split("train")
    >>> settings = training.Training(epochs=1, batch_size=8, progress=False)
    >>> history = training.train(MatchFeature(EgoDistill.load("student.safetensors")), store, settings)
    >>> len(history), history[0]["loss"] > 0
    (1, True)
    """
    if len(store) < 2:
        raise EgoDistillError(
            f"training needs at least 2 clips, but the store has {len(store)}; check its split, and its failed clips"
        )
    checkpoints.require_whole(objective.model)
    held_out = {"validation": validation, "calibration": calibration}
    for name, clips in held_out.items():
        if clips is not None:
            require_disjoint_clips(store, clips, name)
    splits = getattr(store, "splits", ())
    if "test" in splits and len(splits) > 1 and distributed.is_first():
        warnings.warn(
            f"the clips to train on are of the splits {' and '.join(splits)}, so the accuracy on test will be that on "
            f"clips it has learned; for one that counts, train on store.split('train') (--split train)",
            NoteWarning,
            stacklevel=4,  # the caller of a stage, whose decorator is one level
        )
    loop = TrainingLoop(objective, store, settings, **held_out)
    with loop.checkpoint_lock():
        loop.resume()
        loop.run()
        loop.write_result()
    return loop.history


PURPOSES = {"validation": "which epoch is best", "calibration": "how sure the model may be"}


def require_disjoint_clips(store: Store, clips: Store, name: str) -> None:
    """Raise EgoDistillError unless clips held out for a purpose are there, of the same classes, none trained on."""
    if not len(clips):
        raise EgoDistillError(f"{name} has no clips; check its split, and the store's failed clips")
    if list(clips.class_names) != list(store.class_names):
        raise EgoDistillError(
            f"{name} has the classes {files.shorten(list(clips.class_names))}, but the training clips have "
            f"{files.shorten(list(store.class_names))}; prepare both in one store, or with the same class_names"
        )
    ids = [{clip["id"] for clip in getattr(one, "clips", ())} for one in (store, clips)]
    if both := sorted(ids[0] & ids[1]):
        raise EgoDistillError(
            f"{len(both)} of the {name} clips are trained on, such as {both[0]}, so they cannot show {PURPOSES[name]}; "
            f"give a split of other wearers"
        )


def validation_score(values: Mapping[str, float]) -> float:
    """Return by what the best epoch is chosen: the accuracy on the validation clips, or else minus their loss."""
    return values["validation_top1"] if "validation_top1" in values else -values["validation_loss"]


class TrainingLoop:
    """State and steps of one call of `train()`."""

    def __init__(
        self,
        objective: Objective,
        store: Store,
        settings: Training,
        validation: Store | None = None,
        calibration: Store | None = None,
    ) -> None:
        self.store, self.settings, self.validation, self.calibration = store, settings, validation, calibration
        self.best: dict[str, Any] = {}  # epoch, score and weights of the best epoch on the validation clips
        self.device = runtime.pick_device(settings.device)
        if settings.augment != Augment() and not any(map(settings.augment.changes, objective.reads)):
            what = "head motion" if settings.augment.changes("imu") else "frames"
            raise EgoDistillError(
                f"{objective.stage} reads no {what}, so augment={settings.augment} would have no effect; leave it out"
            )
        distributed.join_processes(self.device)
        self.objective, self.motion = objective, None
        if settings.augment.motion:
            self.motion = augmentation.RecordedMotion(settings.augment.motion, *batches.imu_of(objective.model, store))
        prepare_modules(objective, self.device, settings.sync_batch_norm)
        self.trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        if not self.trained:
            raise EgoDistillError(f"{type(objective.model).__name__} has no parameters to train")
        self.find_unused = objective.find_unused or getattr(objective.model, "find_unused", False)
        self.parallel = distributed.parallel(objective, find_unused=self.find_unused)
        self.optimizer = objective.optimizer(self.trained, settings)
        self.rates = [group["lr"] / settings.learning_rate for group in self.optimizer.param_groups]
        self.out = Path(settings.out) if settings.out is not None else None
        self.is_result = False  # whether the weights are those of the file `out`
        self.is_foreign = False  # whether the checkpoint beside it is of another training
        checkpoint = files.training_file(self.out) if self.out and settings.checkpoint is None else settings.checkpoint
        self.path = Path(checkpoint) if checkpoint is not None else None
        if self.out is not None:
            checkpoints.file_content(objective.model, self.out)  # an error now, not after the last epoch
        if self.path is not None and self.path.suffix == files.MODEL_SUFFIX:
            raise EgoDistillError(
                f"{self.path}: the checkpoint of a training is no model file; leave out checkpoint for one beside out"
            )
        what = {"clips": len(store), "class_names": [str(name) for name in store.class_names]}
        what["validation clips"] = None if validation is None else len(validation)
        what |= {} if calibration is None else {"calibration clips": len(calibration)}
        self.about = objective.record | settings.record() | what
        if self.motion:
            self.about["checksum of the added motion"] = self.motion.fingerprint
        if self.path is not None:
            self.about |= {f"fingerprint of the {what}": value for what, value in self.fingerprints().items()}
        self.bits = runtime.numerics_record(self.device) | {"processes": distributed.rank_and_world_size()[1]}
        # Progress: epoch, step in the epoch, {value: [sum, weight] over these steps}, and the history of past epochs.
        self.epoch, self.step, self.sums, self.history = 0, 0, {}, []
        # Of steps that are not in the sums yet: the number, the clips' rows, names and table of the values.
        self.unseen: list[tuple[int, Tensor, list[str], Tensor]] = []
        self.patience = 1 if self.device.type == "cpu" or distributed.rank_and_world_size()[1] > 1 else UNSEEN_STEPS
        self.loss = math.nan  # of the last step in the sums
        self.saved = time.monotonic()

    def fingerprints(self) -> dict[str, str]:
        """Return hashes of the start weights and, if the store computes them, of the arrays that are read.

        The start weights are those of process 0. A call that resumes or loads a run must have the same hashes.
        """
        found = {"start weights": checkpoints.weights_fingerprint(self.objective)}
        held_out = (("validation ", self.validation), ("calibration ", self.calibration))
        for prefix, store in (("", self.store), *held_out):
            hashes = getattr(store, "fingerprints", None)
            if hashes is not None:
                found |= {prefix + name: value for name, value in hashes(self.objective.reads).items()}
        return found

    def checkpoint_lock(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which no other training uses the checkpoint; under torchrun, process 0 holds the lock.

        Entering it raises DataError if another training holds the lock.
        """
        if self.path is None or not distributed.is_first():
            return contextlib.nullcontext()
        busy = f"{self.path}: another process is training with this checkpoint; wait for its end, or use another one"
        return files.work_lock(self.path, busy)

    def resume(self) -> None:
        """Load the result or continue from the checkpoint of process 0. Raise DataError if it is from another run."""
        content = distributed.broadcast_object(self.earlier() if distributed.is_first() else {})
        self.use_precision(content["precision"])
        advice = "Start all processes with the same model, clips and settings."
        files.require_same_run("process 0", content["about"], self.about, advice)
        self.set_calibration(content.get("calibration", Calibration()))
        if "state" not in content:
            return
        self.is_result = content["source"] == str(self.out)
        if distributed.is_first():
            self.compare_bits(content)
        module = self.objective.model if self.is_result else self.objective
        checkpoints.load_strictly(module, content["weights"], content["source"])
        state = content["state"]
        self.best = content.get("best", {})
        if self.is_unfinished(content):
            self.optimizer.load_state_dict(content["optimizer"])
            self.scaler.load_state_dict(content.get("scaler", {}))
            if self.settings.progress and distributed.is_first():
                print(f"{self.path}: continuing from epoch {state['epoch'] + 1}", file=sys.stderr)
        self.epoch, self.step, self.sums, self.history = (state[name] for name in ("epoch", "step", "sums", "history"))

    def earlier(self) -> dict[str, Any]:
        """Return what the result or the checkpoint of this training contains, else only "about" and "precision".

        Raise DataError if they are of another training, unless it may be overwritten, or if the log is another file.
        """
        if self.path is not None:
            files.require_log(self.path)
        other, checkpoint = "", self.read_checkpoint()
        for content in filter(None, (self.read_result(), checkpoint)):
            self.about["precision"] = self.pick_precision(content)
            now = self.about | (self.built() if content["source"] == str(self.out) else {})
            changes = files.list_differences(content["about"], now)
            if not changes:
                self.note_checkpoint(checkpoint)
                return content | {"about": self.about, "precision": self.about["precision"]}
            other = f"{content['source']}: was begun with other settings: {changes}"
        if other and not self.settings.overwrite:
            raise DataError(f"{other}. {SAME_RUN}")
        if other:
            print(f"{other}. Training anew, as {named('overwrite', True)} says.", file=sys.stderr)
        self.about["precision"] = self.pick_precision({"about": {}})
        return {"about": self.about, "precision": self.about["precision"]}

    def note_checkpoint(self, checkpoint: Mapping[str, Any] | None) -> None:
        """Say that a checkpoint of another training stays, which `overwrite` had begun and which was interrupted."""
        changes = files.list_differences(checkpoint["about"], self.about) if checkpoint else ""
        if changes:
            self.is_foreign = True
            print(
                f"{self.path}: stays; it is of an interrupted training with other settings: {changes}", file=sys.stderr
            )

    def read_checkpoint(self) -> dict[str, Any] | None:
        """Return the content of the checkpoint, if there is one."""
        if self.path is None or not self.path.exists():
            return None
        return checkpoints.read_checkpoint(self.path, TRAINING_FORMAT) | {"source": f"the checkpoint {self.path}"}

    def read_result(self) -> dict[str, Any] | None:
        """Return what `out` contains, as of a finished checkpoint; None if there is nothing, or what may be replaced.

        Raise DataError for a file that is not the result of a training, unless its checkpoint is beside it.
        """
        if self.out is None or not self.out.exists():
            return None
        replaces = self.settings.overwrite or (self.path is not None and self.path.exists())
        try:
            model: Any = checkpoints.load_model(
                self.out, type(self.objective.model), custom_parts(self.objective.model)
            )
        except EgoDistillError:
            if replaces:
                return None
            raise
        if model.trained_with is None:
            if replaces:
                return None
            raise DataError(f"{self.out}: does not say with which settings it was trained. {SAME_RUN}")
        history = model.trained_with["history"]
        return {
            "source": str(self.out),
            "about": model.trained_with["about"],
            "weights": model.state_dict(),
            "calibration": calibration_of(model),
            "state": {"epoch": len(history), "step": 0, "sums": {}, "history": history},
        }

    def built(self) -> dict[str, Any]:
        """Return what else a result must share with this training: how the model is built, and how much is trained."""
        model: Any = self.objective.model
        try:
            arguments = checkpoints.plain(model.arguments)
        except (AttributeError, EgoDistillError):  # a network of one's own
            arguments = None
        return {"model": arguments, "trained": sum(value.requires_grad for value in self.objective.parameters())}

    def write_result(self) -> None:
        """Note on the model how it was trained, write it to `out` unless it is from there, remove the checkpoint."""
        model: Any = self.objective.model
        if self.calibration is not None and not self.is_result:
            first = distributed.is_first()
            self.set_calibration(distributed.broadcast_object(self.calibrate(self.calibration) if first else None))
        model.trained_by = self.objective.stage
        history = [{name: value for name, value in row.items() if name not in SPEEDS} for row in self.history]
        # By way of JSON: a pickle writes equal strings once if they are one object, which is not so in a resumed run.
        record = {"about": self.about | self.built(), "history": history}
        record |= {"added motion": self.settings.augment.motion} if self.motion else {}
        model.trained_with = json.loads(json.dumps(record))
        if self.out is not None and distributed.is_first():
            if not self.is_result:
                checkpoints.save_model(model, self.out)
            if self.path is not None and not (self.settings.keep_checkpoint or self.is_foreign):
                self.path.unlink(missing_ok=True)

    def set_calibration(self, found: Calibration) -> None:
        """Give the model a calibration; the attribute of a network of one's own stays if nothing is fitted."""
        model: Any = self.objective.model
        if found != calibration_of(model):
            model.calibration = found

    @torch.no_grad()
    def calibrate(self, clips: Store) -> Calibration:
        """Return the calibration of the trained model on clips that it has not learned from, and print it."""
        model: Any = self.objective.model
        labels = torch.from_numpy(batches.labels_of(clips))
        rows = (labels >= 0).nonzero()[:, 0]
        if batches.count_scores(model, clips) != len(clips.class_names):  # "unsure" has a limit of its own
            rows = rows[:0]

        found = self.fitted(model, clips, rows, labels)
        if found.clips and accepts_missing_input(model):
            alone = {one: model.without(other) for one, other in itertools.permutations(model.inputs)}
            alone = {name: self.fitted(own, clips, rows, labels).temperature for name, own in alone.items()}
            found = replace(found, alone=alone)
        if self.settings.progress:
            text = f"temperature {found.temperature:.3g}, fitted on {pluralize(found.clips, 'clip')} held out for it"
            few = f"no temperature is fitted: {pluralize(len(rows), 'clip')} held out for it, and "
            few += f"{MIN_CALIBRATION_CLIPS} are needed"
            print_once(text if found.clips else few)
        return found

    @torch.no_grad()
    def fitted(self, model: Any, clips: Store, rows: Tensor, labels: Tensor) -> Calibration:
        """Return the calibration of a model on these rows of a store, of which `labels` has the classes of all."""
        names, logits = batches.arrays_of(model, clips), []
        with runtime.evaluation(model, self.device):
            for batch, _ in batches.read_batches(clips, names, rows, self.settings.batch_size, self.device):
                output = model(*(batch[name] for name in names))
                logits.append(batches.as_output(model, output).logits.float().cpu())
        return Calibration.fitted(torch.cat(logits), labels[rows]) if logits else Calibration()

    def use_precision(self, precision: Any) -> None:
        """Use the precision of process 0, which the checkpoint records, so a run continues in it on any machine."""
        self.about["precision"] = precision
        self.settings = replace(self.settings, precision=precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def pick_precision(self, content: Mapping[str, Any]) -> str:
        """Return the precision; "auto" is that of the checkpoint, if there is one, or else what suits the device."""
        wanted, begun = self.settings.precision, content["about"].get("precision")
        if wanted == "bf16" and self.device.type == "cpu" and (layer := runtime.trained_conv3d(self.objective)):
            raise EgoDistillError(
                f"{self.objective.stage}: on CPUs, torch's bf16 gradients of 3-D convolutions such as {layer} are "
                f"wrong; train with {named('precision', 'fp32')}, or on a GPU"
            )
        if wanted != "auto":
            return runtime.pick_precision(self.device, wanted, self.objective)
        precision, reason = runtime.pick_training_precision(self.device, self.objective)
        if begun not in runtime.DTYPES:
            if self.settings.progress:
                print_once(f"Training in {precision}, because {reason}.")
            return precision
        if begun != precision and self.is_unfinished(content):
            print_once(
                f"{self.path}: continuing in {begun}, as it began; here it would begin in {precision}, because {reason}"
            )
        return begun

    def is_unfinished(self, content: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint has epochs left to train."""
        return "state" in content and content["state"]["epoch"] < self.settings.epochs

    def compare_bits(self, content: Mapping[str, Any]) -> None:
        """Say why a run that continues may end with other bits than an undisturbed one."""
        different = files.differences(content.get("bits", self.bits), self.bits)
        if different and self.is_unfinished(content):
            changes = [f"{name} was {old!r} and is now {new!r}" for name, (old, new) in different.items()]
            print_once(
                f"{self.path}: {'; '.join(changes)}. So the weights may differ in their last bits from those of an "
                f"undisturbed run"
            )

    def run(self) -> History:
        """Train the remaining epochs."""
        clips, epochs = len(epoch_order(len(self.store), self.settings, 0)), self.settings.epochs
        done = self.epoch * clips + self.step * self.settings.batch_size
        if self.epoch < epochs:
            self.objective.setup(self.store, self.settings)
        show = self.settings.progress and distributed.is_first() and self.epoch < epochs
        title = f"{self.objective.stage}, {pluralize(epochs, 'epoch')} of {clips} clips"
        try:
            with files.Progress(title, clips * epochs, done=done, show=show) as bar:
                while self.epoch < epochs:
                    self.run_epoch(bar)
        finally:
            self.parallel = self.objective  # An error keeps this object alive; see `distributed.leave_processes()`.
        self.objective.eval()
        return self.history

    def run_epoch(self, bar: files.Progress) -> None:
        """Train the remaining steps of an epoch, add the epoch to the history, and save."""
        order = epoch_order(len(self.store), self.settings, self.epoch)
        size, start_time = self.settings.batch_size, time.monotonic()
        rest = order[self.step * size :]
        waited = clips = 0
        reads, change = self.objective.reads, self.augment if self.settings.augment != Augment() else None
        for batch, wait in batches.read_batches(self.store, reads, rest, size, self.device, rank_rows, change):
            rows = order[self.step * size :][:size]
            self.run_step(batch, rows, self.epoch + self.step * size / len(order))
            self.step += 1
            waited += wait
            clips += len(rows)
            bar.step(len(rows), self.note())
            if time.monotonic() - self.saved > self.settings.checkpoint_seconds:
                self.save()
        self.add_values()
        seconds = max(time.monotonic() - start_time, 1e-9)  # The clock of Windows moves in steps of 15.6 ms.
        self.end_epoch(clips, seconds, waited)

    def note(self) -> str:
        """Return the end of the progress line: epoch, last known loss, and last accuracy on the validation clips."""
        loss = "" if math.isnan(self.loss) else f", loss {self.loss:{'.3f' if self.loss < 1000 else '.1e'}}"
        text = f"epoch {self.epoch + 1} of {self.settings.epochs}{loss}"
        last = self.history[-1].get("validation_top1") if self.history else None
        return text if last is None else f"{text}, validation {100 * last:.1f} %"

    def augment(self, batch: dict[str, Tensor]) -> None:
        """Augment a batch, with a seed per clip and epoch."""
        seeds = [fold_seed(self.settings.seed, self.epoch, row) for row in batch["row"].tolist()]
        augmentation.augment_batch(self.settings.augment, batch, seeds, self.motion)

    def run_step(self, batch: dict[str, Tensor], rows: Tensor, time_in_epochs: float) -> None:
        """Take one optimizer step. Raise EgoDistillError for a loss that is not finite, see `add_values()`."""
        share = Share.of(len(rows))
        self.prepare_step(batch, share, time_in_epochs)
        with self.seeded_step():
            values = self.forward(batch)
            table = torch.stack([*(value.detach() for value in values.values()), batch["weight"]])
            self.unseen.append((self.step, rows, list(values), table))
            if len(self.unseen) >= self.patience:
                self.add_values()
            self.backward(values["loss"], batch["weight"], share)
            self.clip_gradients()
            self.update_weights()

    def prepare_step(self, batch: dict[str, Tensor], share: Share, time_in_epochs: float) -> None:
        """Give the clips of a batch their weights, and set progress and learning rates."""
        batch["weight"] = share.weights(len(batch["row"]), self.device)
        if self.settings.sync_batch_norm:
            distributed.share_batch_norm(self.objective, share)
        self.objective.set_progress(time_in_epochs / self.settings.epochs)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.settings.learning_rate_at(time_in_epochs)

    @contextlib.contextmanager
    def seeded_step(self) -> Iterator[None]:
        """Seed torch in a step: each process has its own dropout, process 0 is seeded like a single process."""
        rank, _ = distributed.rank_and_world_size()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(fold_seed(self.settings.seed, self.epoch, self.step, *([rank] if rank else [])))
            yield

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the objective's values of this process's clips. Raise EgoDistillError unless each is [b]."""
        with distributed.distributed_errors(), runtime.autocast(self.device, self.settings.precision):
            values = self.parallel(Batch(batch))
        if not isinstance(values, dict) or "loss" not in values:
            found = f"values named {', '.join(values)}" if isinstance(values, dict) else f"a {type(values).__name__}"
            raise EgoDistillError(
                f"the objective returned {found}; return a dict of values per clip, with 'loss' in it"
            )
        require_per_clip(values, len(batch["weight"]))
        return values

    def add_values(self) -> None:
        """Add the values of unseen steps to the epoch's sums. Raise EgoDistillError unless each loss is finite.

        A GPU is waited for only here: once in `UNSEEN_STEPS` steps, at the end of an epoch and before a checkpoint. On
        the CPU and with several processes, this comes between forward and backward pass of each step.
        """
        unseen, self.unseen = self.unseen, []
        seen = torch.cat([table.flatten() for *_, table in unseen]).cpu() if unseen else torch.empty(0)
        for step, rows, names, table in unseen:
            part, seen = seen.tensor_split([table.numel()])
            sums = weighted_sums(names, part.view_as(table), self.device)
            self.loss = sums["loss"][0] / sums["loss"][1]
            if not math.isfinite(self.loss):
                raise EgoDistillError(
                    f"{self.objective.stage}: the loss is {self.loss} in epoch {self.epoch}, step {step} "
                    f"(clips {batches.clip_ids(self.store, rows)}). Lower the learning rate, or check the inputs of "
                    f"these clips.{self.checkpoint_note()}"
                )
            for name, pair in sums.items():
                self.sums[name] = [a + b for a, b in zip(self.sums.get(name, (0.0, 0.0)), pair, strict=True)]

    def backward(self, losses: Tensor, weight: Tensor, share: Share) -> None:
        """Compute the gradients of the mean loss of all processes, and average their statistics of batch norm."""
        _, processes = distributed.rank_and_world_size()
        self.optimizer.zero_grad(set_to_none=True)
        with distributed.distributed_errors():  # DistributedDataParallel averages over the processes.
            self.scaler.scale((weight * losses).sum() * processes / share.total).backward()
        if self.unseen:  # so is this loss; if it is not finite, the weights learn nothing from it
            spoilt = ~losses.detach().isfinite().all()
            for gradient in (parameter.grad for parameter in self.trained if parameter.grad is not None):
                gradient.masked_fill_(spoilt, 0.0)
        if processes > 1 and not self.find_unused:
            self.require_gradients()
        distributed.average_statistics(self.objective, (share.stop - share.start) / share.total)

    def clip_gradients(self) -> None:
        """Scale the gradients down to the largest norm of the settings."""
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trained, self.settings.clip_norm)

    def update_weights(self) -> None:
        """Let the optimizer take its step."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def require_gradients(self) -> None:
        """Raise EgoDistillError if a parameter has no gradient, because the other processes would wait for it."""
        missing = [
            name for name, value in self.objective.named_parameters() if value.requires_grad and value.grad is None
        ]
        if missing:
            raise EgoDistillError(
                f"{self.objective.stage}: {len(missing)} trained parameters such as {missing[0]} have no gradient. "
                f"For several processes, set the attribute `find_unused = True` of the model, or freeze the parameters"
            )

    def end_epoch(self, clips: int, seconds: float, waited: float) -> None:
        """Add the means of an epoch to the history, and save."""
        seconds, waited = distributed.sum_over_processes([seconds, waited], self.device)
        self.history.append(
            {name: total / weight if weight else math.nan for name, (total, weight) in self.sums.items()}
            | {
                "learning_rate": self.settings.learning_rate_at(self.epoch + 0.5),
                "clips_per_second": clips * distributed.rank_and_world_size()[1] / seconds,
                "loader_share": waited / seconds,
            }
        )
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        if self.epoch == self.settings.epochs:
            self.settle_statistics()
        if self.validation is not None:
            self.history[-1] |= self.validate(self.validation)
        if self.epoch == self.settings.epochs:
            for module in self.objective.modules():
                if hasattr(module, "end_training"):
                    read = functools.partial(batches.read_rows, self.store, "imu")
                    labels, groupings = batches.labels_of(self.store), batches.groups_of(self.store)
                    cast(Any, module).end_training(read, labels, groupings)
        self.objective.end_epoch(self.history[-1])
        # Before the checkpoint, which may mark the run as finished.
        if self.path is not None and distributed.is_first():
            about = {"precision": self.settings.precision}
            lines = []
            for number, row in enumerate(self.history, 1):
                finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
                lines.append(json.dumps({"epoch": number} | finite | about, allow_nan=False) + "\n")
            with files.atomic_write(files.log_path(self.path), through_link=False) as part:
                part.write_text("".join(lines), encoding="utf-8")
        self.save()

    @torch.no_grad()
    def validate(self, clips: Store) -> dict[str, float]:
        """Return the means of the objective's values on these clips, as "validation_NAME".

        After the last epoch, go back to the weights of the best one. Under torchrun, process 0 computes the means.
        Raise EgoDistillError if the value that decides which epoch is best is not finite.
        """
        means: dict[str, float] = {}
        if distributed.is_first():
            self.objective.eval()
            means = self.means_on(clips, torch.arange(len(clips)))
            self.objective.train()
            runtime.keep_frozen_statistics(self.objective)
        means = distributed.broadcast_object(means)
        score = validation_score(means)
        if not math.isfinite(score):
            raise EgoDistillError(
                f"{self.objective.stage}: the loss or accuracy on the validation clips is {score} after epoch "
                f"{self.epoch}, so no epoch is the best. Check the labels and inputs of these clips."
                f"{self.checkpoint_note()}"
            )
        if not self.best or score > self.best["score"]:
            weights = {name: value.detach().clone() for name, value in self.objective.state_dict().items()}
            self.best = {"epoch": self.epoch, "score": score, "weights": weights}
        if self.epoch == self.settings.epochs:
            checkpoints.load_strictly(self.objective, self.best["weights"], f"epoch {self.best['epoch']}")
        return means

    def means_on(self, clips: Store, rows: Tensor) -> dict[str, float]:
        """Return the means of the objective's values on rows of clips, as "validation_NAME"."""
        sums: dict[str, list[float]] = {}
        for values in self.values_on(clips, rows):
            for name, value in values.items():
                known = value[~value.isnan()].double()
                total, count = sums.get(name, (0.0, 0))
                sums[name] = [total + float(known.sum()), count + len(known)]
        return {f"validation_{name}": total / count if count else math.nan for name, (total, count) in sums.items()}

    def values_on(self, clips: Store, rows: Tensor) -> Iterator[dict[str, Tensor]]:
        """Yield the objective's values on rows of clips, batch by batch."""
        for batch, _ in batches.read_batches(clips, self.objective.reads, rows, self.settings.batch_size, self.device):
            batch["weight"] = torch.ones(len(batch["row"]), device=self.device)
            with runtime.autocast(self.device, self.settings.precision):
                values = self.objective(batch)
            yield values

    @torch.no_grad()
    def settle_statistics(self) -> None:
        """Compute batch norm's statistics anew on training clips if, by its momentum, it has seen too few steps.

        They are the means over batches of clips that are not augmented. Kept are those with which the validation clips,
        or without any these, are answered better: the new ones, or those of the training.
        """
        rows = epoch_order(len(self.store), self.settings, 0)
        steps = self.epoch * -(-len(rows) // self.settings.batch_size)
        norms = [one for one in self.objective.modules() if isinstance(one, runtime.BATCH_NORMS) and one.training]
        norms = [one for one in norms if one.momentum and (1 - one.momentum) ** steps > LEFT]
        if not norms:
            return
        rows, clips = rows[:MOST_CLIPS], self.store if self.validation is None else self.validation
        judged = rows if self.validation is None else torch.arange(len(clips))
        self.objective.eval()
        before = [(one.momentum, copy.deepcopy(one.state_dict())) for one in norms]
        score = validation_score(self.means_on(clips, judged))
        for norm in norms:
            norm.reset_running_stats()
            norm.train().momentum = None  # the mean over batches
        for _ in self.values_on(self.store, rows):
            pass
        self.objective.eval()
        is_better = distributed.broadcast_object(not validation_score(self.means_on(clips, judged)) < score)
        for norm, (momentum, state) in zip(norms, before, strict=True):
            norm.train().momentum = momentum
            if not is_better:
                norm.load_state_dict(state)
        if self.settings.progress and distributed.is_first():
            found = "are computed anew on" if is_better else "stay, because new ones are no better for"
            told = f"{pluralize(steps, 'step')} are few for batch norm: its statistics {found}"
            print_once(f"{told} {pluralize(len(rows), 'training clip')}")

    def save(self) -> None:
        """Write the checkpoint in process 0. Raise EgoDistillError if a loss or weights are infinite or NaN."""
        self.add_values()
        if not torch.stack([parameter.isfinite().all() for parameter in self.trained]).all():
            raise EgoDistillError(
                f"{self.objective.stage}: weights are no longer finite in epoch {self.epoch}, step {self.step}. Lower "
                f"the learning rate{self.other_precision()}.{self.checkpoint_note()}"
            )
        if self.path is not None and distributed.is_first():
            state = {"epoch": self.epoch, "step": self.step, "sums": self.sums, "history": self.history}
            content = {
                "format": TRAINING_FORMAT,
                "about": self.about,
                "bits": self.bits,
                "state": state,
                "weights": self.objective.state_dict(),
            }
            if self.best:
                content["best"] = self.best if self.epoch < self.settings.epochs else self.best | {"weights": {}}
            if self.epoch < self.settings.epochs:  # It is twice as large as the weights, and a finished run needs none.
                content["optimizer"] = self.optimizer.state_dict()
                content["scaler"] = self.scaler.state_dict()
            checkpoints.write_checkpoint(self.path, content)
        self.saved = time.monotonic()

    def other_precision(self) -> str:
        """Return the advice to train in fp32, for a message, or "" if the training is in fp32."""
        return "" if self.about["precision"] == "fp32" else f", or train with {named('precision', 'fp32')}"

    def checkpoint_note(self) -> str:
        """Return a sentence about the last checkpoint for an error message."""
        return f" The last checkpoint, {self.path}, is kept." if self.path is not None and self.path.exists() else ""


def require_per_clip(values: Mapping[str, Any], clips: int) -> None:
    """Raise EgoDistillError unless each value is a tensor with one value for each clip of a batch."""
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.shape != (clips,):
            given = f"with shape {list(value.shape)}" if isinstance(value, Tensor) else f"as a {type(value).__name__}"
            raise EgoDistillError(
                f"the objective returned {name!r} {given} for a batch of {clips} clips; return one value per clip, a "
                f"tensor [{clips}]"
            )


def weighted_sums(names: list[str], table: Tensor, device: torch.device) -> dict[str, list[float]]:
    """Return the weighted sum of each value over the clips of all processes, and the sum of the weights.

    Rows of the table, [values + 1, b] on the CPU, are the values; the last has the weights. Clips with NaN in a value
    are left out of its sums, except for the loss.
    """
    values, weight = table[:-1].double(), table[-1].double()
    known = ~values.isnan()
    known[names.index("loss")] = True
    weights = torch.where(known, weight, 0.0)
    pairs = torch.stack([torch.where(weights > 0, weights * values, 0.0).sum(1), weights.sum(1)], dim=1)
    summed = distributed.sum_over_processes(pairs.flatten().tolist(), device)
    return {name: summed[2 * place : 2 * place + 2] for place, name in enumerate(names)}


def prepare_modules(objective: Objective, device: torch.device, sync_batch_norm: bool) -> None:
    """Move an objective to its device, in training mode; frozen batch norms keep their statistics."""
    objective.to(device).train()
    runtime.keep_frozen_statistics(objective)
    if sync_batch_norm and distributed.rank_and_world_size()[1] > 1:
        distributed.sync_batch_norm(objective)


def custom_parts(model: nn.Module) -> list[Any]:
    """Return the class of a model and copies of its parts, which a file of it needs if they are not this library's."""
    return [type(model), *map(copy.deepcopy, getattr(model, "parts", {}).values())]


@functools.cache
def print_once(text: str) -> None:
    """Print a line to stderr, unless this process has printed the same one before."""
    print(text, file=sys.stderr, flush=True)


def epoch_order(clips: int, settings: Training, epoch: int) -> Tensor:
    """Return the order of the clips in an epoch, int64; it depends only on the seed and the epoch."""
    order = torch.randperm(clips, generator=torch.Generator().manual_seed(fold_seed(settings.seed, epoch)))
    # No last batch of one clip: batch norm and the contrastive loss need at least two.
    return order[:-1] if len(order) % settings.batch_size == 1 else order


def rank_rows(rows: Tensor) -> Tensor:
    """Return the rows of a batch that this process reads."""
    return Share.of(len(rows)).rows(rows)


def fold_seed(*numbers: int) -> int:
    """Combine several numbers into one seed. Their order counts.

    >>> from egodistill import training
    >>> training.fold_seed(0, 3), training.fold_seed(3, 0)
    (3, 3000009)
    """
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    return seed
