"""EgoDistill: one frame and the wearer's head motion instead of a heavy video model.

An implementation of "EgoDistill: Egocentric Head Motion Distillation for Efficient Video Understanding" (Tan,
Nagarajan, Grauman, NeurIPS 2023). The student, its losses, its training stages, its evaluation and its cost:

    from egodistill import EgoDistill, data, distill, evaluate, measure, predict, pretrain_imu, retrieve

    train, test = (data.ClipStore("store").split(name) for name in ("train", "test"))
    model = EgoDistill(num_classes=len(train.class_names))
    pretrain_imu(model, train, teacher="motionformer")          # stage 1: section 3.4
    distill(model, train, teacher="motionformer", tau=10.0)     # stage 2: section 3.3
    print(evaluate(model, test).top1, measure(model).gmacs)
    model.save("student.pt")
    for clip in predict(model, "walk.mp4"):                     # head motion out of the GoPro file itself
        print(clip.start, clip.classes[0])
    frames, imu = (torch.from_numpy(test.read(name, [0])) for name in ("frames_1", "imu"))
    print(retrieve(model, test, frames, imu, teacher="motionformer").rows)     # clips that look and move like this one

Four students of the paper are one class: EgoDistill; VisOnly-Distill (`use_imu=False`); VisIMU and VisOnly are the
same two trained on labels alone, by `finetune()` instead of `distill()`.

A model, student or teacher, is a torch module that names what it reads, `model.inputs = ("frames", "imu")`, takes
these tensors in that order and returns `(feature, logits)`. A store is anything with `data.ClipStore`'s reading
face. So any of them goes through the same loop, and this file needs no other file of the package but in `predict()`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import shutil
import statistics
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

# The modules lie flat in one folder. A module with a `__path__` is a package to Python, so that `egodistill.data` is
# found beside this file in a checkout as it is in an installed package.
__path__ = [os.path.dirname(os.path.abspath(__file__))]
__version__ = "0.1.1"

__all__ = [
    "EGO4D",
    "EPIC_KITCHENS",
    "Cost",
    "DataError",
    "EgoDistill",
    "EgoDistillError",
    "EgoDistillOSError",
    "Evaluation",
    "IMUEncoder",
    "IMUPredictor",
    "Output",
    "Prediction",
    "Retrieval",
    "Training",
    "distill",
    "evaluate",
    "finetune",
    "measure",
    "predict",
    "pretrain_imu",
    "retrieve",
]

CLIP_SECONDS = 64 / 30  # 64 frames at 30 per second, what the paper's teachers see.
IMU_RATE = 198.0  # Hz
IMU_SAMPLES = 422  # of one clip
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Stage 2 as the paper trained it (section 4.1, appendix C): `distill(model, store, teacher=..., **EGO4D)`.
EGO4D: dict[str, Any] = {"tau": 10.0, "epochs": 150, "decay_epochs": (90, 120)}
EPIC_KITCHENS: dict[str, Any] = {"tau": 1.0, "epochs": 50, "decay_epochs": (30, 40)}


class EgoDistillError(ValueError):
    """Something given does not fit; the message says what, where, and what would."""


class DataError(EgoDistillError):
    """A file, annotations or a store that cannot be used as they are; or a folder that holds another run."""


class EgoDistillOSError(EgoDistillError, OSError):
    """A problem outside the library: a file is missing or unwritable, or a training process has died."""


class Output(NamedTuple):
    """What every model returns: feature [B, D] and class logits [B, C] (no softmax)."""

    feature: Tensor
    logits: Tensor


# ---------------------------------------------------------------------------------------------------------------
# The student (sections 3.2 and 3.3, appendix C)


class IMUEncoder(nn.Module):
    """Five-layer dilated 1-D CNN over head motion, f_M: imu [B, T, 6] -> feature map [B, width, T].

    Layers, kernels and dilations of Brossard, Bonnabel and Barrau ("Denoising IMU gyroscopes with deep learning for
    open-loop attitude estimation", 2020), to which the paper refers. All padding is on the left and repeats the first
    sample, so each output sees the present and the past only; the 511 samples that it sees are more than a clip has.

    `width` is that of the last layer. Neither paper gives it; 16 comes nearest to the published parameter count. Bias
    and gravity are to be removed before, as `EgoDistill.encode_imu()` does.
    """

    def __init__(self, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        kernel, channels, dilations = 7, (6, 16, 32, 64, 128), (1, 4, 16, 64)
        layers: list[nn.Module] = [nn.ReplicationPad1d(((kernel - 1) * sum(dilations), 0))]
        for before, after, dilation in zip(channels, channels[1:], dilations, strict=False):
            layers += [
                nn.Conv1d(before, after, kernel, dilation=dilation),
                nn.BatchNorm1d(after),
                nn.GELU(),
                nn.Dropout(dropout),
            ]
        self.cnn = nn.Sequential(*layers, nn.Conv1d(channels[-1], width, 1))

    def forward(self, imu: Tensor) -> Tensor:
        return self.cnn(imu.transpose(1, 2))


class IMUPredictor(nn.Module):
    """h of section 3.4: image features of a clip's first and last frame [B, d] each -> IMU feature [B, D].

    `hidden` is the width of its hidden layer (as in the fusion network, since the paper gives no form), None = linear.
    """

    def __init__(self, image_dim: int, imu_dim: int, hidden: int | None = 1024) -> None:
        super().__init__()
        self.layers = perceptron(2 * image_dim, [] if hidden is None else [hidden], imu_dim)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        return self.layers(torch.cat([first, last], dim=1))


def perceptron(before: int, hidden: list[int], after: int) -> nn.Sequential:
    """Fully connected layers with a ReLU after each but the last."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, after))


class EgoDistill(nn.Module):
    """The student Phi: N frames and head motion -> the teacher's feature and class logits (figure 2, right).

    num_classes      C.
    feature_dim      D, the size of the teacher's feature (768 for MotionFormer).
    num_frames       N. One frame is the clip's centre frame; more go through a GRU, whose last state is used.
    image_encoder    f_I, any classification network of torchvision by its name, without its classifier; or
                     "resnet10xW", a small one for small frames: a residual block a stage, W to 8 W channels.
    image_weights    "imagenet" (torchvision downloads them), a state dict or the path of one, or None for random.
    use_imu          False: VisOnly and VisOnly-Distill.
    frame_size       Height and width of the frames it is trained on, kept for `predict()`.
    clip_seconds, imu_samples, imu_rate   Length of a clip (s), its IMU samples, their rate (Hz); for `predict()`, too.
    class_names      C names; taken from the store in training when not given.

    Where the paper is silent (README, "Choices"):

    imu_width        Width of the IMU encoder's last layer.
    imu_vector       "flatten" the IMU feature map over time, or its "mean" over time (accepts any length).
    hidden, fusion_layers   Width and number of hidden layers in the fusion network.

    Forward takes frames uint8 [B, N, 3, H, W] (RGB) and imu float [B, 422, 6] (m/s2 and rad/s, gravity included). It
    normalises the frames and removes the IMU's mean over each clip and channel by itself; EgoDistillError names
    both shapes where one does not fit. It returns `Output(feature [B, D], logits [B, C])`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        feature_dim: int = 768,
        num_frames: int = 1,
        image_encoder: str = "resnet18",
        image_weights: str | os.PathLike | Mapping[str, Tensor] | None = "imagenet",
        use_imu: bool = True,
        imu_width: int = 16,
        imu_vector: str = "flatten",
        imu_samples: int = IMU_SAMPLES,
        imu_rate: float = IMU_RATE,
        hidden: int = 1024,
        fusion_layers: int = 2,
        frame_size: int = 224,
        clip_seconds: float = CLIP_SECONDS,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        if imu_vector not in ("flatten", "mean"):
            raise EgoDistillError(f"imu_vector is 'flatten' or 'mean', not {imu_vector!r}")
        if num_classes < 1 or num_frames < 1:
            raise EgoDistillError(f"num_classes={num_classes} and num_frames={num_frames} must be at least 1")
        if class_names is not None and len(class_names) != num_classes:
            raise EgoDistillError(f"{len(class_names)} class names for num_classes={num_classes}")
        # All but the weights, so that `load()` builds the same model again.
        self.arguments = {
            "num_classes": num_classes,
            "feature_dim": feature_dim,
            "num_frames": num_frames,
            "image_encoder": image_encoder,
            "use_imu": use_imu,
            "imu_width": imu_width,
            "imu_vector": imu_vector,
            "imu_samples": imu_samples,
            "imu_rate": imu_rate,
            "hidden": hidden,
            "fusion_layers": fusion_layers,
            "frame_size": frame_size,
            "clip_seconds": clip_seconds,
        }
        self.inputs = ("frames", "imu") if use_imu else ("frames",)
        self.num_frames, self.frame_size, self.clip_seconds = num_frames, frame_size, clip_seconds
        self.imu_samples, self.imu_rate, self.imu_vector = imu_samples, imu_rate, imu_vector
        self.feature_dim, self.num_classes = feature_dim, num_classes
        self.class_names = list(class_names) if class_names is not None else None

        self.image_encoder, self.image_dim = build_image_encoder(image_encoder, image_weights)
        fused = self.image_dim
        if num_frames > 1:
            self.gru = nn.GRU(self.image_dim, 512, batch_first=True)
            fused = 512
        if use_imu:
            self.imu_encoder = IMUEncoder(imu_width)
            self.imu_dim = imu_width * imu_samples if imu_vector == "flatten" else imu_width
            fused += self.imu_dim
        self.fusion = perceptron(fused, [hidden] * fusion_layers, feature_dim)
        self.classifier = nn.Linear(feature_dim, num_classes)
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor, imu: Tensor | None = None) -> Output:
        image = self.aggregate(self.encode_frames(frames))
        return self.fuse(image, None if imu is None else self.encode_imu(imu))

    def encode_frames(self, frames: Tensor, count: int | None = None) -> Tensor:
        """f_I on each frame: uint8 [B, N, 3, H, W] -> [B, N, d]. `count` is the N wanted, by default the model's."""
        count = count or self.num_frames
        if frames.ndim != 5 or frames.shape[1:3] != (count, 3) or frames.dtype != torch.uint8:
            raise EgoDistillError(
                f"frames are uint8 [batch, {count}, 3, height, width]; got {describe(frames)}. Frames come as the "
                f"store or data.read_frames() gives them: RGB, channels first, not normalised."
            )
        pixels = ((frames.flatten(0, 1) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.image_encoder(pixels).unflatten(0, frames.shape[:2])

    def aggregate(self, features: Tensor) -> Tensor:
        """z_I: frame features [B, N, d] -> [B, d], or the GRU's last state [B, 512] when N > 1."""
        return self.gru(features)[1][-1] if self.num_frames > 1 else features[:, 0]

    def encode_imu(self, imu: Tensor) -> Tensor:
        """z_M: imu float [B, T, 6], physical units -> [B, width * T] (or [B, width] with imu_vector="mean")."""
        if "imu" not in self.inputs:
            raise EgoDistillError("this model was built with use_imu=False and takes frames only")
        fixed = self.imu_vector == "flatten"
        length = self.imu_samples if fixed else "samples"
        if imu.ndim != 3 or imu.shape[2] != 6 or (fixed and imu.shape[1] != length) or not imu.is_floating_point():
            raise EgoDistillError(
                f"imu is float [batch, {length}, 6] (accelerometer xyz in m/s2, gyroscope xyz in rad/s); "
                f"got {describe(imu)}"
            )
        # Appendix C: sensor bias and gravity differ from clip to clip, only the motion within the clip is kept.
        features = self.imu_encoder(imu - imu.mean(dim=1, keepdim=True))
        return features.flatten(1) if fixed else features.mean(dim=2)

    def fuse(self, image: Tensor, imu: Tensor | None) -> Output:
        """Pi and the classifier: z_I [B, d] and z_M -> (z_phi [B, D], logits [B, C])."""
        if imu is None and "imu" in self.inputs:
            raise EgoDistillError("this model needs head motion beside the frames: model(frames, imu)")
        feature = self.fusion(image if imu is None else torch.cat([image, imu], dim=1))
        return Output(feature, self.classifier(feature))

    def example(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """Random inputs of the right shape and dtype, for `measure()`."""
        frames = torch.randint(
            256, (batch_size, self.num_frames, 3, self.frame_size, self.frame_size), dtype=torch.uint8
        )
        return (frames, torch.randn(batch_size, self.imu_samples, 6))[: len(self.inputs)]

    def save(self, path: str | os.PathLike) -> None:
        """Write one file that `load()` needs nothing else for: arguments, class names and weights."""
        write_checkpoint(
            path,
            {
                "format": STUDENT_FORMAT,
                "arguments": self.arguments,
                "class_names": self.class_names,
                "weights": self.state_dict(),
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> EgoDistill:
        """The model that `save()` wrote, in evaluation mode. EgoDistillError names the file where it does not fit."""
        content = read_checkpoint(path, STUDENT_FORMAT)
        model = cls(**content["arguments"], class_names=content["class_names"], image_weights=None)
        load_strictly(model, content["weights"], f"the checkpoint {path}")
        return model.eval()


STUDENT_FORMAT = "egodistill student 1"


def describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def build_image_encoder(name: str, weights: str | os.PathLike | Mapping[str, Tensor] | None) -> tuple[nn.Module, int]:
    """A classification network without its classifier, and the size of the feature that it gives."""
    if small := re.fullmatch(r"resnet10x([1-9]\d*)", name):
        if isinstance(weights, str) and weights == "imagenet":
            raise EgoDistillError(f"image_encoder={name!r} has no published weights; give image_weights=None or a file")
        encoder, size = small_resnet(int(small[1]))
        if weights is not None:
            state = weights if isinstance(weights, Mapping) else read_tensors(weights)
            load_strictly(encoder, state, "the image weights")
        return encoder, size
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise EgoDistillError(
            f"image_encoder={name!r} is no classification network of torchvision {torchvision.__version__}; "
            f"torchvision.models.list_models() lists them, for example 'resnet18' or 'mobilenet_v3_large'"
        )
    if isinstance(weights, str) and weights == "imagenet":
        try:
            encoder = torchvision.models.get_model(name, weights="DEFAULT" if name != "resnet18" else "IMAGENET1K_V1")
        except OSError as error:
            raise EgoDistillError(
                f"the ImageNet weights of {name} could not be downloaded ({error}). Without a network, give "
                f"image_weights=PATH (torchvision's .pth file, fetched elsewhere), or None for random weights."
            ) from error
    else:
        encoder = torchvision.models.get_model(name, weights=None)
    head = next((head for head in ("fc", "classifier", "head", "heads") if hasattr(encoder, head)), None)
    if head is None:
        raise EgoDistillError(f"image_encoder={name!r}: no classifier called fc, classifier, head or heads to take off")
    # SqueezeNet's classifier is a convolution, with the pooling behind it; everyone else pools before.
    pools = any(isinstance(layer, nn.Conv2d) for layer in getattr(encoder, head).modules())
    setattr(encoder, head, nn.AdaptiveAvgPool2d(1) if pools else nn.Identity())
    if weights is not None and weights != "imagenet":
        source = f"the image weights {weights}" if isinstance(weights, (str, os.PathLike)) else "the image weights"
        state = weights if isinstance(weights, Mapping) else read_tensors(weights)
        load_strictly(encoder, {k: v for k, v in state.items() if not k.startswith(f"{head}.")}, source)
    give_each_place_a_relu(encoder)
    encoder.to(memory_format=torch.channels_last)
    with torch.no_grad():  # Found out, not typed in.
        size = encoder.eval()(torch.zeros(1, 3, 224, 224)).shape[1]
    return nn.Sequential(encoder.train(), nn.Flatten()), size


def small_resnet(width: int) -> tuple[nn.Module, int]:
    """A ResNet with a block a stage and `width` channels in the first: for frames of 64 pixels and random weights."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    before = width
    for stage in range(4):
        after, stride = width * 2**stage, 2 if stage else 1
        downsample = shortcut(before, after, stride) if stage else None
        layers.append(torchvision.models.resnet.BasicBlock(before, after, stride, downsample))
        before = after
    encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    give_each_place_a_relu(encoder)
    return encoder.to(memory_format=torch.channels_last), before


def shortcut(before: int, after: int, stride: int) -> nn.Sequential:
    """Return the 1x1 convolution and batch norm of a residual shortcut, named "0" and "1" as in torchvision.

    In the backward pass of a strided 1x1 convolution in channels_last, oneDNN's kernels for x86 write outside of their
    workspace if there are fewer input channels than the kernel's block: 8 with AVX2, 16 with AVX-512
    (uxlfoundation/oneDNN#6035). The process crashes, hangs, or continues with wrong gradients. So narrow shortcuts
    select the pixels first and convolve them with stride 1, which gives the same numbers.
    """
    layers: dict[str, nn.Module] = {}
    if stride > 1 and before < LARGEST_BLOCK:
        layers["pixels"], stride = Pixels(stride), 1
    layers |= {"0": nn.Conv2d(before, after, 1, stride, bias=False), "1": nn.BatchNorm2d(after)}
    return nn.Sequential(OrderedDict(layers))


LARGEST_BLOCK = 16  # channels that oneDNN's kernels take together, in the largest vectors


class Pixels(nn.Module):
    """Select every `stride`-th row and column: [B, C, H, W] -> [B, C, h, w]."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :: self.stride, :: self.stride]


def give_each_place_a_relu(encoder: nn.Module) -> None:
    """torchvision's residual blocks call one ReLU module at two or three places, and quantisers refuse such blocks.

    Here every place has its own. A ReLU has no weights, so the names in a state dict stay torchvision's.
    """
    residual = (torchvision.models.resnet.BasicBlock, torchvision.models.resnet.Bottleneck)
    for parent in list(encoder.modules()):
        for name, block in parent.named_children():
            if isinstance(block, residual):
                traced = torch.fx.symbolic_trace(block)
                for node in traced.graph.nodes:
                    if node.target == "relu" and node.name != "relu":  # relu_1, relu_2
                        node.target = node.name
                        traced.add_submodule(node.name, nn.ReLU(inplace=True))
                traced.recompile()
                setattr(parent, name, traced)


# ---------------------------------------------------------------------------------------------------------------
# Losses: pure functions of tensors, in the paper's order. All are means over the batch.


def action_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L_ACT and L_GT, equations 1 and 5: cross-entropy of logits [B, C] with class numbers [B]."""
    return F.cross_entropy(logits.float(), labels)


def feature_loss(student: Tensor, teacher: Tensor, *, reduction: str = "mean") -> Tensor:
    """L_1, equation 3: features [B, D]. "mean" over the dimensions keeps beta = 1 meaningful for any D; or "sum"."""
    distance = (student.float() - teacher.float()).abs()
    if reduction not in ("mean", "sum"):
        raise EgoDistillError(f"the reduction of L_1 over dimensions is 'mean' or 'sum', not {reduction!r}")
    return distance.mean() if reduction == "mean" else distance.sum(dim=1).mean()


def distillation_loss(student: Tensor, teacher: Tensor, tau: float, *, tau_squared: bool = False) -> Tensor:
    """L_KD, equation 4: KL(softmax(teacher / tau) || softmax(student / tau)) of logits [B, C].

    As printed it has no factor tau^2, so that at tau = 10 its gradient is about a hundredth of that at 1;
    `tau_squared` puts it in (Hinton, Vinyals, Dean 2015, section 2).
    """
    wanted, given = (F.log_softmax(logits.float() / tau, dim=1) for logits in (teacher, student))
    divergence = F.kl_div(given, wanted, reduction="batchmean", log_target=True)
    return divergence * tau**2 if tau_squared else divergence


def contrastive_loss(predicted: Tensor, actual: Tensor, tau: float = 0.1, *, symmetric: bool = False) -> Tensor:
    """L_NCE, equation 7: IMU features predicted from images [B, D] against the true ones of all clips in the batch.

    Row i is right when its cosine similarity is highest in column i. `symmetric` adds the other direction.
    """
    similarity = F.normalize(predicted.float(), dim=1) @ F.normalize(actual.float(), dim=1).T / tau
    own = torch.arange(len(similarity), device=similarity.device)
    rows = F.cross_entropy(similarity, own)
    return (rows + F.cross_entropy(similarity.T, own)) / 2 if symmetric else rows


# ---------------------------------------------------------------------------------------------------------------
# Training: three stages over one loop


@dataclass(frozen=True)
class Training:
    """Settings that all stages share; each is a keyword argument of `finetune`, `pretrain_imu` and `distill`."""

    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-4
    decay_epochs: tuple[int, ...] = (30, 40)  # The learning rate is multiplied by `decay` after these epochs.
    decay: float = 0.1
    schedule: str = "step"  # the paper's; or "cosine", down to zero, which wastes less of a short training
    warmup_epochs: float = 0.0  # The learning rate rises from zero over these.
    weight_decay: float = 0.01  # AdamW's own default; the paper gives none.
    seed: int = 0  # The order of the data and dropout depend on it, on the epoch and the step, and on nothing else.
    precision: str = "fp32"  # or "bf16", automatic mixed precision; or "auto": bf16 where it is faster
    device: str | None = None  # None: a GPU where there is one
    checkpoint: str | os.PathLike | None = None  # File to resume from and to write while training.
    checkpoint_seconds: float = 300.0  # How often to write it within an epoch; it is always written after each.
    progress: bool = True
    sync_batch_norm: bool = False  # Several processes, GPUs only: batch norm over the whole batch.

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise EgoDistillError(
                f"training needs epochs >= 1 and batch_size >= 2; got {self.epochs}, {self.batch_size}"
            )
        if self.schedule not in ("step", "cosine"):
            raise EgoDistillError(f"schedule is 'step' or 'cosine'; got {self.schedule!r}")
        # Written down as chosen, so that a run that goes on elsewhere does not change its precision in silence.
        object.__setattr__(self, "precision", pick_precision(pick_device(self.device), self.precision))

    def rate(self, epoch: float) -> float:
        """Learning rate at a time counted in epochs from 0, such as 2.5 in the middle of the third."""
        if self.schedule == "cosine":
            factor = (1 + math.cos(math.pi * min(epoch / self.epochs, 1.0))) / 2
        else:
            factor = self.decay ** sum(epoch >= step for step in self.decay_epochs)
        return self.learning_rate * factor * (min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0)


History = list[dict[str, float]]


def ends_together(stage: Callable[..., History]) -> Callable[..., History]:
    """An error in one process of a training ends it in all: its closed connections wake those that wait for it."""

    @functools.wraps(stage)
    def run(*arguments: Any, **options: Any) -> History:
        try:
            return stage(*arguments, **options)
        except BaseException as error:
            # Asked before the others wake up: their errors follow from this one.
            error.is_first_failure = is_first_failure()
            # NCCL would wait for the others here; there the end of this process, and torchrun, end the rest.
            if members()[1] > 1 and distributed.get_backend() == "gloo":
                distributed.destroy_process_group()
            raise

    return run


@ends_together
def finetune(model: nn.Module, store: Any, **training: Any) -> History:
    """Train any model, teacher or student, on labels alone: L_ACT (equation 1). VisOnly and VisIMU are trained so.

    `training` are fields of `Training`. Parameters with requires_grad=False stay as they are. Returns one dict an
    epoch: loss, top1 (on the training clips, as they are seen), clips_per_second, loader_share, learning_rate.
    EgoDistillError where the store lacks an array (and what makes it), model and store differ in classes or frame size,
    a clip has no label, the checkpoint is of another run, or the loss is no longer finite (and for which clips);
    EgoDistillOSError where the checkpoint cannot be written or another process is gone. So do the other two stages.
    """
    settings = Training(**training)
    names = arrays_of(model, store)
    need_labels(store)

    def step(batch: dict[str, Tensor], share: Share) -> dict[str, Tensor]:
        output = model(*(batch[name] for name in names))
        extra = own_losses(model, output, batch)
        return {
            "loss": action_loss(output.logits, batch["label"]) + sum(extra.values()),
            "top1": (output.logits.argmax(1) == batch["label"]).float().mean(),
            **extra,
        }

    return train(model, store, names, step, settings, {"stage": "finetune"})


@ends_together
def pretrain_imu(
    model: EgoDistill,
    store: Any,
    *,
    teacher: str | None,
    predictor: IMUPredictor | None = None,
    nce_tau: float = 0.1,
    nce_weight: float = 1.0,
    l1_weight: float = 1.0,
    l1_reduction: str = "mean",
    symmetric: bool = False,
    **training: Any,
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
    names = [*arrays_of(model, store), "ends"]
    need(store, "ends", "prepare(..., ends=True)")
    if predictor is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            predictor = IMUPredictor(model.image_dim, model.imu_dim)
    device = pick_device(settings.device)
    join(device)
    features = frozen_features(model, store, names[0], settings)
    targets = [f"{teacher}.feature"] if l1_weight else []
    for target in targets:
        need(store, target, f"teachers.extract() with the teacher {teacher!r}")

    def step(batch: dict[str, Tensor], share: Share) -> dict[str, Tensor]:
        frames = features[batch["row"]].to(device)
        actual = model.encode_imu(batch["imu"])
        predicted = predictor(frames[:, 0], frames[:, -1])
        queries, keys = share.gather(predicted), share.gather(actual)
        nce = contrastive_loss(queries, keys, nce_tau, symmetric=symmetric)
        nearest = (F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T).argmax(1)
        losses = {"loss": nce_weight * nce, "nce": nce}
        if l1_weight:
            feature = model.fuse(model.aggregate(frames[:, 1:-1]), actual).feature
            losses["l1"] = feature_loss(feature, batch[targets[0]], reduction=l1_reduction)
            losses["loss"] = losses["loss"] + l1_weight * losses["l1"]
        losses["matching"] = (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean()
        return losses

    frozen = [p for p in (*model.image_encoder.parameters(), *model.classifier.parameters()) if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        what = {
            "stage": "pretrain_imu",
            "teacher": teacher,
            "nce_tau": nce_tau,
            "nce_weight": nce_weight,
            "l1_weight": l1_weight,
            "l1_reduction": l1_reduction,
            "symmetric": symmetric,
        }
        both = nn.ModuleDict({"model": model, "predictor": predictor})
        return train(both, store, ["imu", *targets], step, settings, what)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


@torch.no_grad()
def frozen_features(model: EgoDistill, store: Any, frames: str, settings: Training) -> Tensor:
    """Image features of each clip's first frame, its N frames and its last frame: float32 [clips, N + 2, d]."""
    device = pick_device(settings.device)
    model.to(device).image_encoder.eval()
    bar = Progress("image features", len(store), show=settings.progress and is_first())
    rows, size, found = torch.arange(len(store)), settings.batch_size, []
    for part, (batch, _) in zip(
        rows.split(size), read_ahead(store, [frames, "ends"], rows, size, device, own_rows), strict=True
    ):
        stack = torch.cat([batch["ends"][:, :1], batch[frames], batch["ends"][:, 1:]], dim=1)
        with autocast(device, settings.precision):
            features = model.encode_frames(stack, stack.shape[1]).float()
        found.append(Share.of(len(part)).gather(features).cpu())
        bar.step(len(part))
    bar.close()
    return torch.cat(found)


@ends_together
def distill(
    model: nn.Module,
    store: Any,
    *,
    teacher: str,
    alpha: float = 0.95,
    beta: float = 1.0,
    tau: float = 1.0,
    tau_squared: bool = False,
    l1_reduction: str = "mean",
    **training: Any,
) -> History:
    """Stage 2, equation 6: alpha L_KD + (1 - alpha) L_GT + beta L_1, all parts of the student trainable.

    `teacher` is the name under which `teachers.extract()` wrote its features and logits to the store. Defaults are
    the paper's for EPIC-KITCHENS; `**EGO4D` holds those for Ego4D. History: loss, kd, gt, l1, top1.
    Raises what `finetune()` does, and EgoDistillError where the student's feature is not of the teacher's size.
    """
    settings = Training(**training)
    names = arrays_of(model, store)
    need_labels(store)
    targets = [f"{teacher}.feature", f"{teacher}.logits"]
    for target in targets:
        need(store, target, f"teachers.extract() with the teacher {teacher!r}")

    def step(batch: dict[str, Tensor], share: Share) -> dict[str, Tensor]:
        feature, logits = output = model(*(batch[name] for name in names))
        wanted_feature, wanted_logits = (batch[target] for target in targets)
        if feature.shape != wanted_feature.shape:
            raise EgoDistillError(
                f"the student's feature is {describe(feature)} and the teacher's {describe(wanted_feature)}; build the "
                f"student with feature_dim={wanted_feature.shape[1]}"
            )
        kd = distillation_loss(logits, wanted_logits, tau, tau_squared=tau_squared)
        gt = action_loss(logits, batch["label"])
        l1 = feature_loss(feature, wanted_feature, reduction=l1_reduction)
        top1 = (logits.argmax(1) == batch["label"]).float().mean()
        extra = own_losses(model, output, batch)
        loss = alpha * kd + (1 - alpha) * gt + beta * l1 + sum(extra.values())
        return {"loss": loss, "kd": kd, "gt": gt, "l1": l1, "top1": top1, **extra}

    what = {
        "stage": "distill",
        "teacher": teacher,
        "alpha": alpha,
        "beta": beta,
        "tau": tau,
        "tau_squared": tau_squared,
        "l1_reduction": l1_reduction,
    }
    return train(model, store, names + targets, step, settings, what)


def own_losses(model: nn.Module, output: Output, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a model adds to the loss by itself (AdaFuse: its efficiency), under the names for the history."""
    return model.extra_loss(output, batch) if hasattr(model, "extra_loss") else {}


def train(
    model: nn.Module,
    store: Any,
    names: list[str],
    step: Callable[[dict[str, Tensor], Share], dict[str, Tensor]],
    settings: Training,
    what: dict[str, Any],
) -> History:
    """The loop of all stages: AdamW over shuffled batches, `step(batch, share)` gives the loss and what else to report.

    A batch holds the arrays `names` of the store, "label" and "row"; what `step` gives are means over it.

    With `settings.checkpoint`, a run that was killed and is started again with the same arguments goes on from the last
    step that was saved, and ends with the same weights as an undisturbed one (bit by bit on CPU); a finished one is
    loaded. The history is also written beside the checkpoint, a JSON line an epoch.

    Under torchrun, each of K processes takes its share of every batch, and they sum their gradients: what one process
    with that batch gives. So a run may go on with another K. Batch norm in training is the exception: it sees
    the clips of its process alone (unless `sync_batch_norm`), and its running statistics become, after each step,
    their mean over the processes, weighted by clips. Process 0 writes the files; all return the same history.
    """
    if len(store) < 2:
        raise EgoDistillError(f"{len(store)} clips are too few to train on; is the split right, did prepare() fail?")
    device = pick_device(settings.device)
    join(device)
    rank, processes = members()
    model.to(device).train()
    for part in model.modules():
        if isinstance(part, BATCH_NORMS) and part.affine and not part.weight.requires_grad:
            part.eval()  # A frozen image encoder keeps its statistics, too.
    if settings.sync_batch_norm and processes > 1:
        if device.type != "cuda":
            raise EgoDistillError(f"sync_batch_norm needs GPUs, torch has no such batch norm for {device.type!r}")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=device.type in ("cpu", "cuda")
    )

    state: dict[str, Any] = {"epoch": 0, "step": 0, "sums": {}, "history": []}
    about = what | asdict(settings) | {"clips": len(store), "class_names": store.class_names}
    # These may change between two runs.
    for key in ("device", "checkpoint", "checkpoint_seconds", "progress", "sync_batch_norm"):
        del about[key]
    about = json.loads(json.dumps(about))
    path = Path(settings.checkpoint) if settings.checkpoint is not None else None
    content: dict[str, Any] = {"about": about}
    if path is not None and is_first() and path.exists():
        content = read_checkpoint(path, TRAINING_FORMAT)
    content = from_first(content)
    other = {k: (content["about"].get(k), v) for k, v in about.items() if content["about"].get(k) != v}
    if other:
        differences = "; ".join(f"{name} was {was!r} and is now {now!r}" for name, (was, now) in other.items())
        source = f"the checkpoint {path}" if "state" in content else "process 0"
        raise EgoDistillError(f"{source} is of another run: {differences}. Delete it or give another one.")
    if "state" in content:
        load_strictly(model, content["weights"], f"the checkpoint {path}")
        optimizer.load_state_dict(content["optimizer"])
        state = content["state"]
    copy_from_first(model)

    def kept() -> str:
        return f" The last checkpoint, {path}, is kept." if path is not None and path.exists() else ""

    def save() -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in trained):
            raise EgoDistillError(
                f"{what['stage']}: weights are no longer finite in epoch {state['epoch']}, step {state['step']}. "
                f"Lower the learning rate.{kept()}"
            )
        if path is not None and is_first():
            content = {
                "about": about,
                "state": state,
                "weights": model.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            write_checkpoint(path, {"format": TRAINING_FORMAT, **content})

    show = settings.progress and is_first() and state["epoch"] < settings.epochs
    bar = Progress(what["stage"], len(store) * settings.epochs, show=show)
    bar.begin((state["epoch"] * len(store)) + state["step"] * settings.batch_size)
    saved = time.monotonic()
    while state["epoch"] < settings.epochs:
        epoch = state["epoch"]
        order = torch.randperm(len(store), generator=torch.Generator().manual_seed(mix(settings.seed, epoch)))
        if len(order) % settings.batch_size == 1:  # Batch norm and negatives want company.
            order = order[:-1]
        rest, began = order[state["step"] * settings.batch_size :], time.monotonic()
        waited = seen = 0
        for batch, wait in read_ahead(store, names, rest, settings.batch_size, device, own_rows):
            rows = order[state["step"] * settings.batch_size :][: settings.batch_size]
            share = Share.of(len(rows))
            moment = epoch + state["step"] * settings.batch_size / len(order)
            rate = settings.rate(moment)
            if hasattr(model, "set_progress"):  # A model that changes in the course of training, such as STTS.
                model.set_progress(moment / settings.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                # Dropout differs from process to process; the first is seeded as a single one.
                torch.manual_seed(mix(settings.seed, epoch, state["step"], *([rank] if rank else [])))
                with autocast(device, settings.precision):
                    losses = step(batch, share)
                means = total([share.weight * float(value.detach()) for value in losses.values()], device)
                values = dict(zip(losses, means, strict=True))
                if not math.isfinite(values["loss"]):
                    raise EgoDistillError(
                        f"{what['stage']}: the loss is {values['loss']} in epoch {epoch}, step {state['step']} (clips "
                        f"{clip_ids(store, rows)}). Lower the learning rate, or look at these clips' inputs.{kept()}"
                    )
                optimizer.zero_grad(set_to_none=True)
                (share.weight * losses["loss"]).backward()
                sum_gradients(model, trained, share.weight)
                optimizer.step()
            count = len(rows)
            for name, value in [*values.items(), ("clips", 1.0)]:
                state["sums"][name] = state["sums"].get(name, 0.0) + value * count
            state["step"] += 1
            waited += wait
            seen += count
            bar.step(count, f"loss {values['loss']:.3f}")
            if time.monotonic() - saved > settings.checkpoint_seconds:
                save()
                saved = time.monotonic()
        spent, waited = total([max(time.monotonic() - began, 1e-9), waited], device)  # A clock may move in 15.6 ms.
        clips = state["sums"].pop("clips")
        state["history"].append(
            {name: value / clips for name, value in state["sums"].items()}
            | {
                "learning_rate": settings.rate(epoch + 0.5),
                "clips_per_second": seen * processes / spent,
                "loader_share": waited / spent,
            }
        )
        state |= {"epoch": epoch + 1, "step": 0, "sums": {}}
        if path is not None and is_first():  # Before the checkpoint: a run that is finished is not begun again.
            lines = "".join(json.dumps({"epoch": k + 1} | row) + "\n" for k, row in enumerate(state["history"]))
            with whole(path.with_suffix(".jsonl")) as part:
                part.write_text(lines, encoding="utf-8")
        save()
        saved = time.monotonic()
    bar.close()
    model.eval()
    return state["history"]


TRAINING_FORMAT = "egodistill training 1"
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def mix(*numbers: int) -> int:
    """One seed out of several numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    return seed


def arrays_of(model: nn.Module, store: Any) -> list[str]:
    """Names of the store's arrays that a model reads, in its order; and a check that model and store fit."""
    frames = f"frames_{getattr(model, 'num_frames', 1)}"
    names = [frames if name == "frames" else name for name in model.inputs]
    ways = {
        "clip": "prepare(..., clip_frames=T)",
        "imu": "prepare(..., imu=True)",
        "audio": "prepare(..., audio=True)",
    }
    for name in names:
        need(store, name, ways.get(name, f"prepare(..., num_frames={frames.removeprefix('frames_')})"))
    if getattr(model, "class_names", None) is None:
        model.class_names = list(store.class_names)
    if list(model.class_names) != list(store.class_names):
        raise EgoDistillError(
            f"model and store have other class names: {shorten(model.class_names)} and {shorten(store.class_names)}"
        )
    if hasattr(model, "num_classes") and model.num_classes != len(store.class_names):
        raise EgoDistillError(f"the model has {model.num_classes} classes and the store {len(store.class_names)}")
    if frames in names:
        size = store.read(frames, [0]).shape[-1] if len(store) else model.frame_size
        if size != model.frame_size:
            raise EgoDistillError(
                f"the store's frames are {size} pixels wide and the model's {model.frame_size}; "
                f"build it with frame_size={size}"
            )
    return names


def clip_ids(store: Any, rows: Tensor) -> str:
    """What the store calls these clips; their rows where it has no names."""
    clips = getattr(store, "clips", None)
    return ", ".join(str(clips[row]["id"] if clips else row) for row in rows.tolist())


def need_labels(store: Any) -> None:
    count = int((torch.as_tensor(store.labels) < 0).sum())
    if count:
        raise EgoDistillError(f"{count} of {len(store)} clips have no label; give a split whose segments all have one")


def need(store: Any, name: str, way: str) -> None:
    if name not in store.names:
        raise EgoDistillError(f"the store has no array {name!r} (it has {', '.join(store.names)}); {way} makes it")


def shorten(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


def read_ahead(
    store: Any,
    names: list[str],
    rows: Tensor,
    batch_size: int,
    device: torch.device,
    pick: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Batches of the store, the next one read by a thread during work on this one; and the seconds waited for each.

    `pick` takes out of the rows of a batch those to read.
    """
    labels = torch.as_tensor(store.labels)

    def read(part: Tensor) -> dict[str, Tensor]:
        batch = {name: torch.from_numpy(store.read(name, part.numpy())) for name in names}
        batch |= {"label": labels[part], "row": part}
        return {name: value if name == "row" else value.to(device, non_blocking=True) for name, value in batch.items()}

    parts = [pick(part) for part in rows.split(batch_size) if len(part)]
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, parts[0]) if parts else None
        for k in range(len(parts)):
            began = time.monotonic()
            batch = ahead.result()
            waited = time.monotonic() - began
            if k + 1 < len(parts):
                ahead = pool.submit(read, parts[k + 1])
            yield batch, waited


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, else a GPU where there is one; of several, that of this process under torchrun."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place == torch.device("cuda") and "LOCAL_RANK" in os.environ:
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return place


PRECISIONS = ("auto", "fp32", "bf16")


def bf16_speed(device: torch.device) -> tuple[bool, str]:
    """Return whether bf16 is faster than fp32 on a device, and the reason as a clause that follows "because".

    It is on NVIDIA GPUs from compute capability 8 on, on CPUs with AMX, and on AMD CPUs with AVX-512's bf16 products
    (Zen 4 and later; on a Zen 5 students and baselines took 0.4 to 0.7 of the time). On an Intel Xeon with these
    products and no AMX the student took 1.5 times as long; where oneDNN emulates bf16, a training step took 12 to 25
    times as long. A CPU that torch does not describe (torch 2.4 describes none) counts as slow.
    """
    if device.type == "cuda":
        if torch.version.hip is not None:
            return False, "bf16 was not measured on AMD GPUs"
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"the GPU has compute capability {major}.{minor}"
    if device.type != "cpu":
        return False, f"bf16 was not measured on {device.type!r} devices"
    if not hasattr(torch.cpu, "get_capabilities"):
        return False, f"torch {torch.__version__} does not say what this CPU is fast at"
    cpu = torch.cpu.get_capabilities()
    name = str(cpu.get("cpu_name") or "this CPU")
    # What the CPU can do and what oneDNN may use differ: the environment may limit its instruction set.
    if not has_bf16_kernels():
        return False, f"oneDNN has no bf16 kernels for the instruction set of {name}"
    if cpu.get("amx_bf16"):
        return True, f"{name} has AMX"
    if name.startswith("AMD"):
        return bool(cpu.get("avx512_bf16")), f"{name} has {'' if cpu.get('avx512_bf16') else 'no '}AVX512_BF16"
    return False, f"{name} has no AMX"


def has_bf16_kernels() -> bool:
    """Return whether oneDNN, where torch is built with it, computes in bf16 on this CPU and does not emulate it."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pick_precision(device: torch.device, precision: str, model: Any = None) -> str:
    """Return "fp32" or "bf16"; "auto" is bf16 where `bf16_speed()` says that it is faster.

    A model that runs in one precision only, such as an exported file, has an attribute `precision`, which wins.
    """
    if precision not in PRECISIONS:
        raise EgoDistillError(f"precision is 'auto', 'fp32' or 'bf16'; got {precision!r}")
    if own := getattr(model, "precision", None):
        return own
    if precision == "auto":
        return "bf16" if bf16_speed(device)[0] else "fp32"
    return precision


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def compiled(model: nn.Module) -> Callable[..., Any]:
    """The model through torch.compile; where that fails (no compiler, say) the model as it is, and a line on stderr.

    What is compiled is for the size of the first batch. A smaller last one runs uncompiled: it would compile once more.
    """
    fast: Callable[..., Any] | None = None
    size = 0

    def run(*inputs: Tensor) -> Any:
        nonlocal fast, size
        size = size or len(inputs[0])
        if fast is model or len(inputs[0]) != size:
            return model(*inputs)
        try:
            if fast is None:
                fast = torch.compile(model)
            return fast(*inputs)
        except Exception as error:  # Dynamo, its backends and compilers have no common class.
            output = model(*inputs)  # Raises by itself where the fault is the input's.
            fast, reason = model, (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"torch.compile failed, so the model runs uncompiled: {reason}", file=sys.stderr)
            return output

    return run


# ---------------------------------------------------------------------------------------------------------------
# Several processes, under torchrun. Gradients are summed by hand, in one message a step: frozen parts, several forward
# passes and losses of a model's own need no care then.

PATIENCE = timedelta(minutes=5)  # A process that says nothing for so long is given up; writing a checkpoint takes less.


def join(device: torch.device) -> None:
    """Meet the other processes that torchrun tells of (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), unless done."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend, meeting = "nccl" if device.type == "cuda" else "gloo", {}
        with told():
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and on_one_machine():
                rank, processes = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
                meeting = {"store": torchrun_store(), "rank": rank, "world_size": processes}
            distributed.init_process_group(backend, timeout=PATIENCE, **meeting)


def on_one_machine() -> bool:
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]


def torchrun_store() -> distributed.Store:
    """Where processes of one machine meet. torchrun keeps it over restarts, with the addresses of processes that have
    died (pytorch issue 135712), at which the new ones would wait for each other: so each attempt has its own part."""
    store = distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=PATIENCE,
        use_libuv=os.environ.get("USE_LIBUV", "1") == "1",  # As torch reads it; torch for Windows has no libuv.
    )
    return distributed.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def is_first_failure() -> bool:
    """Return whether no other process of this run, on this machine, has failed before.

    What ends one process ends all, and one error is enough. On several machines each process reports its own.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "MASTER_ADDR" not in os.environ or not on_one_machine():
        return True
    try:
        return torchrun_store().add("failed", 1) == 1
    except RuntimeError:  # Without torchrun's own, the first process keeps the store, and is gone.
        return True


def members() -> tuple[int, int]:
    """The rank of this process, and how many train together."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this process writes the files and shows the progress."""
    return members()[0] == 0


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What torch says in many lines when another process has died."""
    try:
        yield
    except RuntimeError as error:
        raise EgoDistillOSError(
            f"another process of this training is gone or does not answer; its own error tells why "
            f"({str(error).splitlines()[0]})"
        ) from error


def all_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if members()[1] > 1:
        with told():
            distributed.all_reduce(tensor)
    return tensor


def total(values: list[float], device: torch.device) -> list[float]:
    """Each value summed over all processes."""
    return values if members()[1] == 1 else all_sum(torch.tensor(values, dtype=torch.float64, device=device)).tolist()


def from_first(content: dict[str, Any]) -> dict[str, Any]:
    """What process 0 has: the others' machines need not see its files."""
    box = [content]
    if members()[1] > 1:
        with told():
            distributed.broadcast_object_list(box, src=0)
    return box[0]


@torch.no_grad()
def copy_from_first(model: nn.Module) -> None:
    """Weights and buffers of process 0, so that all begin as one."""
    for own in model.state_dict().values() if members()[1] > 1 else ():
        value = own.contiguous()
        with told():
            distributed.broadcast(value, src=0)
        own.copy_(value)


class SumOfAll(torch.autograd.Function):
    """all_sum() with a gradient: what all processes' losses say about it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return all_sum(own.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient.clone(memory_format=torch.contiguous_format))


class Share(NamedTuple):
    """This process's part of a batch of `total` clips: those from `start` to `stop`.

    Each process has two clips at least, since batch norm and negatives want company. In a batch too small for that
    the last processes have none: they look on, with the first one's clips and without weight, for all have to take
    part in every message.
    """

    start: int
    stop: int
    total: int

    @classmethod
    def of(cls, total: int) -> Share:
        rank, processes = members()
        active = max(1, min(processes, total // 2))
        return cls(*(min(k, active) * total // active for k in (rank, rank + 1)), total)

    @property
    def weight(self) -> float:
        """How much of the batch's mean this part's mean is."""
        return (self.stop - self.start) / self.total

    def gather(self, own: Tensor) -> Tensor:
        """Rows of this process [b, ...] -> those of all, in the batch's order [total, ...], with gradients to each."""
        if members()[1] == 1:
            return own
        own = own[: self.stop - self.start].float()
        before, after = (own.new_zeros(count, *own.shape[1:]) for count in (self.start, self.total - self.stop))
        return SumOfAll.apply(torch.cat([before, own, after]))


def own_rows(rows: Tensor) -> Tensor:
    """Out of the rows of a batch, those that this process reads."""
    share = Share.of(len(rows))
    return rows[share.start : share.stop] if share.weight else rows[:2]


@torch.no_grad()
def sum_gradients(model: nn.Module, trained: list[nn.Parameter], weight: float) -> None:
    """Sum the gradients of weighted losses over the processes, and average the statistics of batch norm."""
    if members()[1] == 1:
        return
    norms = [part for part in model.modules() if isinstance(part, BATCH_NORMS) and part.training]
    statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    used = [parameter.grad is not None for parameter in trained]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    values = [*(parameter.grad for parameter in trained), *statistics]
    for value in statistics:
        value.mul_(weight)
    flags = torch.tensor(used, dtype=torch.float32, device=trained[0].device)
    message = all_sum(torch.cat([flags, *(value.flatten() for value in values)]))
    flags, *pieces = message.split([len(flags), *(value.numel() for value in values)])
    for value, piece in zip(values, pieces, strict=True):
        value.copy_(piece.view_as(value))
    for parameter, anywhere in zip(trained, flags.tolist(), strict=True):
        if not anywhere:  # No gradient is not the same to AdamW as one of zeros.
            parameter.grad = None


# ---------------------------------------------------------------------------------------------------------------
# Evaluation and cost


@dataclass(frozen=True)
class Evaluation:
    """Accuracy over the segments ("videos") of a store."""

    top1: float  # Share of segments whose class is right, 0 to 1.
    per_class: dict[str, float]  # The same for each class that occurs.
    confusion: Tensor  # int64 [C, C]: rows are the true class, columns the predicted one.
    scores: Tensor  # float32 [segments, C]: class scores averaged over each segment's clips.
    labels: Tensor  # int64 [segments]
    feature_distance: float | None  # Mean absolute difference of clip features to the teacher's.
    clips: int
    precision: str = "fp32"  # What the model ran in, "fp32" or "bf16".

    def __str__(self) -> str:
        return f"top-1 {100 * self.top1:.2f} % of {len(self.labels)} segments ({self.clips} clips, {self.precision})"


@torch.no_grad()
def evaluate(
    model: nn.Module,
    store: Any,
    *,
    teacher: str | None = None,
    batch_size: int = 64,
    device: str | None = None,
    precision: str = "auto",
    compile: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Per-video top-1 (section 4.1): softmax scores averaged over the clips that cover a segment, then the best class.

    With `teacher`, the mean absolute distance between the model's features and those in the store under that name.
    `precision` is "fp32", "bf16", or "auto": bf16 where the hardware is fast at it (see `pick_precision`).
    `compile` goes through torch.compile, which takes a minute at first. EgoDistillError says what the store lacks.
    """
    if not len(store):
        raise EgoDistillError("there are no clips to evaluate on; is the split right, did prepare() fail?")
    need_labels(store)
    targets = [f"{teacher}.feature"] if teacher else []
    for target in targets:
        need(store, target, f"teachers.extract() with the teacher {teacher!r}")
    precision = pick_precision(pick_device(device), precision, model)
    scores, distance = [], 0.0
    found = outputs(
        model,
        store,
        targets,
        batch_size=batch_size,
        device=device,
        precision=precision,
        compile=compile,
        progress=progress,
    )
    for output, batch in found:
        scores.append(output.logits.float().softmax(1).cpu())
        for target in targets:
            distance += float(feature_loss(output.feature, batch[target])) * len(output.feature)

    scores = torch.cat(scores)
    _, segment = torch.unique(torch.as_tensor(store.segments), return_inverse=True)
    total = torch.zeros(int(segment.max()) + 1, scores.shape[1]).index_add_(0, segment, scores)
    total /= torch.bincount(segment)[:, None]
    labels = torch.zeros(len(total), dtype=torch.int64).index_copy_(0, segment, torch.as_tensor(store.labels))
    classes = scores.shape[1]
    confusion = torch.bincount(labels * classes + total.argmax(1), minlength=classes**2).view(classes, classes)
    count, right = confusion.sum(1), confusion.diagonal()
    return Evaluation(
        top1=float(right.sum() / count.sum()),
        per_class={store.class_names[k]: float(right[k] / count[k]) for k in range(classes) if count[k]},
        confusion=confusion,
        scores=total,
        labels=labels,
        feature_distance=distance / len(store) if teacher else None,
        clips=len(store),
        precision=precision,
    )


@torch.no_grad()
def outputs(
    model: nn.Module,
    store: Any,
    targets: Sequence[str] = (),
    *,
    batch_size: int,
    device: str | None,
    precision: str = "fp32",
    compile: bool = False,
    progress: bool,
) -> Iterator[tuple[Output, dict[str, Tensor]]]:
    """What a model in evaluation mode gives for all clips, batch by batch in their order, and the batch: the arrays
    that the model reads and `targets`."""
    names, place = arrays_of(model, store), pick_device(device)
    bar = Progress("evaluate", len(store), show=progress)
    with evaluating(model, place):
        run = compiled(model) if compile else model
        for batch, _ in read_ahead(store, [*names, *targets], torch.arange(len(store)), batch_size, place):
            with autocast(place, precision):
                output = run(*(batch[name] for name in names))
            yield output, batch
            bar.step(len(output.logits))
    bar.close()


@contextlib.contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model there in evaluation mode, and in the mode that it was in again afterwards."""
    training = model.training
    model.to(device).eval()
    try:
        yield
    finally:
        model.train(training)


class Retrieval(NamedTuple):
    """The clips of a store that are nearest to each query, the nearest first."""

    rows: Tensor  # int64 [Q, top]: rows of the store, `store.clips[row]` tells what a clip is
    distance: Tensor  # float32 [Q, top]


@torch.no_grad()
def retrieve(
    model: nn.Module,
    store: Any,
    *inputs: Tensor,
    teacher: str | None = None,
    top: int = 5,
    metric: str = "cosine",
    batch_size: int = 64,
    device: str | None = None,
    progress: bool = True,
) -> Retrieval:
    """Find clips by a frame and a head motion (section 4.4, figure 6).

    `inputs` are Q queries as the model reads them, such as frames uint8 [Q, N, 3, H, W] and imu float [Q, 422, 6]; one
    frame beside several head motions is `frames.expand(Q, ...)`. Their features are compared with those of all clips
    of the store: with `teacher`, what it saw in the whole clip (the array "NAME.feature"), else the model's own.
    `metric` is "cosine" (1 - similarity) or "l1" (mean absolute difference); the paper names none. Runs in fp32.
    EgoDistillError where the store lacks an array, features differ in size, or `top` is more than there are clips.
    """
    if metric not in ("cosine", "l1"):
        raise EgoDistillError(f"metric is 'cosine' or 'l1', not {metric!r}")
    if not 1 <= top <= len(store):
        raise EgoDistillError(f"top={top} of {len(store)} clips")
    names = arrays_of(model, store)
    if len(inputs) != len(names):
        raise EgoDistillError(f"the model reads {', '.join(names)}; got {len(inputs)} inputs")
    if teacher:
        need(store, f"{teacher}.feature", f"teachers.extract() with the teacher {teacher!r}")
        gallery = torch.from_numpy(store.read(f"{teacher}.feature", range(len(store)))).float()
    else:
        found = outputs(model, store, batch_size=batch_size, device=device, progress=progress)
        gallery = torch.cat([output.feature.float().cpu() for output, _ in found])
    place = pick_device(device)
    with evaluating(model, place):
        parts = zip(*(x.split(batch_size) for x in inputs), strict=True)
        queries = torch.cat([model(*(x.to(place) for x in part)).feature.float().cpu() for part in parts])
    if queries.shape[1] != gallery.shape[1]:
        raise EgoDistillError(f"the model's feature has {queries.shape[1]} numbers and {teacher}'s {gallery.shape[1]}")
    if metric == "cosine":
        distances = 1 - F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    else:
        distances = torch.cdist(queries, gallery, p=1) / queries.shape[1]
    distance, rows = distances.topk(top, largest=False)
    return Retrieval(rows, distance)


class Cost(NamedTuple):
    """What a model costs for one clip. GMACs are billions of multiply-adds: half of what torch's FlopCounterMode counts
    (convolutions and matrix products; no norms, activations or pooling)."""

    gmacs: float
    params: int
    ms_per_clip: float
    batch_size: int
    device: str
    precision: str = "fp32"  # What the model ran in, "fp32" or "bf16".
    repeats: int = 0  # Passes that the time is the median of.
    same_top1: float = 1.0  # Share of clips whose best class is that of fp32, uncompiled; on random inputs.
    feature_error: float = 0.0  # Largest difference of a feature to that of fp32, as a share of the largest feature.


@torch.no_grad()
def measure(
    model: nn.Module,
    *,
    batch_size: int = 32,
    device: str | None = None,
    precision: str = "auto",
    compile: bool = False,
    repeats: int = 10,
    seconds: float | None = None,
) -> Cost:
    """Multiply-adds, parameters and median milliseconds a clip of a model with an `example(batch_size)` method.

    The time is the median of `repeats` forward passes after two for warming up, divided by the batch size; on a GPU it
    is taken with device events. Reading and decoding are not part of it. After `seconds` no further pass begins, but
    two are always timed; a first pass that takes longer than that needs no warming up, and is one of them.
    `precision` and `compile` are those of `evaluate()`; what they change is told by `same_top1` and `feature_error`.
    """
    if batch_size < 1 or repeats < 1:
        raise EgoDistillError(f"batch_size={batch_size} and repeats={repeats} must be at least 1")
    place, training = pick_device(device), model.training
    precision = pick_precision(place, precision, model)
    model.to(place).eval()
    macs = count_macs(model, place)
    batch = tuple(x.to(place) for x in model.example(batch_size))
    run = compiled(model) if compile else model

    def spent() -> tuple[Any, float]:
        """What the model gives, and the milliseconds that took."""
        with autocast(place, precision):
            if place.type == "cuda":
                began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                began.record()
                output = run(*batch)
                ended.record()
                ended.synchronize()
                return output, began.elapsed_time(ended)
            start = time.perf_counter()
            return run(*batch), 1e3 * (time.perf_counter() - start)

    budget = math.inf if seconds is None else 1e3 * seconds
    output, first = spent()
    times = [first] if first > budget else []
    if not times:
        spent()
    while len(times) < repeats and (len(times) < 2 or sum(times) < budget):
        output, passed = spent()
        times.append(passed)
    agreement = {}
    if precision != "fp32" or compile:
        agreement = agree(output, model(*batch))
    model.train(training)
    return Cost(
        gmacs=macs / 1e9,
        params=sum(p.numel() for p in model.parameters()),
        ms_per_clip=statistics.median(times) / batch_size,
        batch_size=batch_size,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        precision=precision,
        repeats=len(times),
        **agreement,
    )


def agree(fast: Output | Tensor, exact: Output | Tensor) -> dict[str, float]:
    """How near two outputs for the same clips are, as `Cost` names it; a model that gives one tensor has one."""
    (feature, logits), (wanted, scores) = (x if isinstance(x, tuple) else (x, x) for x in (fast, exact))
    error = (feature.float() - wanted.float()).abs().max() / wanted.abs().max()
    same = (logits.argmax(1) == scores.argmax(1)).float().mean()
    return {"same_top1": float(same), "feature_error": float(error)}


def count_macs(model: nn.Module, device: torch.device) -> float:
    """Return the multiply-adds for one clip, of a model in evaluation mode. On the meta device nothing is computed.

    Raise EgoDistillError if no operation of a model that has weights can be seen.
    """
    training = model.training
    # Of all ways to compute attention, torch does not know how to count the one for CPUs.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mapping = {attention: lambda q, k, v, *rest, out_shape=None, **options: sdpa_flop_count(q, k, v)}
    # In inference mode, and for inputs made in it, torch 2.4 counts neither convolutions nor linear layers.
    with torch.inference_mode(False), torch.no_grad():
        inputs = [x.to(device, copy=True) for x in model.example(1)]
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            model.eval()(*inputs)
    model.train(training)
    count = counter.get_total_flops() / 2
    if not count and any(parameter.ndim > 1 for parameter in model.parameters()):
        raise EgoDistillError(
            f"{type(model).__name__} has weights, but torch {torch.__version__} counts no multiply-adds in it: it does "
            f"not see inside custom operators. Measure a module made of torch's own layers and operators"
        )
    return count


# ---------------------------------------------------------------------------------------------------------------
# Prediction


class Prediction(NamedTuple):
    """One clip of a recording: where it is (s), its best classes with their scores, or why there are none."""

    start: float
    stop: float
    classes: list[tuple[str, float]]
    problem: str | None = None


def predict(
    model: EgoDistill,
    video: str | os.PathLike,
    imu: str | os.PathLike | tuple[str | os.PathLike, str | os.PathLike] | None = None,
    *,
    stride: float | None = None,
    top: int = 5,
    exact: bool = True,
    batch_size: int = 16,
    device: str | None = None,
    precision: str = "auto",
    compile: bool = False,
) -> Iterator[Prediction]:
    """Classify a whole recording, clip by clip (every `stride` seconds, by default one clip after the other).

    `imu` is what `data.read_imu()` takes: a table, a pair of tables, or None for telemetry inside the video. Without
    `exact` the key frames nearest to the clips' frames are looked at, which are cheap to decode. Memory for pictures
    does not grow with the recording. A clip that cannot be classified, for head motion is missing there, comes with
    `problem` saying so and no classes. `precision` and `compile` are those of `evaluate()`.
    EgoDistillError for a `stride` that is not above 0 comes at once, as do data.VideoError and data.DataError for a
    file that cannot be read; data.VideoError for a frame that is lost comes in its clip's place.
    """
    from egodistill import data  # The only need of a sibling in this file.

    length = model.clip_seconds
    stride = length if stride is None else stride
    if stride <= 0:
        raise EgoDistillError(f"stride is in seconds and above 0; got {stride}")
    place = pick_device(device)
    precision = pick_precision(place, precision, model)
    model.to(place).eval()
    run = compiled(model) if compile else model
    names = model.class_names or [str(k) for k in range(model.num_classes)]
    duration = data.probe(video).duration
    motion = data.read_imu(imu if imu is not None else video) if "imu" in model.inputs else None
    starts = [k * stride for k in range(max(1, math.floor((duration - length) / stride + 1 + 1e-6)))]
    groups = [starts[k : k + batch_size] for k in range(0, len(starts), batch_size)]

    def look(group: list[float]) -> tuple[dict[float, str], list[Tensor]]:
        """What is wrong with some of the clips, and the model's inputs for the others."""
        windows, problems = {}, {}
        for start in group:
            try:
                if motion is not None:
                    windows[start] = motion.window(start, samples=model.imu_samples, rate=model.imu_rate)
            except data.CoverageError as error:
                problems[start] = str(error)
        good = [start for start in group if start not in problems]
        if not good:
            return problems, []
        times = [t for start in good for t in data.clip_times(start, model.num_frames, length)]
        frames = torch.from_numpy(data.read_frames(video, times, size=model.frame_size, exact=exact))
        inputs = [frames.unflatten(0, (len(good), model.num_frames))]
        if motion is not None:
            inputs.append(torch.stack([torch.from_numpy(windows[start]) for start in good]))
        return problems, inputs

    def classify(inputs: list[Tensor]) -> Iterator[list[tuple[str, float]]]:
        """The best classes of each clip."""
        if not inputs:
            return
        with torch.no_grad(), autocast(place, precision):
            scores = run(*(x.to(place) for x in inputs)).logits.float().softmax(1).cpu()
        best = scores.topk(min(top, scores.shape[1]), dim=1)
        for values, classes in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            yield [(names[c], value) for c, value in zip(classes, values, strict=True)]

    def clips() -> Iterator[Prediction]:
        with ThreadPoolExecutor(1, initializer=give_way) as pool:  # It reads the next while the model works on these.
            ahead = pool.submit(look, groups[0])
            for k, group in enumerate(groups):
                problems, inputs = ahead.result()
                if k + 1 < len(groups):
                    ahead = pool.submit(look, groups[k + 1])
                told = classify(inputs)
                for start in group:
                    problem = problems.get(start)
                    yield Prediction(start, start + length, [] if problem else next(told), problem)

    return clips()


def give_way() -> None:
    """Lower the priority of this thread, and of those that it will begin; only on Linux has a thread one of its own.

    Where decoding and the model share the cores, the model's threads wait for each other as often as a decoder takes
    the place of one of them, and they wait by spinning. So decoders take what the model leaves (LOG.md has the
    figures).
    """
    if sys.platform == "linux" and hasattr(os, "setpriority"):
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # A sandbox may forbid it.
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + 5)


# ---------------------------------------------------------------------------------------------------------------
# Files and the terminal


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write to the yielded temporary path; it is renamed to `path` when all went well, and removed when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        replace_file(part, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # "No space left on device" says not where
    finally:
        part.unlink(missing_ok=True)


def replace_file(source: Path, target: Path) -> None:
    """Rename a file to `target`. Windows refuses while another process reads that one: try for a second."""
    for _ in range(20):
        with contextlib.suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(0.05)
    os.replace(source, target)


def write_checkpoint(path: str | os.PathLike, content: dict[str, Any]) -> None:
    try:
        with whole(Path(path)) as part, open(part, "wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        # torch covers the system's words with its own.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        folder = next(folder for folder in Path(path).absolute().parents if folder.is_dir())
        raise EgoDistillOSError(
            f"{path} cannot be written ({reason}): it needs {tensor_bytes(content) / 1e6:.1f} MB, and "
            f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free there. A file that stood there before is whole."
        ) from error


def tensor_bytes(content: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    values = content.values() if isinstance(content, Mapping) else content if isinstance(content, (list, tuple)) else ()
    return sum(map(tensor_bytes, values))


def read_tensors(path: str | os.PathLike) -> dict[str, Any]:
    """A file of tensors and plain values; never runs code that it may hold (`weights_only`)."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise EgoDistillOSError(f"there is no file {path}") from error
    except Exception as error:  # torch has no common class for all that a file can have
        # Its own words run over many lines and advise to switch its guard off.
        raise EgoDistillError(
            f"{path} cannot be read as a checkpoint: it is cut off, of another kind, or holds code "
            f"({type(error).__name__})"
        ) from error
    if not isinstance(content, dict):
        raise EgoDistillError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def read_checkpoint(path: str | os.PathLike, expected: str) -> dict[str, Any]:
    content = read_tensors(path)
    if content.get("format") != expected:
        raise EgoDistillError(f"{path} is no {expected!r} file; its format is {content.get('format')!r}")
    return content


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str, keep: Sequence[str] = ()) -> None:
    """load_state_dict with one message that lists all that does not fit. Names that begin as `keep` may be absent."""
    own = module.state_dict()
    # Files older than 2018 have no such counters; batch norm does not use them at its default momentum.
    optional = [key for key in own if key.startswith(tuple(keep)) or key.endswith("num_batches_tracked")]
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{k} {list(state[k].shape)} for {list(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(faults.values()):
        told = "; ".join(
            f"{len(keys)} {fault} ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
            for fault, keys in faults.items()
            if keys
        )
        raise EgoDistillError(f"{source} do{'' if source.endswith('weights') else 'es'} not fit this model: {told}")
    module.load_state_dict(own | dict(state))


class Progress:
    """One line on stderr: how far a long step is, how fast it goes, how long it still takes."""

    def __init__(self, title: str, total: int, *, show: bool = True) -> None:
        self.title, self.total, self.show, self.shown = title, total, show, 0.0
        self.begin(0)

    def begin(self, done: int) -> None:
        self.done, self.first, self.start = done, done, time.monotonic()

    def step(self, count: int, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if not self.show or (now - self.shown < 0.2 and self.done < self.total):
            return
        self.shown = now
        speed = (self.done - self.first) / max(now - self.start, 1e-9)
        left = (self.total - self.done) / max(speed, 1e-9)
        line = f"{self.title:<22} {self.done:>7}/{self.total} clips  {speed:7.1f} clips/s  {left:5.0f} s left  {note}"
        print(f"\r{line:<95}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.show:
            print(file=sys.stderr)


if __name__ == "__main__":  # `python -m egodistill` in a checkout; an installed package has __main__.py
    from egodistill.cli import main

    sys.exit(main())
