"""The student of EgoDistill: a few frames and the wearer's head motion -> (feature, logits).

    from egodistill import EgoDistill

    model = EgoDistill(num_classes=62)                       # or use_imu=False: VisOnly and VisOnly-Distill
    feature, logits = model(frames, imu)                     # uint8 [B, 1, 3, H, W] and float [B, 422, 6]
    model.save("student.pt")
    model = EgoDistill.load("student.pt")

The networks are those of section 3 and appendix C of "EgoDistill: Egocentric Head Motion Distillation for Efficient
Video Understanding" (Tan, Nagarajan, Grauman, NeurIPS 2023). This file can be copied alone: it needs torch and
torchvision. Only `EgoDistill.save()` and `load()` use a sibling, `checkpoints`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "IMAGE_ENCODERS",
    "BasicBlock",
    "Bottleneck",
    "EgoDistill",
    "IMUEncoder",
    "IMUPredictor",
    "Output",
    "ResNet",
    "Student",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_SECONDS, IMU_RATE, IMU_SAMPLES = 64 / 30, 198.0, 422  # the paper's clips: seconds, Hz, samples
LARGEST_BLOCK = 16  # channels that oneDNN's kernels compute together, with the longest vectors

Constructor = TypeVar("Constructor", bound=Callable[..., None])
Weights = str | os.PathLike | Mapping[str, Tensor] | None


class Output(NamedTuple):
    """What every model returns: feature [B, D] and class logits [B, C] (no softmax)."""

    feature: Tensor
    logits: Tensor


class Student(Protocol):
    """A student in parts, so that frames and head motion can come at different times: `EgoDistill` is one."""

    def encode_frames(self, frames: Tensor, count: int | None = None) -> Tensor: ...

    def aggregate(self, features: Tensor) -> Tensor: ...

    def encode_imu(self, imu: Tensor) -> Tensor: ...

    def fuse(self, image: Tensor, imu: Tensor | None) -> Output: ...


def record_arguments(*without: str) -> Callable[[Constructor], Constructor]:
    """Decorate a constructor: keep its arguments in `self.arguments`, defaults included, those `without` left out.

    `cls(**model.arguments)` builds the same network again, with other weights.
    """

    def decorate(init: Constructor) -> Constructor:
        @functools.wraps(init)
        def build(self: nn.Module, *given: Any, **options: Any) -> None:
            bound = inspect.signature(init).bind(self, *given, **options)
            bound.apply_defaults()
            _, *arguments = bound.arguments.items()
            init(self, *given, **options)
            self.arguments = {name: value for name, value in arguments if name not in without}

        return build

    return decorate


def describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


# ---------------------------------------------------------------------------------------------------------------
# Image networks


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, as in ResNet-18 (He et al., CVPR 2016); names are torchvision's."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int, downsample: nn.Module | None, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(before, width, 3, stride, groups), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, 1, groups), nn.BatchNorm2d(width)
        self.downsample = downsample
        # One module per place: quantisers refuse a module that is called twice.
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu2(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut, as in ResNet-50 (v1.5: the 3x3 has the stride)."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int, downsample: nn.Module | None, groups: int = 1) -> None:
        super().__init__()
        after = downsample[-1].num_features if downsample is not None else before
        self.conv1, self.bn1 = conv(before, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, groups), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, after, 1), nn.BatchNorm2d(after)
        self.downsample = downsample
        self.relu1, self.relu2, self.relu3 = (nn.ReLU(inplace=True) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu3(y)


def conv(before: int, after: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)


def shortcut(before: int, after: int, stride: int) -> nn.Sequential | None:
    """Return the 1x1 convolution and batch norm of a residual shortcut, named "0" and "1" as in torchvision.

    None if neither the channels nor the size change.

    In the backward pass of a strided 1x1 convolution in channels_last, oneDNN's kernels for x86 write outside of their
    workspace if there are fewer input channels than the kernel's block: 8 with AVX2, 16 with AVX-512
    (uxlfoundation/oneDNN#6035). The process crashes, hangs, or continues with wrong gradients. So narrow shortcuts
    select the pixels first and convolve them with stride 1, which gives the same numbers.
    """
    if before == after and stride == 1:
        return None
    layers: dict[str, nn.Module] = {}
    if stride > 1 and before < LARGEST_BLOCK:
        layers["pixels"], stride = Subsample(stride), 1
    layers |= {"0": nn.Conv2d(before, after, 1, stride, bias=False), "1": nn.BatchNorm2d(after)}
    return nn.Sequential(OrderedDict(layers))


class Subsample(nn.Module):
    """Select every `stride`-th row and column: [B, C, H, W] -> [B, C, h, w]."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :: self.stride, :: self.stride]


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier, of any width and depth: [B, channels, H, W] -> [B, D].

    block         BasicBlock or Bottleneck.
    depths        Blocks of the four stages.
    width         Channels of the stem and of the first stage; every further stage has twice as many.
    group_width   Channels inside a block, as a multiple of the stage's 64 / 64 (torchvision's `width_per_group`).

    `state_dict()` has torchvision's names. EgoDistill's small networks, AdaFuse and ListenToLook are made of it, too.
    """

    def __init__(
        self,
        block: type[nn.Module],
        depths: Sequence[int],
        width: int = 64,
        *,
        channels: int = 3,
        stem_stride: int = 2,
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__()
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths are the blocks of four stages, at least one each; got {tuple(depths)}")
        self.conv1, self.bn1, self.relu = conv(channels, width, 7, stem_stride), nn.BatchNorm2d(width), nn.ReLU(True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = width
        for stage, depth in enumerate(depths):
            inner, blocks = width * 2**stage, []
            for number in range(depth):
                stride = 2 if stage and not number else 1
                downsample = shortcut(before, inner * block.expansion, stride)
                blocks.append(block(before, inner * group_width // 64 * groups, stride, downsample, groups))
                before = inner * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.feature_dim = before
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.maps(x), 1).flatten(1)

    def maps(self, x: Tensor) -> Tensor:
        """Return the last map: [B, channels, H, W] -> [B, D, h, w]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x

    def stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.layer1, *self.layer2, *self.layer3, *self.layer4]


# torchvision's ResNets, as ours: a block, its depths, and what else differs from ResNet-18.
RESNETS: dict[str, tuple[type[nn.Module], tuple[int, ...], dict[str, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), {}),
    "resnet34": (BasicBlock, (3, 4, 6, 3), {}),
    "resnet50": (Bottleneck, (3, 4, 6, 3), {}),
    "resnet101": (Bottleneck, (3, 4, 23, 3), {}),
    "resnet152": (Bottleneck, (3, 8, 36, 3), {}),
    "resnext50_32x4d": (Bottleneck, (3, 4, 6, 3), {"groups": 32, "group_width": 4}),
    "resnext101_32x8d": (Bottleneck, (3, 4, 23, 3), {"groups": 32, "group_width": 8}),
    "resnext101_64x4d": (Bottleneck, (3, 4, 23, 3), {"groups": 64, "group_width": 4}),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3), {"group_width": 128}),
    "wide_resnet101_2": (Bottleneck, (3, 4, 23, 3), {"group_width": 128}),
}


# torchvision's networks that are tested here, by the height and width of the frames that their ImageNet weights want.
IMAGE_ENCODERS: dict[str, int] = {
    **dict.fromkeys(
        (
            "alexnet",
            "convnext_base",
            "convnext_large",
            "convnext_small",
            "convnext_tiny",
            "densenet121",
            "densenet161",
            "densenet169",
            "densenet201",
            "efficientnet_b0",
            "mnasnet0_5",
            "mnasnet0_75",
            "mnasnet1_0",
            "mnasnet1_3",
            "mobilenet_v2",
            "mobilenet_v3_large",
            "mobilenet_v3_small",
            "regnet_x_16gf",
            "regnet_x_1_6gf",
            "regnet_x_32gf",
            "regnet_x_3_2gf",
            "regnet_x_400mf",
            "regnet_x_800mf",
            "regnet_x_8gf",
            "regnet_y_16gf",
            "regnet_y_1_6gf",
            "regnet_y_32gf",
            "regnet_y_3_2gf",
            "regnet_y_400mf",
            "regnet_y_800mf",
            "regnet_y_8gf",
            "resnet101",
            "resnet152",
            "resnet18",
            "resnet34",
            "resnet50",
            "resnext101_32x8d",
            "resnext101_64x4d",
            "resnext50_32x4d",
            "shufflenet_v2_x0_5",
            "shufflenet_v2_x1_0",
            "shufflenet_v2_x1_5",
            "shufflenet_v2_x2_0",
            "squeezenet1_0",
            "squeezenet1_1",
            "swin_b",
            "swin_s",
            "swin_t",
            "vgg11",
            "vgg11_bn",
            "vgg13",
            "vgg13_bn",
            "vgg16",
            "vgg16_bn",
            "vgg19",
            "vgg19_bn",
            "vit_b_16",
            "vit_b_32",
            "vit_l_16",
            "vit_l_32",
            "wide_resnet101_2",
            "wide_resnet50_2",
        ),
        224,
    ),
    "efficientnet_b1": 240,
    "efficientnet_b2": 288,
    "efficientnet_b3": 300,
    "efficientnet_b4": 380,
    "efficientnet_b5": 456,
    "efficientnet_b6": 528,
    "efficientnet_b7": 600,
    "efficientnet_v2_l": 480,
    "efficientnet_v2_m": 480,
    "efficientnet_v2_s": 384,
    "swin_v2_b": 256,
    "swin_v2_s": 256,
    "swin_v2_t": 256,
}
# Why others do not serve, where it is known.
UNFIT_ENCODERS = {
    "googlenet": "in training it needs classifiers that are removed here",
    "inception_v3": "in training it needs classifiers that are removed here",
    "maxvit_t": "it pools in its classifier, which is removed here, and reads frames of one size alone",
    "regnet_y_128gf": "its weights want frames of 384 pixels",
    "vit_h_14": "its weights want frames of 518 pixels",
}


def build_image_encoder(name: str, weights: Weights) -> tuple[nn.Module, int]:
    """Return a classification network without its classifier, [B, 3, H, W] -> [B, d], and d."""
    if small := re.fullmatch(r"resnet10x([1-9]\d*)", name):
        encoder = ResNet(BasicBlock, (1, 1, 1, 1), int(small[1]))
        head, size = "fc", encoder.feature_dim
    elif name in RESNETS:
        block, depths, options = RESNETS[name]
        encoder = ResNet(block, depths, **options)
        head, size = "fc", encoder.feature_dim
    elif name in IMAGE_ENCODERS:
        encoder, head, size = torchvision_encoder(name)
    else:
        reason = UNFIT_ENCODERS.get(name, "it is none of the classification networks of torchvision that are tested")
        raise ValueError(
            f"image_encoder={name!r} cannot be used: {reason}. student.IMAGE_ENCODERS lists those that can, "
            f"for example 'resnet18' or 'mobilenet_v3_large'"
        )
    if isinstance(weights, str) and weights == "imagenet":
        if small:
            raise ValueError(f"image_encoder={name!r} has no published weights; give image_weights=None or a file")
        weights = imagenet_weights(name)
    if weights is not None:
        load_image_weights(encoder, weights, head)
    # Some of torchvision's networks leave the pooled map's height and width of 1.
    return (encoder if isinstance(encoder, ResNet) else nn.Sequential(encoder, nn.Flatten())), size


def pick_frame_size(name: str, size: int | None) -> int:
    """Return the size of the frames, by default that of the network's ImageNet weights; check it if it is fixed."""
    own = IMAGE_ENCODERS.get(name, 224)
    if size is not None and size != own and name.startswith("vit_"):
        raise ValueError(f"image_encoder={name!r} reads frames of {own} pixels alone; got frame_size={size}")
    return own if size is None else size


def pixel_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of RGB pixels, 0 to 1, as the network's ImageNet weights want them."""
    return (3 * (0.5,), 3 * (0.5,)) if name == "efficientnet_v2_l" else (IMAGENET_MEAN, IMAGENET_STD)


def torchvision_encoder(name: str) -> tuple[nn.Module, str, int]:
    """Return one of torchvision's networks without its classifier, the classifier's name, and the feature's size."""
    encoder = torchvision.models.get_model(name, weights=None)
    head = next((head for head in ("fc", "classifier", "head", "heads") if hasattr(encoder, head)), None)
    if head is None:
        raise ValueError(f"image_encoder={name!r}: it has no classifier called fc, classifier, head or heads to remove")
    # SqueezeNet's classifier is a convolution with the pooling behind it; the others pool before.
    pools = any(isinstance(layer, nn.Conv2d) for layer in getattr(encoder, head).modules())
    setattr(encoder, head, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if pools else nn.Identity())
    encoder.to(memory_format=torch.channels_last)
    with torch.no_grad():
        size = encoder.eval()(torch.zeros(1, 3, 224, 224)).flatten(1).shape[1]
    return encoder.train(), head, size


def imagenet_weights(name: str) -> Mapping[str, Tensor]:
    """Return torchvision's ImageNet weights of a network; they are downloaded once."""
    published = torchvision.models.get_model_weights(name)
    published = published["IMAGENET1K_V1"] if name == "resnet18" else published.DEFAULT  # the paper's ResNet-18
    return download_weights(published, f"the ImageNet weights of {name}")


def download_weights(published: torchvision.models.WeightsEnum, name: str) -> Mapping[str, Tensor]:
    """Return torchvision's weights; raise ValueError, with their `name`, if they cannot be downloaded."""
    try:
        return published.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise ValueError(
            f"{name} could not be downloaded ({error}). Without a network connection, give a path (torchvision's .pth "
            f"file, fetched elsewhere) in place of the name, or None for random weights"
        ) from error


def load_image_weights(encoder: nn.Module, weights: Weights, head: str) -> None:
    """Load a state dict, or the file of one, into a network whose classifier `head` was removed; all else must fit."""
    source = "the image weights"
    if not isinstance(weights, Mapping):
        source = f"the image weights {weights}"
        try:
            weights = torch.load(weights, map_location="cpu", weights_only=True)
        except OSError as error:
            raise ValueError(f"{source} cannot be read: {error.strerror or error}") from error
        except Exception as error:  # torch has no common class for all that a file can hold
            raise ValueError(
                f"{source} cannot be read: it is cut off, of another kind, or holds code ({type(error).__name__})"
            ) from error
        if not isinstance(weights, dict):
            raise ValueError(f"{source} hold a {type(weights).__name__}, not weights by name")
    own = encoder.state_dict()
    state = {key: value for key, value in weights.items() if not key.startswith(f"{head}.")}
    # Files older than 2018 do not count batches; batch norm does not use the count at its default momentum.
    faults = [f"missing {key}" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    faults += [f"unexpected {key}" for key in state if key not in own]
    shapes = {key: (list(state[key].shape), list(own[key].shape)) for key in own if key in state}
    faults += [f"{key} {found} for {wanted}" for key, (found, wanted) in shapes.items() if found != wanted]
    if faults:
        told = "; ".join(faults[:6]) + (f"; and {len(faults) - 6} more" if len(faults) > 6 else "")
        raise ValueError(f"{source} do not fit this {type(encoder).__name__}: {told}")
    encoder.load_state_dict(own | state)


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
    image_encoder    f_I, one of `IMAGE_ENCODERS`, torchvision's, by its name and without its classifier; or
                     "resnet10xW", a small one for small frames: a residual block a stage, W to 8 W channels.
    image_weights    "imagenet" (torchvision downloads them), a state dict or the path of one, or None for random.
    use_imu          False: VisOnly and VisOnly-Distill.
    frame_size       Height and width of the frames it is trained on, kept for `predict()`; None: as the image
                     encoder's ImageNet weights want them, 224 for most.
    sampling, exact  Which frames it is trained on: a rule of `video.clip_times()`; exact ones, or nearest key frames.
    clip_seconds, imu_samples, imu_rate   Length of a clip (s), its IMU samples, their rate (Hz); for `predict()`, too.
    class_names      C names; taken from the store in training when not given.

    Where the paper is silent (README, "Choices"):

    imu_width        Width of the IMU encoder's last layer.
    imu_vector       "flatten" the IMU feature map over time, or its "mean" over time (accepts any length).
    hidden, fusion_layers   Width and number of hidden layers in the fusion network.

    Forward takes frames uint8 [B, N, 3, H, W] (RGB) and imu float [B, 422, 6] (m/s2 and rad/s, gravity included). It
    normalises the frames and removes the IMU's mean over each clip and channel by itself; ValueError names
    both shapes where one does not fit. It returns `Output(feature [B, D], logits [B, C])`.
    """

    @record_arguments("image_weights", "class_names")
    def __init__(
        self,
        num_classes: int,
        *,
        feature_dim: int = 768,
        num_frames: int = 1,
        image_encoder: str = "resnet18",
        image_weights: Weights = "imagenet",
        use_imu: bool = True,
        imu_width: int = 16,
        imu_vector: Literal["flatten", "mean"] = "flatten",
        imu_samples: int = IMU_SAMPLES,
        imu_rate: float = IMU_RATE,
        hidden: int = 1024,
        fusion_layers: int = 2,
        frame_size: int | None = None,
        sampling: str = "uniform",
        exact: bool = True,
        clip_seconds: float = CLIP_SECONDS,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        if imu_vector not in ("flatten", "mean"):
            raise ValueError(f"imu_vector is 'flatten' or 'mean', not {imu_vector!r}")
        if num_classes < 1 or num_frames < 1:
            raise ValueError(f"num_classes={num_classes} and num_frames={num_frames} must be at least 1")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"{len(class_names)} class names for num_classes={num_classes}")
        self.inputs: tuple[str, ...] = ("frames", "imu") if use_imu else ("frames",)
        self.num_frames, self.clip_seconds = num_frames, clip_seconds
        self.frame_size = pick_frame_size(image_encoder, frame_size)
        self.sampling, self.exact = sampling, exact
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
        for name, values in zip(("mean", "std"), pixel_statistics(image_encoder), strict=True):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    if TYPE_CHECKING:  # A torch module's call has no types.

        def __call__(self, frames: Tensor, imu: Tensor | None = None) -> Output: ...

    def forward(self, frames: Tensor, imu: Tensor | None = None) -> Output:
        image = self.aggregate(self.encode_frames(frames))
        return self.fuse(image, None if imu is None else self.encode_imu(imu))

    def encode_frames(self, frames: Tensor, count: int | None = None) -> Tensor:
        """f_I on each frame: uint8 [B, N, 3, H, W] -> [B, N, d]. `count` is the N wanted, by default the model's."""
        count = count or self.num_frames
        if frames.ndim != 5 or frames.shape[1:3] != (count, 3) or frames.dtype != torch.uint8:
            raise ValueError(
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
            raise ValueError("this model was built with use_imu=False and takes frames only")
        fixed = self.imu_vector == "flatten"
        length = self.imu_samples if fixed else "samples"
        if imu.ndim != 3 or imu.shape[2] != 6 or (fixed and imu.shape[1] != length) or not imu.is_floating_point():
            raise ValueError(
                f"imu is float [batch, {length}, 6] (accelerometer xyz in m/s2, gyroscope xyz in rad/s); "
                f"got {describe(imu)}"
            )
        # Appendix C: sensor bias and gravity differ from clip to clip, only the motion within the clip is kept.
        features = self.imu_encoder(imu - imu.mean(dim=1, keepdim=True))
        return features.flatten(1) if fixed else features.mean(dim=2)

    def fuse(self, image: Tensor, imu: Tensor | None) -> Output:
        """Pi and the classifier: z_I [B, d] and z_M -> (z_phi [B, D], logits [B, C])."""
        if imu is None and "imu" in self.inputs:
            raise ValueError("this model needs head motion beside the frames: model(frames, imu)")
        feature = self.fusion(image if imu is None else torch.cat([image, imu], dim=1))
        return Output(feature, self.classifier(feature))

    def save(self, path: str | os.PathLike) -> None:
        """Write one file that `load()` needs nothing else for: arguments, class names and weights."""
        checkpoints().save_model(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> EgoDistill:
        """Return the model that `save()` wrote, in evaluation mode. Raise a ValueError with the file's name."""
        return checkpoints().load_model(path, cls)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], class_names: list[str] | None) -> EgoDistill:
        """Return the model that `arguments` describe, for `load()`; its weights are random."""
        return cls(**arguments, class_names=class_names, image_weights=None)


def checkpoints() -> ModuleType:
    """Return the module that reads and writes files of models; a copy of this file alone does not have it."""
    try:
        return importlib.import_module("egodistill.checkpoints")
    except ModuleNotFoundError as error:
        raise ValueError(
            "EgoDistill.save() and load() need egodistill's checkpoints.py; in a copy of student.py alone, use "
            "torch.save(model.state_dict(), path), and keep model.arguments"
        ) from error
