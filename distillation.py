"""Distillation of a video model into a student that sees few frames and head motion: losses and training stages.

    from egodistill import EGO4D, data, distill, pretrain_imu

    train = data.ClipStore("store").split("train")                        # with the outputs of teachers.extract()
    model = EGO4D.student.build(len(train.class_names))
    pretrain_imu(model, train, EGO4D.pretraining, teacher="motionformer")  # stage 1: section 3.4
    distill(model, train, EGO4D.distillation, teacher="motionformer")      # stage 2: section 3.3

Equations, sections and defaults are those of the paper (Tan, Nagarajan, Grauman, NeurIPS 2023), but for L_1, which is a
mean over the feature here (`feature_loss()`). A `Recipe` holds all settings that decide a student's accuracy. Keyword
arguments of a stage override its settings: `distill(..., tau=4.0, epochs=5)`. `finetune()` trains any model on labels
alone: teachers, baselines, and the paper's VisOnly and VisIMU.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .datasets.store import OutputClaim, claim_outputs, outputs_record
from .engine import batches, checkpoints, distributed, runtime
from .engine.batches import Model, Store
from .engine.distributed import Share
from .engine.recipes import (
    EGO4D,
    EPIC_KITCHENS,
    PRESETS,
    SPECTRUM,
    SYNTHETIC,
    DistillationOptions,
    DistillationSettings,
    PretrainingOptions,
    PretrainingSettings,
    Recipe,
    Reduction,
    StudentSettings,
    change_settings,
)
from .engine.steps import accepts_missing_input, require_same_steps, require_steps
from .recordings.spec import ClipSpec
from .student import EgoDistill, IMUPredictor, Output, describe
from .support import files
from .support.errors import EgoDistillError, named
from .training import History, Objective, Training, TrainingOptions, rank_rows, require_per_clip, train

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "EGO4D",
    "EPIC_KITCHENS",
    "PRESETS",
    "SPECTRUM",
    "SYNTHETIC",
    "Distill",
    "DistillationOptions",
    "DistillationSettings",
    "EndFeatures",
    "Finetune",
    "PretrainIMU",
    "PretrainingOptions",
    "PretrainingSettings",
    "Recipe",
    "StudentSettings",
    "action_loss",
    "contrastive_loss",
    "distill",
    "distillation_loss",
    "feature_loss",
    "finetune",
    "pretrain_imu",
]

# ---------------------------------------------------------------------------------------------------------------
# Losses: pure functions, in the paper's order. Each returns one value per clip, [B]. The paper sums them over clips;
# training takes their mean over a batch.


def action_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return L_ACT (equation 1) or L_GT (equation 5): cross-entropy of logits [B, C] and class indices [B] -> [B].

    `smoothing` is the share of the target that is spread evenly over all classes; the paper has none.

    >>> import torch
    >>> from egodistill.distillation import action_loss
    >>> action_loss(torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
    tensor([0.0181, 0.6931])
    """
    return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)


def feature_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return L_1 (equation 3): the mean absolute difference of features [B, D], or the sum, as printed, per clip [B].

    With the mean, beta = 1 does not depend on D. Another reduction raises EgoDistillError.

    >>> import torch
    >>> from egodistill.distillation import feature_loss
    >>> feature_loss(torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]))
    tensor([2., 0.])
    """
    if reduction not in ("mean", "sum"):
        raise EgoDistillError(f"reduction must be 'mean' or 'sum'; got {reduction!r}")
    require_same_shape(student, teacher)
    distance = (student.float() - teacher.float()).abs()
    return distance.mean(dim=1) if reduction == "mean" else distance.sum(dim=1)


def distillation_loss(student: Tensor, teacher: Tensor, tau: float, *, tau_squared: bool = False) -> Tensor:
    """Return L_KD (equation 4): KL(softmax(teacher / tau) || softmax(student / tau)) of logits [B, C], per clip [B].

    As in the paper, the default has no factor tau^2, so at tau = 10 the gradient is about a hundredth of that at tau =
    1. `tau_squared` multiplies by it (Hinton, Vinyals, Dean 2015, section 2).

    >>> import torch
    >>> from egodistill.distillation import distillation_loss
    >>> teacher = torch.tensor([[4.0, 0.0], [4.0, 0.0]])
    >>> distillation_loss(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), teacher, tau=2.0)
    tensor([0.0000, 1.5232])
    """
    require_same_shape(student, teacher, "logits", "num_classes")
    batches.require_number("tau", tau, 0, above=True)
    target, prediction = (F.log_softmax(logits.float() / tau, dim=1) for logits in (teacher, student))
    divergence = F.kl_div(prediction, target, reduction="none", log_target=True).sum(dim=1)
    return divergence * tau**2 if tau_squared else divergence


def contrastive_loss(predicted: Tensor, actual: Tensor, tau: float = 0.1, *, symmetric: bool = False) -> Tensor:
    """Return L_NCE (equation 7) of IMU features predicted from frames and actual ones, both [B, m], per clip [B].

    The positive of row i is column i of the cosine similarities; the other clips of the batch are negatives.
    `symmetric` averages the losses of both directions.

    >>> import torch
    >>> from egodistill.distillation import contrastive_loss
    >>> features = torch.eye(2)
    >>> contrastive_loss(features, features, tau=1.0), contrastive_loss(features, features.flip(0), tau=1.0)
    (tensor([0.3133, 0.3133]), tensor([1.3133, 1.3133]))
    """
    similarity = cosine_similarity(predicted, actual) / tau
    positives = torch.arange(len(similarity), device=similarity.device)
    rows = F.cross_entropy(similarity, positives, reduction="none")
    return (rows + F.cross_entropy(similarity.T, positives, reduction="none")) / 2 if symmetric else rows


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the similarity of each row of [A, m] to each of [B, m]: [A, B]."""
    return F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T


def label_scale(known: Tensor, weight: Tensor, everywhere: bool) -> Tensor:
    """Return the factor that makes of a mean over a batch one over its labelled clips; any if it has none.

    The loss must be 0 for the others. `known` is bool [b], True for clips with a label; `weight` [b] is 1, or 0 for
    clips that a process only reads to take part in a step. With `everywhere`, clips are counted over all processes.
    """
    counts = torch.stack([weight.sum(), (weight * known).sum()])
    clips, labelled = distributed.all_reduce_sum(counts) if everywhere else counts
    return clips / labelled.clamp(min=1)


# ---------------------------------------------------------------------------------------------------------------
# Training on labels alone


class LabelledObjective(Objective):
    """Base class of objectives with a label term, which clips without a label do not have.

    In a store with labelled and unlabelled clips, the term is its mean over the labelled clips of a batch, and 0 if
    the batch has none; all other terms are means over all clips.

    A student with `optional_inputs` has three outputs for each clip, and three times all terms: with both inputs, with
    frames alone and with head motion alone. The last two are weighted by `alone`. Another way to distill into a student
    that may lack inputs is KARMMA (Santos-Villafranca et al., arXiv 2504.08578).
    """

    alone = 0.5

    def __init__(
        self, model: nn.Module, reads: list[str], record: dict[str, Any], store: Store, smoothing: float
    ) -> None:
        super().__init__(model, reads, record)
        if accepts_missing_input(model):
            if any(isinstance(part, runtime.BATCH_NORMS) for part in cast("nn.Module", model.fusion).modules()):
                raise EgoDistillError(
                    "the fusion network has a batch norm, whose statistics would mix clips with both inputs and with "
                    "one alone; with optional_inputs, use a LayerNorm"
                )
            with runtime.evaluation(model, next(model.parameters()).device):
                require_same_steps(model, "a training with optional inputs")
        known = batches.labels_of(store) >= 0
        self.any_labels, self.all_labels = bool(known.any()), bool(known.all())
        self.num_classes, self.smoothing = batches.count_scores(model, store), smoothing
        self.taught_classes = len(store.class_names) or None  # "unsure" behind them has no labels and no teacher

    def outputs(self, *inputs: Tensor) -> list[Output]:
        """Return the model's outputs; of a student with `optional_inputs` also those of each input alone, in its order.

        Its encoders run once.
        """
        model: Any = self.model
        if not accepts_missing_input(model):
            return [batches.as_output(model, model(*inputs), self.num_classes)]
        image, motion = model.aggregate(model.encode_frames(inputs[0])), model.encode_imu(inputs[1])
        return [model.fuse(image, motion), model.fuse(image, None), model.fuse(None, motion)]

    def with_single_inputs(self, values: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the values for all inputs, with the loss for all outputs, of values for each output.

        The losses for frames alone and for head motion alone are reported, too.
        """
        both, *alone = values
        losses = {f"{name} alone": own["loss"] for name, own in zip(("frames", "imu"), alone, strict=False)}
        return both | {"loss": both["loss"] + self.alone * sum(losses.values())} | losses if losses else both

    def label_term(self, logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor | float, dict[str, Tensor]]:
        """Return the term of each clip [B], and values to report, "gt" and "top1": NaN for clips without a label."""
        labels, logits = batch["label"], logits[:, : self.taught_classes]
        if not self.any_labels:
            return 0.0, {}
        if self.all_labels:
            loss = action_loss(logits, labels, self.smoothing)
            return loss, {"gt": loss, "top1": is_correct(logits, labels)}
        known = labels >= 0
        loss = action_loss(logits, labels.clamp(min=0), self.smoothing)
        seen = {"gt": loss, "top1": is_correct(logits, labels)}
        # Validation runs in one process, and only on labelled clips.
        scale = label_scale(known, batch["weight"], self.training)
        reported = {name: value.where(known, torch.nan) for name, value in seen.items()}
        return scale * loss.where(known, 0.0), reported


class Finetune(LabelledObjective):
    """Objective of `finetune()`: L_ACT (equation 1), and the model's own extra losses if it has any."""

    def __init__(self, model: nn.Module, store: Store, smoothing: float = 0.0) -> None:
        batches.require_labels(store, some=True)
        reads = batches.arrays_of(model, store)
        super().__init__(model, reads, {"stage": "finetune"}, store, smoothing)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self.outputs(*(batch[name] for name in self.reads))
        return self.with_single_inputs([self.values(output, batch) for output in outputs])

    def values(self, output: Output, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what `forward()` reports, for one output."""
        extra = extra_losses(self.model, output, batch)
        loss, seen = self.label_term(output.logits, batch)
        loss = cast(Tensor, loss)  # not 0.0: some clips have labels
        return {"loss": loss + sum(extra.values()), "top1": seen["top1"], **extra}


@distributed.propagate_failure
def finetune(
    model: Model,
    store: Store,
    settings: Training = Training(),
    *,
    validation: Store | None = None,
    calibration: Store | None = None,
    **changes: Unpack[TrainingOptions],
) -> History:
    """Train any model, teacher or student, on labels alone with L_ACT (equation 1).

    VisOnly and VisIMU of the paper are trained like this. Parameters with `requires_grad=False` are not trained. L_ACT
    is the mean over the labelled clips of a batch, 0 if it has none; leave clips without a label out
    (`store.select(store.labels >= 0)`) unless the model's own losses or batch norm are to see them.

    Args:
        model: The model to train, in place; see `batches.Model`.
        store: The clips to train on.
        settings: The settings; the defaults are the paper's for EPIC-KITCHENS.
        validation: Clips of other wearers. With them, the model keeps the weights of the epoch with the highest
            accuracy on them; see `training.train()`.
        calibration: Clips of further wearers. With 50 of them or more, the model gets a temperature, so that its
            probabilities say how often it is right; see `training.train()`.
        changes: Fields that override those of `settings`, such as `epochs=5`.

    Returns:
        One dict per epoch: loss, top1 (on the training clips, during training), learning_rate, clips_per_second,
        loader_share (of the time, waiting for data).

    Raises:
        EgoDistillError: If the store lacks an array (the message says how to add it), if model and store differ in
            classes or frame size, if no clip has a label, if the checkpoint is from another run, or if the loss becomes
            infinite or NaN (the message names the clips).
        EgoDistillOSError: If the checkpoint cannot be written or another process of the training has died.

    >>> from egodistill import EgoDistill, data, finetune
    >>> train = data.ClipStore("store").split("train")
    >>> model = EgoDistill.load("student.safetensors")
    >>> history = finetune(model, train, epochs=1, batch_size=8, progress=False)
    >>> list(history[0])
    ['loss', 'top1', 'learning_rate', 'clips_per_second', 'loader_share']
    """
    settings = change_settings(Training, settings, changes)
    if validation is not None:
        batches.require_labels(validation)
    return train(Finetune(model, store, settings.label_smoothing), store, settings, validation, calibration)


def require_same_shape(found: Tensor, target: Tensor, what: str = "feature", argument: str = "feature_dim") -> None:
    """Raise EgoDistillError unless an output of the student has the shape of the teacher's, [B, D].

    It names the output and the argument of the student that decides its size.
    """
    if found.shape != target.shape:
        raise EgoDistillError(
            f"{what} of the student: {describe(found)}, of the teacher: {describe(target)}; build the student with "
            f"{argument}={target.shape[-1]}"
        )


def extra_losses(model: nn.Module, output: Output, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses per clip that a model adds itself, by name, such as the efficiency loss of AdaFuse."""
    return model.extra_loss(output, batch) if hasattr(model, "extra_loss") else {}


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1.0 for each clip whose best class is its label, 0.0 for the others."""
    return (logits.argmax(1) == labels).float()


# ---------------------------------------------------------------------------------------------------------------
# Stage 1: pretraining of the IMU encoder


class PretrainIMU(Objective):
    """Objective of `pretrain_imu()`: nce_weight L_NCE + l1_weight L_1 (section 3.4; appendix C names L_NCE alone).

    Image features of the store's array `frames` are computed once, by `setup()`. Without L_1, give no `teacher`. With
    `teacher_rows`, bool [clips], those clips alone have a teacher's feature, which `setup()` reads, and L_1.
    """

    def __init__(
        self,
        model: EgoDistill,
        predictor: IMUPredictor,
        frames: str,
        settings: PretrainingSettings,
        teacher: str | None,
        teacher_rows: np.ndarray | None = None,
    ) -> None:
        self.target = f"{teacher}.feature" if settings.l1_weight else None
        record = {"stage": "pretrain_imu", "teacher": teacher}
        if teacher_rows is not None:
            record["clips with a teacher"] = hashlib.sha256(teacher_rows.tobytes()).hexdigest()[:16]
        reads = ["imu", self.target] if self.target and teacher_rows is None else ["imu"]  # else `setup()` reads it
        super().__init__(model, reads, record)
        self.predictor, self.frames, self.settings, self.teacher_rows = predictor, frames, settings, teacher_rows
        self.features = self.taught_features = torch.empty(0)  # until `setup()`
        # Without L_1 fusion network and aggregator have no gradient, nor have what stand for inputs that are missing.
        self.find_unused = not settings.l1_weight or accepts_missing_input(model)

    def setup(self, store: Store, settings: Training) -> None:
        """Compute the image features of all clips; read the teacher's features of those that have one."""
        self.features = frozen_features(self.model, store, self.frames, settings)
        if self.target and self.teacher_rows is not None:
            rows = np.flatnonzero(self.teacher_rows)
            values = batches.read_rows(store, self.target, rows).float()
            batches.require_finite(store, torch.from_numpy(rows), self.target, values)
            self.taught_features = torch.zeros(len(store), values.shape[1])
            self.taught_features[torch.from_numpy(rows)] = values

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        settings, frames = self.settings, runtime.send(self.features[batch["row"]], batch["imu"].device)
        actual = self.model.encode_imu(batch["imu"])
        predicted = self.predictor(frames[:, 0], frames[:, -1])
        # Negatives are the clips of all processes, [B, m]; `own` are the indices of this process's clips among them.
        queries, own = distributed.gather(predicted, batch["weight"])
        keys, _ = distributed.gather(actual, batch["weight"])
        nce = contrastive_loss(queries, keys, settings.nce_tau, symmetric=settings.symmetric)[own]
        losses = {"loss": settings.nce_weight * nce, "nce": nce}
        if self.target:
            feature = self.model.fuse(self.model.aggregate(frames[:, 1:-1]), actual).feature
            taught_by = self.taught_features[batch["row"]] if self.teacher_rows is not None else batch[self.target]
            target = runtime.send(taught_by, feature.device)
            require_same_shape(feature, target)
            l1 = losses["l1"] = feature_loss(feature, target, reduction=settings.l1_reduction)
            if self.teacher_rows is not None:
                taught = runtime.send(torch.from_numpy(self.teacher_rows)[batch["row"]], feature.device)
                l1, losses["l1"] = l1.where(taught, 0.0), l1.where(taught, torch.nan)
            losses["loss"] = losses["loss"] + settings.l1_weight * l1
        nearest = is_correct(cosine_similarity(queries[own], keys), own)  # whether it is the clip's own IMU feature
        return losses | {"matching": nearest}


@distributed.propagate_failure
def pretrain_imu(
    model: EgoDistill,
    store: Store,
    settings: PretrainingSettings = PretrainingSettings(),
    *,
    teacher: str | None,
    teacher_rows: Any = None,
    predictor: IMUPredictor | None = None,
    **changes: Unpack[PretrainingOptions],
) -> History:
    """Train the IMU encoder, the predictor h and the fusion network without labels: stage 1, section 3.4.

    The loss is L_NCE (equation 7) + L_1 to the teacher's feature.

    The image encoder is frozen and in evaluation mode, because training it here makes it collapse (a footnote of the
    paper). So the features of all frames are computed once and kept in memory: (N + 2) x d numbers per clip, d = 512
    for ResNet-18. What aggregates several frames starts from random weights, and is trained with L_1. Under torchrun,
    the clips of all processes are negatives.

    Args:
        model: The student, with head motion; it is trained in place.
        store: The clips to train on; labels are not read.
        settings: The settings of stage 1; the defaults are the paper's.
        teacher: Name of a teacher whose outputs `teachers.extract()` added to the store; None with `l1_weight=0`.
        teacher_rows: If only some clips have outputs, `store.done("NAME.feature")`, bool [clips]; the others have no
            L_1, and take part in L_NCE alone.
        predictor: The predictor h, which is not part of the student; pass your own to keep it. None: a new one.
        changes: Fields that override those of `settings`, such as `epochs=5`.

    Returns:
        One dict per epoch: loss, nce, l1, matching (the share of clips whose predicted IMU feature is closest to
        their own one in the batch), and the last three entries of `finetune()`.

    Raises:
        EgoDistillError: If the model has no IMU encoder, and as in `finetune()`, except for labels.
        EgoDistillOSError: As in `finetune()`.

    >>> from egodistill import EgoDistill, data, pretrain_imu
    >>> train = data.ClipStore("store").split("train")
    >>> model = EgoDistill.load("student.safetensors")
    >>> history = pretrain_imu(model, train, teacher="x3d", epochs=1, progress=False)
    >>> list(history[0])[:4]
    ['loss', 'nce', 'l1', 'matching']
    """
    settings = change_settings(PretrainingSettings, settings, changes)
    if settings.label_smoothing:
        raise EgoDistillError(
            f"pretrain_imu reads no labels, so label_smoothing={settings.label_smoothing} would have no effect"
        )
    stage = named("pretrain_imu()", option="`egodistill pretrain`")
    if lacking := {"frames", "imu"} - {*batches.inputs_of(model)}:
        raise EgoDistillError(f"{stage} needs frames and head motion, and this model reads no {min(lacking)}")
    steps = ("image_encoder", "image_dim", "imu_dim", "encode_frames", "aggregate", "encode_imu", "fuse", "classifier")
    way_out = f" and EgoDistill; train another model with {named('distill()')} or {named('finetune()')}"
    require_steps(model, steps, stage, way_out)
    if teacher is None and settings.l1_weight:
        raise EgoDistillError(f"L_1 needs {named('teacher')}; {named('l1_weight', 0)} trains with L_NCE alone")
    if not any(True for _ in getattr(model, "imu_encoder", model).parameters()):
        raise EgoDistillError(
            f"{type(model.imu_encoder).__name__} has no weights, so there is nothing that stage 1 is for; go on with "
            f"{named('distill()')}"
        )
    frames, *_ = batches.arrays_of(model, store)
    ends_of(model, store)
    if settings.l1_weight:
        batches.require_teacher(store, teacher, "feature")
    if teacher_rows is not None:
        teacher_rows = np.asarray(teacher_rows)
        if teacher_rows.dtype != bool or teacher_rows.shape != (len(store),) or not teacher_rows.any():
            raise EgoDistillError(
                f"teacher_rows must be bool [{len(store)}], one value per clip, and True for one at least; got "
                f"{teacher_rows.dtype} {list(teacher_rows.shape)}"
            )
    if predictor is None:
        with torch.random.fork_rng(devices=[]):  # it depends on the seed alone, and nothing else depends on it
            torch.manual_seed(settings.seed)
            predictor = IMUPredictor(model.image_dim, model.imu_dim)
    elif isinstance(predictor, IMUPredictor):
        own, wanted = ((one.image_dim, one.imu_dim) for one in (predictor, model))
        if own != wanted:
            raise EgoDistillError(
                f"predictor is an IMUPredictor{own}, but image_dim and imu_dim of the model are {wanted}; give "
                f"IMUPredictor(model.image_dim, model.imu_dim)"
            )
    objective = PretrainIMU(model, predictor, frames, settings, teacher, teacher_rows)
    with frozen(model.image_encoder, model.classifier):
        return train(objective, store, settings)


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Freeze the parameters of these modules inside the block."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class EndFeatures:
    """A consumer of `data.prepare()` that writes image features of the end frames instead of these frames.

    Only stage 1 reads the end frames, and it needs only what the frozen image encoder computes from them: 4 kB per clip
    instead of 301 kB (ResNet-18, 224 pixels). `pretrain_imu()` accepts the store for models with the same image
    encoder. The array is "end_features" float32 [n, 2, d]; "end_features.teacher.json" identifies the encoder.
    Device and precision are as in `evaluate()`.

    >>> from egodistill import EgoDistill, data, distillation
    >>> segments = data.read_epic_kitchens("world/EPIC_100_train.csv", "world")
    >>> consumer = distillation.EndFeatures(EgoDistill.load("student.safetensors"))
    >>> store = data.prepare(segments[:2], "small", frame_size=64, consumer=consumer, progress=False)
    >>> store.names, store.read("end_features", [0, 1]).shape
    (['frames_1', 'imu', 'end_features'], (2, 2, 64))
    """

    arrays = ("end_features",)

    def __init__(
        self,
        model: EgoDistill,
        *,
        batch_size: int = 8,
        device: str | torch.device | None = None,
        precision: str = "fp32",
    ) -> None:
        batches.require_number(named("batch_size"), batch_size, 1, whole=True)
        self.model, self.batch_size = model, batch_size
        self.device = runtime.pick_device(device)
        self.precision = runtime.pick_precision(self.device, precision)
        choice = {"exact": model.exact, "tolerance": model.tolerance}
        spec = ClipSpec(frames=2, size=model.frame_size, sampling="ends", **choice)
        self.specs = {"ends": spec.complete()}
        self.identity = {"fingerprint": encoder_fingerprint(model), "precision": self.precision}
        self.record = {"end_features": self.identity}

    @contextlib.contextmanager
    def open(self, store: Any) -> Iterator[Callable[[np.ndarray, Mapping[str, np.ndarray]], None]]:
        """Yield a function that writes the features of rows from their frames: "ends" uint8 [B, 2, 3, H, W].

        Raise DataError if the store has features of another encoder, or a feature is not finite.
        """
        claim = claim_outputs(store, "end_features", self.identity)
        store.add("end_features", (2, self.model.image_dim), np.float32)
        with runtime.evaluation(self.model, self.device), torch.no_grad():
            yield functools.partial(self._write, store, claim)

    def _write(self, store: Any, claim: OutputClaim, rows: np.ndarray, frames: Mapping[str, np.ndarray]) -> None:
        with runtime.autocast(self.device, self.precision):
            features = self.model.encode_frames(torch.from_numpy(frames["ends"]).to(self.device), 2)
        claim.check()
        store.write("end_features", rows, features.float().cpu().numpy())


def encoder_fingerprint(model: EgoDistill) -> str:
    """Return a hash of what decides the features of a frame: the image encoder's weights, and the frame's size."""
    return checkpoints.weights_fingerprint(model.image_encoder, {"frame_size": model.frame_size})


def ends_of(model: EgoDistill, store: Store) -> str:
    """Return the array from which stage 1 has the features of end frames: "end_features" or "ends".

    Raise EgoDistillError if the store has neither, or features of another image encoder than the model's.
    """
    if "end_features" not in getattr(store, "names", ()):
        batches.require_array(store, "ends", "prepare(..., ends=True)")
        return "ends"
    found, own = outputs_record(store, "end_features").get("fingerprint"), encoder_fingerprint(model)
    if found != own:
        where = getattr(store, "path", "the store")
        raise EgoDistillError(
            f"{where}: its end_features are from an image encoder with the fingerprint {found}, this model's "
            f"is {own} (weights and frame size). Build the model with the weights of `prepare --end-features`, or "
            f"prepare another store with this model's, or with the end frames themselves (without --end-features)"
        )
    return "end_features"


@torch.no_grad()
def frozen_features(model: EgoDistill, store: Store, frames: str, settings: Training) -> Tensor:
    """Return the image features of each clip's first frame, N frames and last frame: float32 [clips, N + 2, d]."""
    device, size = runtime.pick_device(settings.device), settings.batch_size
    rows, result = torch.arange(len(store)), []
    ends = ends_of(model, store)
    reader = batches.read_batches(store, [frames, ends], rows, size, device, rank_rows)
    show = settings.progress and distributed.is_first()
    with files.Progress("image features", len(store), show=show) as bar, runtime.evaluation(model, device):
        for part, (batch, _) in zip(rows.split(size), reader, strict=True):
            weight = Share.of(len(part)).weights(len(batch["row"]), device)
            first, stack, last = batch[ends][:, :1], batch[frames], batch[ends][:, 1:]
            if ends == "ends":
                stack = torch.cat([first, stack, last], dim=1)
            with runtime.autocast(device, settings.precision):
                features = model.encode_frames(stack, stack.shape[1]).float()
            if ends != "ends":
                features = torch.cat([first, features, last], dim=1)
            result.append(distributed.gather(features, weight)[0].cpu())
            bar.step(len(part))
    return torch.cat(result)


# ---------------------------------------------------------------------------------------------------------------
# Stage 2: distillation


class Distill(LabelledObjective):
    """Objective of `distill()`: alpha L_KD + (1 - alpha) L_GT + beta L_1 (equation 6).

    For another loss, a subclass overrides `logit_loss()` or `feature_loss()`, which are reported as "kd" and "l1".
    """

    def __init__(self, model: Model, store: Store, settings: DistillationSettings, teacher: str) -> None:
        way_out = "a teacher's logits are of the store's classes; build the model with class_names=store.class_names"
        inputs = batches.arrays_of(model, store, way_out=way_out)
        targets = batches.require_teacher(store, teacher, "feature", "logits")
        record = {"stage": "distill", "teacher": teacher}
        if type(self) is not Distill:
            record["objective"] = checkpoints.class_name(type(self))  # a run with other losses is another run
        super().__init__(model, [*inputs, *targets], record, store, settings.label_smoothing)
        self.inputs, self.targets, self.settings = inputs, targets, settings
        self.background, logits = background_logits(store, teacher) or (None, None)
        self.register_buffer("background_logits", logits, persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self.outputs(*(batch[name] for name in self.inputs))
        return self.with_single_inputs([self.values(output, batch) for output in outputs])

    def values(self, output: Output, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what `forward()` reports, for one output."""
        settings, output = self.settings, output._replace(logits=output.logits[:, : self.taught_classes])
        feature, logits = output
        teacher = Output(*(batch[name] for name in self.targets))
        require_same_shape(feature, teacher.feature)
        require_same_shape(logits, teacher.logits, "logits", "num_classes")
        if self.background is not None:
            here, said = (batch["label"] == self.background)[:, None], self.background_logits.to(teacher.logits.dtype)
            teacher = teacher._replace(logits=torch.where(here, said, teacher.logits))
        kd = self.logit_loss(output, teacher)
        gt, seen = self.label_term(logits, batch)
        l1 = self.feature_loss(output, teacher)
        extra = extra_losses(self.model, output, batch)
        require_per_clip({"kd": kd, "l1": l1} | extra, len(logits))
        loss = settings.alpha * kd + (1 - settings.alpha) * gt + settings.beta * l1 + sum(extra.values())
        values = {"loss": loss, "kd": kd, "gt": seen.get("gt"), "l1": l1, "top1": seen.get("top1")}
        if not self.all_labels:
            values["agreement"] = is_correct(logits, teacher.logits.argmax(1))
        return {name: value for name, value in values.items() if value is not None} | extra

    def logit_loss(self, student: Output, teacher: Output) -> Tensor:
        """Return L_KD of each clip, [b], from features [b, D] and logits [b, C]."""
        settings = self.settings
        return distillation_loss(student.logits, teacher.logits, settings.tau, tau_squared=settings.tau_squared)

    def feature_loss(self, student: Output, teacher: Output) -> Tensor:
        """Return L_1 of each clip, [b], from features [b, D] and logits [b, C]."""
        return feature_loss(student.feature, teacher.feature, reduction=self.settings.l1_reduction)


def background_logits(store: Store, teacher: str) -> tuple[int, Tensor] | None:
    """Return the index of "(none)", and logits [C] that a teacher which lacks this class is made to say of background.

    It says "(none)" as surely as it says the best class of other clips, and all other classes alike. None for a teacher
    that knows the class, and for a store without background, or of background alone.
    """
    place, labels = batches.background_of(store), batches.labels_of(store)
    if place is None or not batches.lacks_background(store, teacher) or labels.min() == labels.max():
        return None
    if not (background := labels == place).any():
        return None
    logits = batches.read_rows(store, f"{teacher}.logits", np.arange(len(labels))).numpy()
    known = np.sort(np.delete(logits, place, 1)[~background], 1)
    best = float(known[:, -1].mean())
    said = torch.full((logits.shape[1],), float(known[:, :-1].mean()) if known.shape[1] > 1 else best - 10.0)
    said[place] = best
    return place, said


@distributed.propagate_failure
def distill(
    model: Model,
    store: Store,
    settings: DistillationSettings = DistillationSettings(),
    *,
    teacher: str,
    validation: Store | None = None,
    calibration: Store | None = None,
    objective: type[Distill] = Distill,
    **changes: Unpack[DistillationOptions],
) -> History:
    """Train a whole student with alpha L_KD + (1 - alpha) L_GT + beta L_1: stage 2, equation 6.

    Clips need no labels. L_GT is the mean over the labelled clips of a batch, 0 if it has none; the other terms are
    means over all clips. Their weights stay, so without any label the loss is alpha L_KD + beta L_1.

    Args:
        model: The student to train, in place; see `batches.Model`.
        store: The clips to train on.
        settings: The settings of stage 2. The defaults are the paper's for EPIC-KITCHENS; `EGO4D.distillation` has
            those for Ego4D.
        teacher: Name of a teacher whose outputs `teachers.extract()` added to the store. One that lacks the class
            "(none)" is made to say it of background as surely as it says the best class of other clips.
        validation: As in `finetune()`, with outputs of the teacher. Without any labels, the lowest loss counts.
        calibration: As in `finetune()`.
        objective: The losses: `Distill`, or your subclass of it.
        changes: Fields that override those of `settings`, such as `tau=4.0`.

    Returns:
        One dict per epoch: loss, kd, gt, l1, top1, and the last three entries of `finetune()`. gt and top1 are means
        over the labelled clips, and absent without any; if a clip has no label, "agreement" is the share of all clips
        whose best class is the teacher's.

    Raises:
        EgoDistillError: If the features of student and teacher differ in size, or their numbers of classes do, and as
            in `finetune()`, except for labels.
        EgoDistillOSError: As in `finetune()`.

    >>> from egodistill import EgoDistill, data, distill
    >>> train = data.ClipStore("store").split("train")
    >>> model = EgoDistill.load("student.safetensors")
    >>> history = distill(model, train, teacher="x3d", epochs=1, tau=4.0, progress=False)
    >>> list(history[0])[:5]
    ['loss', 'kd', 'gt', 'l1', 'top1']
    """
    settings = change_settings(DistillationSettings, settings, changes)
    if not (isinstance(objective, type) and issubclass(objective, Distill)):
        raise EgoDistillError(f"objective={objective!r} is not a class that inherits from distillation.Distill")
    losses = objective(model, store, settings, teacher)
    if validation is not None:
        batches.require_teacher(validation, teacher, "feature", "logits")
        if losses.any_labels:
            batches.require_labels(validation)
    return train(losses, store, settings, validation, calibration)
