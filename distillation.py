"""Distillation of a video model into a student of few frames and head motion: losses, and the stages of training.

    from egodistill import EGO4D, EgoDistill, data, distill, pretrain_imu

    train = data.ClipStore("store").split("train")              # with the outputs of teachers.extract()
    model = EgoDistill(num_classes=len(train.class_names))
    pretrain_imu(model, train, teacher="motionformer")          # stage 1: section 3.4
    distill(model, train, teacher="motionformer", **EGO4D)      # stage 2: section 3.3

Equations, sections and defaults are those of the paper (Tan, Nagarajan, Grauman, NeurIPS 2023). `finetune()` trains any
model on labels alone: teachers, baselines, and the paper's VisOnly and VisIMU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from egodistill import EgoDistillError, batches, files, runtime
from egodistill.batches import Model, Store
from egodistill.runtime import Share
from egodistill.student import EgoDistill, IMUPredictor, Output, describe
from egodistill.training import History, Objective, Training, TrainingOptions, own_rows, train

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "EGO4D",
    "EPIC_KITCHENS",
    "Distill",
    "Finetune",
    "PretrainIMU",
    "action_loss",
    "contrastive_loss",
    "distill",
    "distillation_loss",
    "feature_loss",
    "finetune",
    "pretrain_imu",
]

Reduction = Literal["mean", "sum"]

# Stage 2 as the paper trained it (section 4.1, appendix C): `distill(model, store, teacher=..., **EGO4D)`.
EGO4D: dict[str, Any] = {"tau": 10.0, "epochs": 150, "decay_epochs": (90, 120)}
EPIC_KITCHENS: dict[str, Any] = {"tau": 1.0, "epochs": 50, "decay_epochs": (30, 40)}


# ---------------------------------------------------------------------------------------------------------------
# Losses: pure functions of tensors, in the paper's order. Each gives one value per clip, [B]; the paper's are means.


def action_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L_ACT and L_GT, equations 1 and 5: cross-entropy of logits [B, C] with class numbers [B] -> [B]."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def feature_loss(student: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """L_1, equation 3: features [B, D] -> [B]. "mean" over the dimensions keeps beta = 1 meaningful for any D."""
    if reduction not in ("mean", "sum"):
        raise EgoDistillError(f"the reduction of L_1 over dimensions is 'mean' or 'sum', not {reduction!r}")
    distance = (student.float() - teacher.float()).abs()
    return distance.mean(dim=1) if reduction == "mean" else distance.sum(dim=1)


def distillation_loss(student: Tensor, teacher: Tensor, tau: float, *, tau_squared: bool = False) -> Tensor:
    """L_KD, equation 4: KL(softmax(teacher / tau) || softmax(student / tau)) of logits [B, C] -> [B].

    As printed it has no factor tau^2, so that at tau = 10 its gradient is about a hundredth of that at 1;
    `tau_squared` puts it in (Hinton, Vinyals, Dean 2015, section 2).
    """
    wanted, given = (F.log_softmax(logits.float() / tau, dim=1) for logits in (teacher, student))
    divergence = F.kl_div(given, wanted, reduction="none", log_target=True).sum(dim=1)
    return divergence * tau**2 if tau_squared else divergence


def contrastive_loss(predicted: Tensor, actual: Tensor, tau: float = 0.1, *, symmetric: bool = False) -> Tensor:
    """L_NCE, equation 7: IMU features predicted from images [B, D] against the true ones of the whole batch -> [B].

    Row i is right when its cosine similarity is highest in column i. `symmetric` adds the other direction.
    """
    similarity = cosine_similarity(predicted, actual) / tau
    own = torch.arange(len(similarity), device=similarity.device)
    rows = F.cross_entropy(similarity, own, reduction="none")
    return (rows + F.cross_entropy(similarity.T, own, reduction="none")) / 2 if symmetric else rows


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the similarity of each row of [A, D] to each of [B, D]: [A, B]."""
    return F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T


# ---------------------------------------------------------------------------------------------------------------
# Labels alone


class Finetune(Objective):
    """L_ACT (equation 1), and the losses of a model's own."""

    def __init__(self, model: nn.Module, store: Store) -> None:
        reads = batches.arrays_of(model, store)
        batches.require_labels(store)
        super().__init__(model, reads, {"stage": "finetune"})

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        output = self.model(*(batch[name] for name in self.reads))
        extra = extra_losses(self.model, output, batch)
        return {
            "loss": action_loss(output.logits, batch["label"]) + sum(extra.values()),
            "top1": correct(output.logits, batch["label"]),
            **extra,
        }


@runtime.propagate_failure
def finetune(model: Model, store: Store, **training: Unpack[TrainingOptions]) -> History:
    """Train any model, teacher or student, on labels alone: L_ACT (equation 1). VisOnly and VisIMU are trained so.

    `training` are fields of `Training`. Parameters with requires_grad=False stay as they are. Returns one dict an
    epoch: loss, top1 (on the training clips, as they are seen), clips_per_second, loader_share, learning_rate.
    EgoDistillError where the store lacks an array (and what makes it), model and store differ in classes or frame size,
    a clip has no label, the checkpoint is of another run, or the loss is no longer finite (and for which clips);
    EgoDistillOSError where the checkpoint cannot be written or another process is gone. So do the other two stages.
    """
    settings = Training(**training)
    return train(Finetune(model, store), store, settings)


def extra_losses(model: nn.Module, output: Output, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a model adds to each clip's loss by itself (AdaFuse: its efficiency), by names for the history."""
    return model.extra_loss(output, batch) if hasattr(model, "extra_loss") else {}


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1.0 for each clip whose best class is its label, else 0.0."""
    return (logits.argmax(1) == labels).float()


# ---------------------------------------------------------------------------------------------------------------
# Stage 1: the IMU encoder by itself


class PretrainIMU(Objective):
    """nce_weight L_NCE + l1_weight L_1 of section 3.4, on image features that are computed once.

    The arguments are those of `pretrain_imu()`; `frames` is the store's array of the frames that the model reads.
    """

    def __init__(
        self,
        model: EgoDistill,
        predictor: IMUPredictor,
        frames: str,
        *,
        teacher: str | None,
        nce_tau: float,
        nce_weight: float,
        l1_weight: float,
        l1_reduction: Reduction,
        symmetric: bool,
    ) -> None:
        record = {
            "stage": "pretrain_imu",
            "teacher": teacher,
            "nce_tau": nce_tau,
            "nce_weight": nce_weight,
            "l1_weight": l1_weight,
            "l1_reduction": l1_reduction,
            "symmetric": symmetric,
        }
        targets = [f"{teacher}.feature"] if l1_weight else []
        super().__init__(model, ["imu", *targets], record)
        self.predictor, self.frames, self.targets = predictor, frames, targets
        self.features = torch.empty(0)
        self.nce_tau, self.nce_weight, self.symmetric = nce_tau, nce_weight, symmetric
        self.l1_weight, self.l1_reduction = l1_weight, l1_reduction
        self.find_unused = not l1_weight  # The fusion network has no gradient then.

    def begin(self, store: Store, settings: Training) -> None:
        self.features = frozen_features(self.model, store, self.frames, settings)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        frames = self.features[batch["row"]].to(batch["imu"].device)
        actual = self.model.encode_imu(batch["imu"])
        predicted = self.predictor(frames[:, 0], frames[:, -1])
        # The clips of all processes are negatives; `own` are the places of this one's among them.
        (queries, own), (keys, _) = (runtime.gather(x, batch["weight"]) for x in (predicted, actual))
        nce = contrastive_loss(queries, keys, self.nce_tau, symmetric=self.symmetric)[own]
        losses = {"loss": self.nce_weight * nce, "nce": nce}
        for target in self.targets:
            feature = self.model.fuse(self.model.aggregate(frames[:, 1:-1]), actual).feature
            losses["l1"] = feature_loss(feature, batch[target], reduction=self.l1_reduction)
            losses["loss"] = losses["loss"] + self.l1_weight * losses["l1"]
        return losses | {"matching": correct(cosine_similarity(queries[own], keys), own)}


@runtime.propagate_failure
def pretrain_imu(
    model: EgoDistill,
    store: Store,
    *,
    teacher: str | None,
    predictor: IMUPredictor | None = None,
    nce_tau: float = 0.1,
    nce_weight: float = 1.0,
    l1_weight: float = 1.0,
    l1_reduction: Reduction = "mean",
    symmetric: bool = False,
    **training: Unpack[TrainingOptions],
) -> History:
    """Stage 1, section 3.4: self-supervised training of the IMU encoder, the predictor h and the fusion network.

    Loss: L_NCE (equation 7) + L_1 to the feature of `teacher`, the name under which `teachers.extract()` wrote to the
    store (None together with l1_weight=0). The image encoder is frozen and in evaluation mode (fine-tuning it here
    makes it collapse, as the paper's footnote says), so the features of all frames are computed once and kept in
    memory: (N + 2) x 512 numbers a clip. A GRU, whose start is random, is trained along. h is not part of the
    student; give your own `predictor` to keep it. History: loss, nce, l1, matching (the share of clips whose predicted
    IMU feature is nearest to the clip's own in its batch). Under torchrun the clips of all processes are negatives.
    Raises what `finetune()` does (labels are not needed), and EgoDistillError for a model without IMU.
    """
    settings = Training(**training)
    if "imu" not in model.inputs:
        raise EgoDistillError("pretrain_imu() trains the IMU encoder, and this model was built with use_imu=False")
    if teacher is None and l1_weight:
        raise EgoDistillError("the L_1 part of stage 1 needs teacher=NAME; or set l1_weight=0 to leave it out")
    frames, *_ = batches.arrays_of(model, store)
    batches.require_array(store, "ends", "prepare(..., ends=True)")
    if l1_weight:
        batches.require_teacher(store, teacher, "feature")
    if predictor is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            predictor = IMUPredictor(model.image_dim, model.imu_dim)
    objective = PretrainIMU(
        model,
        predictor,
        frames,
        teacher=teacher,
        nce_tau=nce_tau,
        nce_weight=nce_weight,
        l1_weight=l1_weight,
        l1_reduction=l1_reduction,
        symmetric=symmetric,
    )
    with frozen(model.image_encoder, model.classifier):
        return train(objective, store, settings)


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Train no parameter of these modules inside the block."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@torch.no_grad()
def frozen_features(model: EgoDistill, store: Store, frames: str, settings: Training) -> Tensor:
    """Return image features of each clip's first frame, its N frames and its last frame: float32 [clips, N + 2, d]."""
    device, size = runtime.pick_device(settings.device), settings.batch_size
    rows, found = torch.arange(len(store)), []
    coming = batches.read(store, [frames, "ends"], rows, size, device, own_rows)
    show = settings.progress and runtime.is_first()
    with files.Progress("image features", len(store), show=show) as bar, runtime.evaluation(model, device):
        for part, (batch, _) in zip(rows.split(size), coming, strict=True):
            weight = Share.of(len(part)).weights(len(batch["row"]), device)
            stack = torch.cat([batch["ends"][:, :1], batch[frames], batch["ends"][:, 1:]], dim=1)
            with runtime.autocast(device, settings.precision):
                features = model.encode_frames(stack, stack.shape[1]).float()
            found.append(runtime.gather(features, weight)[0].cpu())
            bar.step(len(part))
    return torch.cat(found)


# ---------------------------------------------------------------------------------------------------------------
# Stage 2: distillation


class Distill(Objective):
    """alpha L_KD + (1 - alpha) L_GT + beta L_1 (equation 6). The arguments are those of `distill()`."""

    def __init__(
        self,
        model: nn.Module,
        store: Store,
        *,
        teacher: str,
        alpha: float,
        beta: float,
        tau: float,
        tau_squared: bool,
        l1_reduction: Reduction,
    ) -> None:
        inputs = batches.arrays_of(model, store)
        batches.require_labels(store)
        targets = batches.require_teacher(store, teacher, "feature", "logits")
        record = {
            "stage": "distill",
            "teacher": teacher,
            "alpha": alpha,
            "beta": beta,
            "tau": tau,
            "tau_squared": tau_squared,
            "l1_reduction": l1_reduction,
        }
        super().__init__(model, [*inputs, *targets], record)
        self.inputs, self.targets = inputs, targets
        self.alpha, self.beta, self.tau = alpha, beta, tau
        self.tau_squared, self.l1_reduction = tau_squared, l1_reduction

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        feature, logits = output = self.model(*(batch[name] for name in self.inputs))
        teacher = Output(*(batch[name] for name in self.targets))
        if feature.shape != teacher.feature.shape:
            raise EgoDistillError(
                f"the student's feature is {describe(feature)} and the teacher's {describe(teacher.feature)}; build "
                f"the student with feature_dim={teacher.feature.shape[1]}"
            )
        kd = distillation_loss(logits, teacher.logits, self.tau, tau_squared=self.tau_squared)
        gt = action_loss(logits, batch["label"])
        l1 = feature_loss(feature, teacher.feature, reduction=self.l1_reduction)
        extra = extra_losses(self.model, output, batch)
        loss = self.alpha * kd + (1 - self.alpha) * gt + self.beta * l1 + sum(extra.values())
        return {"loss": loss, "kd": kd, "gt": gt, "l1": l1, "top1": correct(logits, batch["label"]), **extra}


@runtime.propagate_failure
def distill(
    model: Model,
    store: Store,
    *,
    teacher: str,
    alpha: float = 0.95,
    beta: float = 1.0,
    tau: float = 1.0,
    tau_squared: bool = False,
    l1_reduction: Reduction = "mean",
    **training: Unpack[TrainingOptions],
) -> History:
    """Stage 2, equation 6: alpha L_KD + (1 - alpha) L_GT + beta L_1, all parts of the student trainable.

    `teacher` is the name under which `teachers.extract()` wrote its features and logits to the store. Defaults are
    the paper's for EPIC-KITCHENS; `**EGO4D` holds those for Ego4D. History: loss, kd, gt, l1, top1.
    Raises what `finetune()` does, and EgoDistillError where the student's feature is not of the teacher's size.
    """
    settings = Training(**training)
    objective = Distill(
        model,
        store,
        teacher=teacher,
        alpha=alpha,
        beta=beta,
        tau=tau,
        tau_squared=tau_squared,
        l1_reduction=l1_reduction,
    )
    return train(objective, store, settings)
