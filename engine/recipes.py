"""The settings of a student and of its training: stages, recipes, presets. Importing them does not import torch.

    from egodistill import EGO4D

    short = EGO4D.with_training(epochs=5)
    model = short.student.build(62)

`training` and `distillation` hand these names on. The options of commands are made from the fields here, and their help
from the sections "Attributes". For each stage, a class of options has the same fields, as types of keyword arguments.
"""

from __future__ import annotations

import difflib
import math
import numbers
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, get_args

from ..support.custom import resolve
from ..support.errors import EgoDistillError, named

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..student import EgoDistill

__all__ = [
    "EGO4D",
    "EPIC_KITCHENS",
    "PRECISIONS",
    "PRESETS",
    "SPECTRUM",
    "SYNTHETIC",
    "Augment",
    "DistillationSettings",
    "Precision",
    "PretrainingSettings",
    "Recipe",
    "StudentSettings",
    "Training",
    "change_settings",
    "require_number",
    "require_precision",
]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Schedule = Literal["step", "cosine"]
Reduction = Literal["mean", "sum"]
# Settings that may change when a run is resumed.
CHANGEABLE_SETTINGS = (
    *("device", "checkpoint", "checkpoint_seconds", "keep_checkpoint", "out", "overwrite", "progress"),
    "sync_batch_norm",
)


def require_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    whole: bool = False,
) -> None:
    """Raise EgoDistillError unless a setting is a finite number from `least` to `most`.

    `name` is what the message says, such as `named("alpha")`; its limits say its first word. `above` and `below`
    exclude the limits themselves; `whole` requires an integer.
    """
    fits = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    fits = fits and math.isfinite(value)
    fits = fits and (least < value if above else least <= value) and (value < most if below else value <= most)
    if not fits:
        word = name.split()[0]
        limits = f"{least} {'<' if above else '<='} {word}" if math.isfinite(least) else word
        limits += f" {'<' if below else '<='} {most}" if math.isfinite(most) else ""
        raise EgoDistillError(f"{name} must be a {'whole ' if whole else ''}number, {limits}; got {value!r}")


def use_python_numbers(settings: Any) -> None:
    """Replace the numpy numbers of a frozen dataclass by those of Python, which checkpoints and JSON accept."""
    numpy = sys.modules.get("numpy")  # as long as nobody imports it, there are none of its numbers
    for name, value in vars(settings).items() if numpy else ():
        if isinstance(value, numpy.generic):
            object.__setattr__(settings, name, value.item())


def require_precision(precision: str) -> None:
    """Raise EgoDistillError unless a precision is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise EgoDistillError(f"{named('precision')} must be one of {', '.join(PRECISIONS)}; got {precision!r}")


def is_frames(name: str) -> bool:
    """Return whether an array of a store holds pictures: a student's frames, or a teacher's clip."""
    return name == "clip" or (name.startswith("frames_") and "." not in name)


@dataclass(frozen=True)
class Augment:
    """Random changes of training clips, a student's or a teacher's; none by default, as in the paper.

    All frames of a clip are changed alike. Raise EgoDistillError for a share outside of 0 <= share < 1.

    Attributes:
        crop: Crop each frame at random and resize the crop to the frame's size. Sides of the crop are shorter than the
            frame's by up to this share: 0.3 gives 0.7 to 1 of the frame's.
        jitter: Multiply each colour by a factor between 1 - jitter and 1 + jitter: half of it is the same for the three
            colours (brightness), half of it is not (tint).
        shift: Move the head motion against the frames, by up to this share of the clip in both directions: 0.05 is 0.1
            s of 2.13. The first or the last sample is repeated.
        motion: Recordings of the head motion of others, files of `data.read_imu()`: three of four clips get a random
            part of one on top, about a random heading (see `engine.augmentation`), so that a walk misleads the student
            less. The frames stay as they are. What is trained keeps these paths and a checksum, no samples.

    >>> from egodistill import Augment, EgoDistill, data, finetune
    >>> model, train = EgoDistill.load("student.safetensors"), data.ClipStore("store").split("train")
    >>> history = finetune(model, train, augment=Augment(crop=0.3), epochs=1, device="cpu", progress=False)
    """

    crop: float = 0.0
    jitter: float = 0.0
    shift: float = 0.0
    motion: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        use_python_numbers(self)
        for name in ("crop", "jitter", "shift"):
            require_number(named(name), getattr(self, name), 0, 1, below=True)
        paths = (self.motion,) if isinstance(self.motion, (str, os.PathLike)) else self.motion
        try:
            object.__setattr__(self, "motion", tuple(map(os.fspath, paths)))
        except TypeError as error:
            raise EgoDistillError(
                f"{named('motion')} must be paths of recordings, such as ('walk.csv',); got {paths!r}"
            ) from error

    def changes(self, name: str) -> bool:
        """Return whether an array of a store is changed.

        Args:
            name: Its name.
        """
        if name == "imu":
            return bool(self.shift or self.motion)
        return is_frames(name) and bool(self.crop or self.jitter)


@dataclass(frozen=True)
class Training:
    """Settings of all stages. Each is a keyword argument of `finetune`, `pretrain_imu` and `distill`.

    Raise EgoDistillError for a value that is out of range.

    Attributes:
        epochs: Number of passes over the clips.
        batch_size: Clips per step, summed over all processes.
        learning_rate: Learning rate of AdamW.
        decay_epochs: With the schedule "step", the learning rate is multiplied by `decay` after these epochs.
        decay: With the schedule "step": factor of the learning rate, above 0, at most 1.
        schedule: "step", the paper's; or "cosine", down to zero, which suits short trainings.
        warmup_epochs: The learning rate increases linearly from zero over these epochs.
        weight_decay: Weight decay of AdamW, by default AdamW's own; the paper does not give one.
        clip_norm: Largest norm of the gradient of all parameters in a step; None: gradients are not clipped.
        seed: Seed of clip order and dropout, which depend on nothing else but epoch and step (of commands: also of new
            weights); from 0 to 2**63 - 1.
        precision: "fp32"; mixed precision with "bf16", or with "fp16" for GPUs without bf16; "auto": bf16 on GPUs from
            compute capability 8 and on CPUs with AMX, else fp32. With "auto", the same seed gives other weights on
            another kind of machine.
        device: Device to train on; None: a GPU if there is one.
        checkpoint: File to resume from, and to write during training; None: that of `out`, OUT.training, if any.
        checkpoint_seconds: Seconds after which it is written again within an epoch; it is also written after each
            epoch.
        keep_checkpoint: Do not remove the checkpoint after `out` is written.
        out: Model file to write at the end. If it holds the result of the same training, that is loaded instead.
        overwrite: If the checkpoint or `out` is of a training with other settings, train anew and replace them;
            False: raise DataError.
        progress: Show a progress bar on stderr.
        sync_batch_norm: With several processes, compute batch norm over the whole batch.
        augment: Random changes of frames and head motion, different for each clip and epoch.
        label_smoothing: Share of the target of L_ACT and L_GT that is spread evenly over all classes.

    >>> from egodistill import Training
    >>> settings = Training(epochs=50, decay_epochs=(30, 40))
    >>> settings.learning_rate_at(0), settings.learning_rate_at(30)
    (0.0001, 1e-05)
    """

    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-4
    decay_epochs: tuple[int, ...] = (30, 40)
    decay: float = 0.1
    schedule: Schedule = "step"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.01
    clip_norm: float | None = None
    seed: int = 0
    precision: Precision = "auto"
    device: str | None = None
    checkpoint: str | os.PathLike | None = None
    checkpoint_seconds: float = 300.0
    keep_checkpoint: bool = False
    out: str | os.PathLike | None = None
    overwrite: bool = False
    progress: bool = True
    sync_batch_norm: bool = False
    augment: Augment = Augment()
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        use_python_numbers(self)
        require_number(named("epochs"), self.epochs, 1, whole=True)
        require_number(named("batch_size"), self.batch_size, 2, whole=True)
        require_number(named("learning_rate"), self.learning_rate, 0, above=True)
        steps: Any = self.decay_epochs
        if not isinstance(steps, (tuple, list)) and not hasattr(steps, "tolist"):  # an array has it
            raise EgoDistillError(f"{named('decay_epochs')} must be a tuple of epochs, such as (30, 40); got {steps!r}")
        steps = tuple(step.item() if hasattr(step, "item") else step for step in steps)
        object.__setattr__(self, "decay_epochs", steps)
        for step in self.decay_epochs:
            require_number(named("decay_epochs"), step, 0)
        require_number(named("decay"), self.decay, 0, 1, above=True)
        for name in ("warmup_epochs", "weight_decay"):
            require_number(named(name), getattr(self, name), 0)
        if self.clip_norm is not None:
            require_number(named("clip_norm"), self.clip_norm, 0, above=True)
        require_number(named("seed"), self.seed, 0, 2**63, below=True, whole=True)
        require_number(named("label_smoothing"), self.label_smoothing, 0, 1, below=True)
        if self.schedule not in get_args(Schedule):
            raise EgoDistillError(f"{named('schedule')} must be 'step' or 'cosine'; got {self.schedule!r}")
        require_precision(self.precision)
        if not isinstance(self.augment, Augment):
            raise EgoDistillError(f"augment must be an Augment, such as Augment(crop=0.2); got {self.augment!r}")

    def learning_rate_at(self, epoch: float) -> float:
        """Return the learning rate at this time of the training.

        Args:
            epoch: Time in epochs, counted from 0; 2.5 is the middle of the third epoch.
        """
        if self.schedule == "cosine":
            factor = (1 + math.cos(math.pi * min(epoch / self.epochs, 1.0))) / 2
        else:
            factor = self.decay ** sum(epoch >= step for step in self.decay_epochs)
        return self.learning_rate * factor * (min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0)

    def record(self) -> dict[str, Any]:
        """Return the settings that must be equal for a run to be resumed."""
        found = {name: value for name, value in asdict(self).items() if name not in CHANGEABLE_SETTINGS}
        del found["augment"]["motion"]  # what counts are the samples, of which a training keeps a checksum
        return found


class TrainingOptions(TypedDict, total=False):
    epochs: int
    batch_size: int
    learning_rate: float
    decay_epochs: tuple[int, ...]
    decay: float
    schedule: Schedule
    warmup_epochs: float
    weight_decay: float
    clip_norm: float | None
    seed: int
    precision: Precision
    device: str | None
    checkpoint: str | os.PathLike | None
    checkpoint_seconds: float
    keep_checkpoint: bool
    out: str | os.PathLike | None
    overwrite: bool
    progress: bool
    sync_batch_norm: bool
    augment: Augment
    label_smoothing: float


@dataclass(frozen=True)
class PretrainingSettings(Training):
    """Settings of stage 1 (section 3.4), in addition to those of `Training`.

    Attributes:
        nce_tau: Temperature of L_NCE, above 0.
        nce_weight: Weight of L_NCE.
        l1_weight: Weight of L_1; 0 trains without a teacher.
        l1_reduction: "mean" or "sum" of L_1 over the D dimensions of a feature.
        symmetric: Also compute L_NCE from head motion to frames.
    """

    nce_tau: float = 0.1
    nce_weight: float = 1.0
    l1_weight: float = 1.0
    l1_reduction: Reduction = "mean"
    symmetric: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(named("nce_tau"), self.nce_tau, 0, above=True)
        for name in ("nce_weight", "l1_weight"):
            require_number(named(name), getattr(self, name), 0)


class PretrainingOptions(TrainingOptions, total=False):
    nce_tau: float
    nce_weight: float
    l1_weight: float
    l1_reduction: Reduction
    symmetric: bool


@dataclass(frozen=True)
class DistillationSettings(Training):
    """Settings of stage 2 (equation 6), in addition to those of `Training`.

    Attributes:
        alpha: Weight of L_KD, 0 to 1; L_GT is weighted by 1 - alpha.
        beta: Weight of L_1.
        tau: Temperature of L_KD, above 0; the paper's is 10 for Ego4D.
        tau_squared: Multiply L_KD by tau squared.
        l1_reduction: "mean" or "sum" of L_1 over the D dimensions of a feature.
    """

    alpha: float = 0.95
    beta: float = 1.0
    tau: float = 1.0
    tau_squared: bool = False
    l1_reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(named("alpha"), self.alpha, 0, 1)
        require_number(named("beta"), self.beta, 0)
        require_number(named("tau"), self.tau, 0, above=True)


class DistillationOptions(TrainingOptions, total=False):
    alpha: float
    beta: float
    tau: float
    tau_squared: bool
    l1_reduction: Reduction


CUSTOM_NETWORKS = ("imu_encoder", "fusion", "student_class")  # names of networks that are not of this library


@dataclass(frozen=True)
class StudentSettings:
    """Arguments of `EgoDistill` that do not depend on the clips; its docstring explains them.

    Attributes:
        num_frames: N, the number of frames.
        image_encoder: A classification network of torchvision; resnet10xW, a 10-layer ResNet of width W; FILE.py:NAME
            or PACKAGE.MODULE:NAME, your own; or None: a model that reads head motion alone.
        image_weights: Initial weights of the image encoder: "imagenet", the path of a file, or None for random.
        imu_vector: "flatten" or "mean" of the IMU features over time.
        imu_width: Width of the IMU encoder's last layer.
        hidden: Width of the hidden layers in the fusion network.
        fusion_layers: Number of hidden layers in the fusion network.
        feature_dim: D, the size of the teacher's feature, unless `build()` is given another.
        aggregator: What makes one feature of several frames: "gru" or "concat".
        imu_encoder: cnn, the paper's network; spectrum or filterbank, plain numbers instead of it; FILE.py:NAME or
            PACKAGE.MODULE:NAME, your own; or None: a model that reads frames alone.
        fusion: FILE.py:NAME, a fusion network of your own.
        student_class: FILE.py:NAME, a class of your own that inherits from EgoDistill.
        optional_inputs: Frames or head motion may be missing, and the student learns to do with the other alone.

    >>> from egodistill import StudentSettings
    >>> student = StudentSettings(image_encoder="resnet10x8", image_weights=None).build(num_classes=8, frame_size=64)
    >>> student.inputs, student.feature_dim
    (('frames', 'imu'), 768)
    """

    num_frames: int = 1
    image_encoder: str | None = "resnet18"
    image_weights: str | None = "imagenet"
    imu_vector: Literal["flatten", "mean"] = "flatten"
    imu_width: int = 16
    hidden: int = 1024
    fusion_layers: int = 2
    feature_dim: int = 768
    aggregator: Literal["gru", "concat"] = "gru"
    imu_encoder: str | None = "cnn"
    fusion: str | None = None
    student_class: str | None = None
    optional_inputs: bool = False

    def custom(self) -> dict[str, Any]:
        """Return the networks of your own, {argument: class}, and the student's class ("student_class")."""
        names = {name: getattr(self, name) for name in (*CUSTOM_NETWORKS, "image_encoder")}
        return {name: resolve(value) for name, value in names.items() if value is not None and ":" in value}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `EgoDistill`, with the networks of your own, and the student's class if it is one."""
        given = {name: value for name, value in asdict(self).items() if name != "student_class"}
        return given | self.custom()

    def build(self, num_classes: int, *, feature_dim: int | None = None, **clips: Any) -> EgoDistill:
        """Return a new student. One that can be unsure gets that class on top.

        Args:
            num_classes: C.
            feature_dim: D, the size of the teacher's feature; None: that of these settings.
            clips: The arguments of `EgoDistill` that depend on the clips, such as `frame_size` and `class_names`.
        """
        from ..student import EgoDistill
        from .refusal import UNSURE

        if self.imu_encoder == "filterbank-unsure":
            clips["class_names"] = [*(clips.get("class_names") or map(str, range(num_classes))), UNSURE]
            num_classes += 1
        arguments = self.arguments() | ({} if feature_dim is None else {"feature_dim": feature_dim})
        kind = arguments.pop("student_class", EgoDistill)
        if not (isinstance(kind, type) and issubclass(kind, EgoDistill)):
            raise EgoDistillError(f"{named('student_class', self.student_class)}: give a subclass of EgoDistill")
        return kind(num_classes, **arguments, **clips)


@dataclass(frozen=True)
class Recipe:
    """All settings that decide a student's accuracy: its architecture, and the settings of each training stage.

    Attributes:
        student: The architecture.
        finetuning: Training on labels alone: VisOnly, VisIMU and baselines.
        pretraining: Stage 1, `pretrain_imu()`.
        distillation: Stage 2, `distill()`.

    >>> from egodistill import EGO4D, EPIC_KITCHENS
    >>> EPIC_KITCHENS.distillation.tau, EGO4D.distillation.tau
    (1.0, 10.0)
    >>> short = EGO4D.with_training(epochs=5, precision="auto")
    >>> short.pretraining.epochs, short.distillation.epochs
    (5, 5)
    """

    student: StudentSettings = StudentSettings()
    finetuning: Training = Training()
    pretraining: PretrainingSettings = PretrainingSettings()
    distillation: DistillationSettings = DistillationSettings()

    def with_training(self, **changes: Unpack[TrainingOptions]) -> Recipe:
        """Return the recipe with some settings changed in all stages.

        Args:
            changes: Fields of `Training`.
        """
        return replace(self, **{stage: replace(getattr(self, stage), **changes) for stage in STAGES})

    def record(self) -> dict[str, Any]:
        """Return the settings that must be equal for a run to continue."""
        return {"student": asdict(self.student)} | {stage: getattr(self, stage).record() for stage in STAGES}


STAGES = ("finetuning", "pretraining", "distillation")
# The paper's recipes (section 4.1, appendix C). Stage 1 takes 50 epochs on both data sets.
EPIC_KITCHENS = Recipe()
EGO4D = Recipe(
    finetuning=Training(epochs=150, decay_epochs=(90, 120)),
    distillation=DistillationSettings(epochs=150, decay_epochs=(90, 120), tau=10.0),
)
# For the demo's rendered world: minutes on two cores, 64 pixels, no pretrained weights. A cosine schedule, because with
# so few epochs the paper's steps would waste the last ones. 1920 is the feature size of the demo's SlowFast.
SYNTHETIC = Recipe(
    student=StudentSettings(image_encoder="resnet10x16", image_weights=None, feature_dim=1920),
    finetuning=Training(batch_size=32),
    distillation=DistillationSettings(batch_size=32),
).with_training(epochs=6, learning_rate=1e-3, schedule="cosine", warmup_epochs=1.5)
# Not the paper's: head motion as plain numbers, frames side by side, and changed clips. Its student has no weights that
# stage 1 could train. Rate and epochs are the paper's; on rendered worlds it was tested with those of small networks.
SPECTRUM = Recipe(
    student=StudentSettings(imu_encoder="spectrum", aggregator="concat"),
    distillation=DistillationSettings(augment=Augment(crop=0.2, jitter=0.3, shift=0.05)),
)
PRESETS = {"epic": EPIC_KITCHENS, "ego4d": EGO4D, "demo": SYNTHETIC, "spectrum": SPECTRUM}
PRESETS["filterbank"] = replace(SPECTRUM, student=replace(SPECTRUM.student, imu_encoder="filterbank"))

Settings = TypeVar("Settings", bound=Training)


def change_settings(kind: type[Settings], settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with some fields changed.

    Raise EgoDistillError if they are for another stage, TypeError for a field that they do not have.
    """
    if type(settings) is not kind:
        raise EgoDistillError(
            f"the settings of this stage must be {kind.__name__}, not {type(settings).__name__}; a Recipe has the "
            f"fields `finetuning`, `pretraining` and `distillation`"
        )
    names = [field.name for field in fields(kind)]
    for name in changes:
        if name not in names:
            similar = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"they are {', '.join(names)}"
            raise TypeError(f"{kind.__name__} has no setting {name!r}; {hint}")
    return replace(settings, **changes)
