"""The training loop of all stages: settings, shuffled batches, checkpoints to resume from, several processes.

    from egodistill import training

    settings = training.Training(epochs=50, checkpoint="run.training")
    history = training.train(objective, store, settings)

An objective is a module that holds what is trained and computes the losses of a batch: `distillation` has those of the
paper's stages.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import torch
from torch import Tensor, nn

from egodistill import EgoDistillError, batches, checkpoints, files, runtime
from egodistill.batches import Augment, Store
from egodistill.runtime import Precision, Share

__all__ = ["History", "Objective", "Training", "TrainingOptions", "fold_seed", "train"]

TRAINING_FORMAT = "egodistill training 2"
# Settings in which a resumed run may differ.
FREE_SETTINGS = ("device", "checkpoint", "checkpoint_seconds", "progress", "sync_batch_norm")

History = list[dict[str, float]]
Schedule = Literal["step", "cosine"]


@dataclass(frozen=True)
class Training:
    """Settings that all stages share; each is a keyword argument of `finetune`, `pretrain_imu` and `distill`."""

    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-4
    decay_epochs: tuple[int, ...] = (30, 40)  # The learning rate is multiplied by `decay` after these epochs.
    decay: float = 0.1
    schedule: Schedule = "step"  # the paper's; or "cosine", down to zero, which wastes less of a short training
    warmup_epochs: float = 0.0  # The learning rate rises from zero over these.
    weight_decay: float = 0.01  # AdamW's own default; the paper gives none.
    seed: int = 0  # The order of the data and dropout depend on it, on the epoch and the step, and on nothing else.
    precision: Precision = "fp32"  # or "bf16", automatic mixed precision; or "auto": bf16 where it is faster
    device: str | None = None  # None: a GPU where there is one
    checkpoint: str | os.PathLike | None = None  # File to resume from and to write while training.
    checkpoint_seconds: float = 300.0  # How often to write it within an epoch; it is always written after each.
    progress: bool = True
    sync_batch_norm: bool = False  # Several processes: batch norm over the whole batch.
    augment: Augment = Augment()  # Random changes of the frames, drawn anew for each clip and epoch.

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise EgoDistillError(
                f"training needs epochs >= 1 and batch_size >= 2; got {self.epochs}, {self.batch_size}"
            )
        if self.schedule not in get_args(Schedule):
            raise EgoDistillError(f"schedule is 'step' or 'cosine'; got {self.schedule!r}")
        runtime.require_precision(self.precision)

    def rate(self, epoch: float) -> float:
        """Return the learning rate at a time counted in epochs from 0, such as 2.5 in the middle of the third."""
        if self.schedule == "cosine":
            factor = (1 + math.cos(math.pi * min(epoch / self.epochs, 1.0))) / 2
        else:
            factor = self.decay ** sum(epoch >= step for step in self.decay_epochs)
        return self.learning_rate * factor * (min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0)

    def resolve(self) -> Training:
        """Return the settings with the precision that "auto" stands for on their device."""
        return replace(self, precision=runtime.pick_precision(runtime.pick_device(self.device), self.precision))

    def record(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share with the one that it continues."""
        return {name: value for name, value in asdict(self).items() if name not in FREE_SETTINGS}


class TrainingOptions(TypedDict, total=False):
    """The fields of `Training` as keyword arguments: `finetune(model, store, epochs=5)`."""

    epochs: int
    batch_size: int
    learning_rate: float
    decay_epochs: tuple[int, ...]
    decay: float
    schedule: Schedule
    warmup_epochs: float
    weight_decay: float
    seed: int
    precision: Precision
    device: str | None
    checkpoint: str | os.PathLike | None
    checkpoint_seconds: float
    progress: bool
    sync_batch_norm: bool
    augment: Augment


class Objective(nn.Module):
    """What a stage trains and minimises: the model, the arrays it reads, and the losses of a batch.

    model    The network of the stage; other modules of the objective are trained, too.
    reads    Names of the store's arrays.
    record   What a resumed run must share with the one that it continues, beside `Training.record()`.

    Under torchrun, a step that leaves trained parameters without a gradient needs `find_unused = True`, of the
    objective or of its model (DistributedDataParallel's `find_unused_parameters`).
    """

    find_unused = False

    def __init__(self, model: nn.Module, reads: list[str], record: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.reads, self.record = model, reads, record

    @property
    def stage(self) -> str:
        """Return the name of the stage, for messages."""
        return self.record["stage"]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return values per clip [b]: "loss", whose mean is minimised, and what else to report.

        "loss" is 0 for a clip to which no term applies; NaN in the others is left out of their means. The batch holds
        the arrays of `reads`, "label", "row", and "weight": under torchrun, 0 for clips that a process only looks at.
        """
        raise NotImplementedError

    def begin(self, store: Store, settings: Training) -> None:
        """Compute what the training needs, on its device: called once, and not if a finished run is loaded."""

    def set_progress(self, done: float) -> None:
        """Tell a model that changes in the course of a training, such as STTS, how much of it is done, 0 to 1."""
        if hasattr(self.model, "set_progress"):
            self.model.set_progress(done)


def train(objective: Objective, store: Store, settings: Training) -> History:
    """Minimise an objective by AdamW over shuffled batches of a store; return one dict per epoch.

    With `settings.checkpoint`, a run that was killed and is started again with the same arguments continues from the
    last step that was saved, and ends with the same weights as an undisturbed one (bit by bit on CPU); a finished one
    is loaded. The history is also written beside the checkpoint, one JSON line per epoch.

    Under torchrun, each of K processes takes its share of every batch, and DistributedDataParallel averages their
    gradients: this gives what one process with that batch gives, so a run may continue with another K. Batch norm in
    training is the exception: it sees the clips of its process alone (unless `sync_batch_norm`), and its running
    statistics become, after each step, their mean over the processes, weighted by clips. Process 0 writes the files;
    all return the same history.
    """
    if len(store) < 2:
        raise EgoDistillError(f"{len(store)} clips are too few to train on; is the split right, did prepare() fail?")
    loop = TrainingLoop(objective, store, settings)
    loop.resume()
    return loop.run()


class TrainingLoop:
    """One run of `train()`: what it trains, how far it is, and its steps."""

    def __init__(self, objective: Objective, store: Store, settings: Training) -> None:
        # The precision is written down as chosen: a run that continues elsewhere does not change it in silence.
        self.store, self.settings = store, settings.resolve()
        self.device = runtime.pick_device(settings.device)
        if settings.augment != Augment() and not any(name.startswith("frames_") for name in objective.reads):
            raise EgoDistillError(
                f"{objective.stage} reads no frames of a student, which augment={settings.augment} changes"
            )
        runtime.join_processes(self.device)
        self.objective = objective
        prepare_modules(objective, self.device, settings.sync_batch_norm)
        self.trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self.find_unused = objective.find_unused or getattr(objective.model, "find_unused", False)
        self.parallel = runtime.parallel(objective, find_unused=self.find_unused)
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.path = Path(settings.checkpoint) if settings.checkpoint is not None else None
        clips = {"clips": len(store), "class_names": store.class_names}
        self.about = objective.record | self.settings.record() | clips
        # How far it is: the step in the epoch, [sum, weight] of each value over its steps, and the epochs before.
        self.epoch, self.step, self.sums, self.history = 0, 0, {}, []
        self.saved = time.monotonic()

    def resume(self) -> None:
        """Continue from the checkpoint of process 0, if there is one; raise DataError if it is of another run."""
        content: dict[str, Any] = {"about": self.about}
        if self.path is not None and runtime.is_first() and self.path.exists():
            content = checkpoints.read_checkpoint(self.path, TRAINING_FORMAT)
        content = runtime.broadcast_object(content)
        found = "state" in content
        source = f"the checkpoint {self.path}" if found else "process 0"
        files.require_same_run(source, content["about"], self.about, "Delete it, or give another one.")
        if found:
            checkpoints.load_strictly(self.objective, content["weights"], source)
            self.optimizer.load_state_dict(content["optimizer"])
            state = content["state"]
            self.epoch, self.step, self.sums, self.history = (
                state[name] for name in ("epoch", "step", "sums", "history")
            )

    def run(self) -> History:
        """Train the epochs that are left."""
        clips, epochs = len(self.store), self.settings.epochs
        done = self.epoch * clips + self.step * self.settings.batch_size
        if self.epoch < epochs:
            self.objective.begin(self.store, self.settings)
        show = self.settings.progress and runtime.is_first() and self.epoch < epochs
        with files.Progress(self.objective.stage, clips * epochs, done=done, show=show) as bar:
            while self.epoch < epochs:
                self.run_epoch(bar)
        self.objective.eval()
        return self.history

    def run_epoch(self, bar: files.Progress) -> None:
        """Train what is left of an epoch, then add it to the history and save."""
        order = shuffled(len(self.store), self.settings, self.epoch)
        size, began = self.settings.batch_size, time.monotonic()
        rest = order[self.step * size :]
        waited = seen = 0
        reads, change = self.objective.reads, self.augment if self.settings.augment != Augment() else None
        for batch, wait in batches.read(self.store, reads, rest, size, self.device, own_rows, change):
            rows = order[self.step * size :][:size]
            loss = self.run_step(batch, rows, self.epoch + self.step * size / len(order))
            self.step += 1
            waited += wait
            seen += len(rows)
            bar.step(len(rows), f"loss {loss:.3f}")
            if time.monotonic() - self.saved > self.settings.checkpoint_seconds:
                self.save()
        spent = max(time.monotonic() - began, 1e-9)  # A clock may move in 15.6 ms.
        self.end_epoch(seen, spent, waited)

    def augment(self, batch: dict[str, Tensor]) -> None:
        """Change a batch by the settings' `augment`."""
        seeds = [fold_seed(self.settings.seed, self.epoch, row) for row in batch["row"].tolist()]
        self.settings.augment.apply(batch, seeds)

    def run_step(self, batch: dict[str, Tensor], rows: Tensor, moment: float) -> float:
        """Take one step of the optimiser at a moment counted in epochs; return the loss over all processes."""
        settings, share = self.settings, Share.of(len(rows))
        rank, processes = runtime.rank_and_world_size()
        batch["weight"] = share.weights(len(batch["row"]), self.device)
        if settings.sync_batch_norm:
            runtime.share_batch_norm(self.objective, share)
        self.objective.set_progress(moment / settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(moment)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            # Dropout differs from process to process; the first is seeded as a single one.
            torch.manual_seed(fold_seed(settings.seed, self.epoch, self.step, *([rank] if rank else [])))
            with runtime.distributed_errors(), runtime.autocast(self.device, settings.precision):
                values = self.parallel(batch)
            sums = weighted_sums(values, batch["weight"])
            loss, weight = sums["loss"]
            if not math.isfinite(loss):
                raise EgoDistillError(
                    f"{self.objective.stage}: the loss is {loss / weight} in epoch {self.epoch}, step {self.step} "
                    f"(clips {batches.clip_ids(self.store, rows)}). Lower the learning rate, or look at the inputs of "
                    f"these clips.{self.kept()}"
                )
            self.optimizer.zero_grad(set_to_none=True)
            with runtime.distributed_errors():  # DistributedDataParallel takes the mean over K processes.
                ((batch["weight"] * values["loss"]).sum() * processes / weight).backward()
            if processes > 1 and not self.find_unused:
                self.require_gradients()
            runtime.average_statistics(self.objective, float(batch["weight"].sum()) / weight)
            self.optimizer.step()
        for name, pair in sums.items():
            self.sums[name] = [a + b for a, b in zip(self.sums.get(name, (0.0, 0.0)), pair, strict=True)]
        return loss / weight

    def require_gradients(self) -> None:
        """Raise EgoDistillError if the step left a parameter without a gradient, which the other processes wait for."""
        lacking = [
            name for name, value in self.objective.named_parameters() if value.requires_grad and value.grad is None
        ]
        if lacking:
            raise EgoDistillError(
                f"{self.objective.stage}: {len(lacking)} trained parameters such as {lacking[0]} have no gradient. "
                f"With several processes, give the model an attribute `find_unused = True`, or freeze them"
            )

    def end_epoch(self, seen: int, spent: float, waited: float) -> None:
        """Add the epoch's means to the history, and save."""
        spent, waited = runtime.sum_over_processes([spent, waited], self.device)
        self.history.append(
            {name: total / weight if weight else math.nan for name, (total, weight) in self.sums.items()}
            | {
                "learning_rate": self.settings.rate(self.epoch + 0.5),
                "clips_per_second": seen * runtime.rank_and_world_size()[1] / spent,
                "loader_share": waited / spent,
            }
        )
        self.epoch, self.step, self.sums = self.epoch + 1, 0, {}
        if self.path is not None and runtime.is_first():  # Before the checkpoint: a finished run is not begun again.
            lines = [json.dumps({"epoch": number} | row) + "\n" for number, row in enumerate(self.history, 1)]
            with files.atomic_write(self.path.with_suffix(".jsonl")) as part:
                part.write_text("".join(lines), encoding="utf-8")
        self.save()

    def save(self) -> None:
        """Write the checkpoint, in process 0. Raise EgoDistillError if weights are no longer finite."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.trained):
            raise EgoDistillError(
                f"{self.objective.stage}: weights are no longer finite in epoch {self.epoch}, step {self.step}. Lower "
                f"the learning rate.{self.kept()}"
            )
        if self.path is not None and runtime.is_first():
            state = {"epoch": self.epoch, "step": self.step, "sums": self.sums, "history": self.history}
            content = {
                "format": TRAINING_FORMAT,
                "about": self.about,
                "state": state,
                "weights": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            checkpoints.write_checkpoint(self.path, content)
        self.saved = time.monotonic()

    def kept(self) -> str:
        """Return a sentence about the last checkpoint, for an error."""
        return f" The last checkpoint, {self.path}, is kept." if self.path is not None and self.path.exists() else ""


def weighted_sums(values: dict[str, Tensor], weight: Tensor) -> dict[str, list[float]]:
    """Return the sum over the clips of all processes, and the sum of their weights, of each value per clip.

    A clip whose value is NaN is left out, but not if it is the loss.
    """
    for name, value in values.items():
        if value.shape != weight.shape:
            raise EgoDistillError(
                f"the objective gives {name!r} as {list(value.shape)} for a batch of {len(weight)} clips; it is one "
                f"value per clip, [{len(weight)}]"
            )
    table = torch.stack([value.detach() for value in values.values()]).cpu().double()
    known = ~table.isnan()
    known[list(values).index("loss")] = True
    weights = torch.where(known, weight.cpu().double(), 0.0)
    pairs = torch.stack([torch.where(weights > 0, weights * table, 0.0).sum(1), weights.sum(1)], dim=1)
    summed = runtime.sum_over_processes(pairs.flatten().tolist(), weight.device)
    return {name: summed[2 * place : 2 * place + 2] for place, name in enumerate(values)}


def prepare_modules(objective: Objective, device: torch.device, sync_batch_norm: bool) -> None:
    """Put an objective on its device in training mode; batch norms that are frozen keep their statistics."""
    objective.to(device).train()
    runtime.keep_frozen_statistics(objective)
    if sync_batch_norm and runtime.rank_and_world_size()[1] > 1:
        runtime.sync_batch_norm(objective)


def shuffled(clips: int, settings: Training, epoch: int) -> Tensor:
    """Return the order of the clips in an epoch, int64; it depends on the seed and the epoch alone."""
    order = torch.randperm(clips, generator=torch.Generator().manual_seed(fold_seed(settings.seed, epoch)))
    # Batch norm and the contrastive loss need at least two clips.
    return order[:-1] if len(order) % settings.batch_size == 1 else order


def own_rows(rows: Tensor) -> Tensor:
    """Return those rows of a batch that this process reads."""
    return Share.of(len(rows)).rows(rows)


def fold_seed(*numbers: int) -> int:
    """Return one seed made of several numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    return seed
