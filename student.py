"""The student of EgoDistill: a network that maps a few frames and the IMU samples of a clip to (feature, logits).

    from egodistill import EgoDistill

    model = EgoDistill(num_classes=62)                       # or imu_encoder=None: frames alone
    feature, logits = model(frames, imu)                     # uint8 [B, 1, 3, H, W] and float [B, 422, 6]
    model.save("student.safetensors")
    model = EgoDistill.load("student.safetensors")

The networks are those of section 3 and appendix C of "EgoDistill: Egocentric Head Motion Distillation for Efficient
Video Understanding" (Tan, Nagarajan, Grauman, NeurIPS 2023), in this order: the student Phi (equation 2), its IMU
encoder f_M, fusion network Pi and predictor h, and the image encoder f_I. examples/one_page.py has them without
options. This file can be copied alone: it needs torch and torchvision. The package `engine` has the rest: `save()`,
`load()`, encoders that are not the paper's ("spectrum", "filterbank", networks of torchvision but ResNets), and the
refusal of what does not fit before anything is built.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BasicBlock", "Bottleneck", "EgoDistill", "IMUEncoder", "IMUPredictor", "Output", "ResNet"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_SECONDS, IMU_RATE = 64 / 30, 198.0  # s: 16 frames, every fourth at 30 fps, the paper's "around 2 seconds"; Hz
PARTS = ("image_encoder", "imu_encoder", "fusion")  # the arguments of `EgoDistill` that take a `Part`
# What a student has for an input alone; the last is a vector that stands for the other one.
READS = {"frames": ("image_encoder", "gru", "joint", "no_imu"), "imu": ("imu_encoder", "no_frames")}
OF_CLASSES = ("classifier.", "imu_encoder.refusal.")  # weights that `with_classes()` does not copy
MAX_BLOCK = 16  # channels: the largest block of oneDNN's kernels (AVX-512)
IN_PACKAGE = __name__ == "egodistill.student"  # or a copy

Weights = str | os.PathLike | Mapping[str, Tensor] | None
Part = nn.Module | Callable[[], nn.Module]  # a network of your own, or its class
Constructor = TypeVar("Constructor", bound=Callable[..., None])


class Output(NamedTuple):
    """The outputs of a model.

    Attributes:
        feature: [B, D].
        logits: Class logits [B, C], without a softmax.
    """

    feature: Tensor
    logits: Tensor


def record_arguments(*without: str) -> Callable[[Constructor], Constructor]:
    """Decorate a constructor so that it keeps its arguments, with defaults, in `self.arguments`, except `without`.

    From them, `from_arguments()` builds the same network anew. Numpy numbers are kept as Python numbers, and networks
    are not kept. `__init__` itself finds all arguments there, and may change some.
    """

    def decorate(init: Constructor) -> Constructor:
        @functools.wraps(init)
        def build(self: nn.Module, *given: Any, **options: Any) -> None:
            bound = inspect.signature(init).bind(self, *given, **options)
            bound.apply_defaults()
            _, *named = bound.arguments.items()
            arguments = {name: value.item() if isinstance(value, np.generic) else value for name, value in named}
            self.arguments = arguments
            init(self, **arguments)
            networks = {name for name, value in arguments.items() if callable(value)}  # or their classes
            self.arguments = {name: arguments[name] for name in arguments if name not in {*without, *networks}}

        return cast("Constructor", build)

    return decorate


class EgoDistill(nn.Module):
    """The student Phi (figure 2, right): N frames and IMU samples -> the teacher's feature and class logits.

    Phi(I, M) approximates Omega(V), the teacher's outputs for all frames of a clip (equation 2), in steps: z_I = f_I(I)
    by `encode_frames()` and `aggregate()`, z_M = f_M(M) by `encode_imu()`, z_phi = Pi(z_I, z_M) and logits by `fuse()`.

    The model takes what its `inputs` name: frames uint8 [B, N, 3, H, W] (RGB), imu float [B, 422, 6] (accelerometer
    xyz in m/s2, gravity included, and gyroscope xyz in rad/s), or both in this order. It returns `Output(feature [B,
    D], logits [B, C])`. It normalises the frames, and for the paper's IMU encoder subtracts the mean of each IMU
    channel over the clip (appendix C). The paper leaves `imu_width`, `imu_vector` and the layers of Pi open.

    Args:
        num_classes: C.
        feature_dim: D, the size of the teacher's feature (768 for MotionFormer).
        num_frames: N. One frame is the clip's centre frame.
        aggregator: What makes one feature of several frames: "gru", as in the paper, of which we take the last state,
            or "concat", a linear layer and a ReLU on the features of all frames side by side, in order of time.
        image_encoder: f_I, without its classifier: a name in `student.IMAGE_ENCODERS` (torchvision's networks),
            "resnet10xW", a small ResNet for small frames with one block per stage and W to 8 W channels, or a network
            of your own: [B, 3, H, W], normalised as for ImageNet -> [B, d]. None: a model that reads head motion
            alone, not the paper's.
        image_weights: "imagenet" (torchvision downloads them), a state dict or the path of one, or None for random. A
            network of your own keeps its weights.
        imu_encoder: f_M: "cnn", the paper's `IMUEncoder`, or plain numbers instead of a network: "spectrum",
            `engine.spectrum.IMUSpectrum`, or "filterbank", `engine.filterbank.IMUFilterbank`, without frames its
            numbers that hold for any mounting (`signed=False`); "filterbank-unsure" makes the last class "unsure"
            (`engine.refusal`). A network of your own: [B, T, 6] -> [B, m], or a map over time [B, channels, time]. It
            gets the samples without their mean, or as they are if it has an attribute `removes_mean = True`. None: a
            model that reads frames alone, as VisOnly; that of VisOnly-Distill has no Pi, and this one keeps it,
            because the teacher's feature has another size than z_I.
        imu_width: Width of the last layer of the paper's IMU encoder.
        imu_vector: "flatten" the IMU feature map over time, or its "mean" over time (accepts any length).
        imu_samples: Number of IMU samples of a clip; None: `imu_rate * clip_seconds`, the paper's 422.
        imu_rate: Rate of the IMU samples in Hz.
        imu_axes: Name of the axes of the IMU samples, which whoever reads them compares: those of a GoPro, X left, Y
            to the user, Z up, or your own. The attribute is "any" if the IMU encoder has `any_axes = True`, as a
            "filterbank" without frames.
        fusion: Pi; None: the paper's, fully connected layers on both features, `ConcatFusion`. A network of your own:
            (z_I or None, z_M or None) -> [B, D].
        hidden: Width of the hidden layers in the paper's fusion network.
        fusion_layers: Number of its hidden layers. With two, and the layer to [B, D] behind them, the student has 20.58
            million parameters; the paper's has 20.56.
        frame_size: Height and width of the frames; None: the size for which the image encoder's ImageNet weights were
            trained, 224 for most.
        sampling: Choice of frames, a rule of `video.clip_times()`. Like `exact` and `tolerance`, it is only kept here,
            for whoever reads the clips of videos.
        exact: True for exact frames, False for the nearest key frames.
        tolerance: Above 0, take the frames within this many seconds that are cheapest to decode.
        clip_seconds: Length of a clip in seconds.
        class_names: C names; None: training takes them from the store.
        optional_inputs: True for a model that may lack either input, `model(frames, None)` or `model(None, imu)`, and
            learns to: a vector of weights stands for z_I or z_M, as a missing-modality token (Ramazanova et al., arXiv
            2401.11470) does in a transformer. Not the paper's.

    Raises:
        ValueError: An argument, or the shape or type of an input, does not fit.

    >>> import torch
    >>> from egodistill import EgoDistill, data
    >>> model = EgoDistill(
    ...     num_classes=8, feature_dim=48, image_encoder="resnet10x4", image_weights=None, frame_size=64
    ... ).eval()
    >>> store = data.ClipStore("store")
    >>> frames, imu = (torch.from_numpy(store.read(name, [0, 1, 2])) for name in ("frames_1", "imu"))
    >>> feature, logits = model(frames, imu)
    >>> feature.shape, logits.shape
    (torch.Size([3, 48]), torch.Size([3, 8]))
    >>> model(frames)
    Traceback (most recent call last):
    ...
    ValueError: this model needs imu: model(frames, imu)
    >>> EgoDistill(8, image_encoder=None, imu_encoder="filterbank").eval()(imu).logits.shape
    torch.Size([3, 8])
    """

    file_class = "EgoDistill"  # its name in model files
    arguments: dict[str, Any]  # of the constructor
    trained_by: str | None = None  # the stage that trained it last
    trained_with: dict[str, Any] | None = None  # the settings and the history of that
    calibration: Any = None  # an `engine.calibration.Calibration`, once one is fitted
    lacks: str | None = None  # the input that this copy of `without()` does not read

    @record_arguments("image_weights", "class_names", "fusion")
    def __init__(
        self,
        num_classes: int,
        *,
        feature_dim: int = 768,
        num_frames: int = 1,
        aggregator: Literal["gru", "concat"] = "gru",
        image_encoder: str | Part | None = "resnet18",
        image_weights: Weights = "imagenet",
        imu_encoder: str | Part | None = "cnn",
        imu_width: int = 16,
        imu_vector: Literal["flatten", "mean"] = "flatten",
        imu_samples: int | None = None,
        imu_rate: float = IMU_RATE,
        imu_axes: str = "gopro",
        fusion: Part | None = None,
        hidden: int = 1024,
        fusion_layers: int = 2,
        frame_size: int | None = None,
        sampling: str = "uniform",
        exact: bool = True,
        tolerance: float = 0.0,
        clip_seconds: float = CLIP_SECONDS,
        class_names: list[str] | None = None,
        optional_inputs: bool = False,
    ) -> None:
        if IN_PACKAGE:  # What does not fit is refused before anything is built or downloaded.
            from .engine import parts

            parts.require_arguments(self.arguments, RESNETS)
        super().__init__()
        encoders = {"frames": image_encoder, "imu": imu_encoder}
        self.inputs = tuple(name for name, encoder in encoders.items() if encoder is not None)
        self.num_classes, self.feature_dim, self.optional_inputs = num_classes, feature_dim, optional_inputs
        self.class_names = None if class_names is None else [str(name) for name in class_names]

        # The clips that it reads, and how frames are normalised
        side, mean, std = preprocessing(image_encoder)
        self.frame_size = side if frame_size is None else frame_size
        self.num_frames, self.sampling, self.exact, self.tolerance = num_frames, sampling, exact, tolerance
        self.clip_seconds, self.imu_rate, self.imu_axes = clip_seconds, imu_rate, imu_axes
        self.imu_samples = max(1, round(imu_rate * clip_seconds)) if imu_samples is None else imu_samples
        self.arguments["imu_samples"] = self.imu_samples
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

        # f_I: frames -> z_I, [B, d]; if N > 1, [B, 512]
        self.aggregator, self.image_dim = aggregator, 0
        if image_encoder is not None:
            self.image_encoder, self.image_dim = build_image_encoder(image_encoder, image_weights, self.frame_size)
        if num_frames > 1 and aggregator == "gru":
            self.gru = nn.GRU(self.image_dim, 512, batch_first=True)
        elif num_frames > 1 and aggregator == "concat":
            self.joint = nn.Linear(num_frames * self.image_dim, 512)

        # f_M: samples -> z_M, [B, m]
        self.imu_vector, self.imu_dim = imu_vector, 0
        unsure = int(imu_encoder == "filterbank-unsure")  # 1: the last number of z_M is no input of Pi, see `fuse()`
        if imu_encoder == "cnn":
            self.imu_encoder: nn.Module = IMUEncoder(imu_width)
            self.imu_dim = imu_width * {"flatten": self.imu_samples, "mean": 1}[imu_vector]  # numbers of each channel
        elif isinstance(imu_encoder, str):  # plain numbers, not the paper's
            with needing_package():
                from .engine import parts
            signed = image_encoder is not None  # with numbers that say directions
            self.imu_encoder = parts.handcrafted_encoder(imu_encoder, self.imu_samples, imu_rate, signed, num_classes)
            self.imu_dim = self.imu_encoder.dim
        elif imu_encoder is not None:
            given, shapes = [torch.zeros(2, self.imu_samples, 6)], (("m",), ("channels", "time"))  # of any size
            self.imu_encoder, found = custom_network("imu_encoder", imu_encoder, given, *shapes)
            self.imu_dim = self._imu_vector(found).shape[1]
        if imu_encoder is not None:
            self.imu_axes = "any" if getattr(self.imu_encoder, "any_axes", False) else imu_axes
            self.imu_with_mean = bool(getattr(self.imu_encoder, "removes_mean", False))  # it gets the mean, too

        # Pi: z_I and z_M -> z_phi, [B, D]; then class logits, [B, C]
        image_size, imu_size = 512 if num_frames > 1 else self.image_dim, self.imu_dim - unsure
        if optional_inputs:
            self.no_frames, self.no_imu = (nn.Parameter(torch.zeros(1, size)) for size in (image_size, imu_size))
        if fusion is None:
            layers = perceptron(image_size + imu_size, [hidden] * fusion_layers, feature_dim)
            self.fusion: nn.Module = ConcatFusion(*layers)
        else:
            image = None if image_encoder is None else torch.zeros(2, image_size)
            imu = None if imu_encoder is None else torch.zeros(2, imu_size)
            self.fusion, _ = custom_network("fusion", fusion, [image, imu], (feature_dim,))
        self.classifier = nn.Linear(feature_dim, num_classes - unsure)
        self.with_unsure = None
        if unsure:
            from .engine.refusal import with_unsure

            self.with_unsure = with_unsure
        # The class of each network that was built here; one of another class is the user's, and is in `parts`.
        self.built = {name: type(getattr(self, name, None)) for name in PARTS if not callable(self.arguments[name])}

    if TYPE_CHECKING:  # A torch module's call has no types.

        def __call__(self, frames: Tensor | None = None, imu: Tensor | None = None) -> Output: ...

    def forward(self, frames: Tensor | None = None, imu: Tensor | None = None) -> Output:
        if "frames" not in self.inputs and imu is None:  # called with what `inputs` name: model(imu)
            frames, imu = None, frames
        for name, value in (("frames", frames), ("imu", imu)):
            if value is not None and name not in self.inputs:
                raise ValueError(f"this model reads {self.inputs[0]} alone: model({self.inputs[0]})")
        image = None if frames is None else self.aggregate(self.encode_frames(frames))  # z_I
        motion = None if imu is None else self.encode_imu(imu)  # z_M
        return self.fuse(image, motion)

    def encode_frames(self, frames: Tensor, count: int | None = None) -> Tensor:
        """Return f_I of each frame, [B, N, d].

        Args:
            frames: RGB, uint8 [B, N, 3, H, W].
            count: N, by default the model's.
        """
        self._require_input("frames")
        require_tensor("frames", frames)
        count = count or self.num_frames
        if frames.ndim != 5 or frames.shape[1:3] != (count, 3) or frames.dtype != torch.uint8:
            raise ValueError(
                f"frames must be uint8 [batch, {count}, 3, height, width]; got {describe(frames)}. Pass them as the "
                f"store or data.read_frames() returns them: RGB, channels first, not normalised"
            )
        pixels = (frames.flatten(0, 1) - self.mean) / self.std  # [B N, 3, H, W]
        features = self.image_encoder(pixels.contiguous(memory_format=torch.channels_last))  # [B N, d]
        return features.unflatten(0, frames.shape[:2])

    def aggregate(self, features: Tensor) -> Tensor:
        """Return z_I: the frame's feature [B, d]; if N > 1, the GRU's last state or the joint feature, [B, 512].

        Args:
            features: [B, N, d], of each frame.
        """
        if self.num_frames == 1:
            return features[:, 0]
        if self.aggregator == "gru":  # appendix C
            _, last = self.gru(features)  # [1, B, 512]
            return last[-1]
        return F.relu(self.joint(features.flatten(1)))  # [B, N d] -> [B, 512]

    def encode_imu(self, imu: Tensor) -> Tensor:
        """Return z_M, [B, m]. Of the paper's encoder, m is width * T, or width with `imu_vector="mean"`.

        Args:
            imu: Samples, float [B, T, 6] in m/s2 and rad/s.
        """
        self._require_input("imu")
        require_tensor("imu", imu)
        fixed = self.imu_vector == "flatten"
        length = self.imu_samples if fixed else "samples"
        if imu.ndim != 3 or imu.shape[2] != 6 or (fixed and imu.shape[1] != length) or not imu.is_floating_point():
            raise ValueError(
                f"imu must be float [batch, {length}, 6] (accelerometer xyz in m/s2, gyroscope xyz in rad/s); "
                f"got {describe(imu)}"
            )
        imu = imu.to(self.mean.dtype)  # that of the weights
        if not self.imu_with_mean:
            # Appendix C: bias differs between clips. The mean of gravity goes, too, and so does the head's net turn.
            imu = imu - imu.mean(dim=1, keepdim=True)
        return self._imu_vector(self.imu_encoder(imu))

    def _require_input(self, name: str) -> None:
        if name not in self.inputs:
            raise ValueError(f"this model reads {' and '.join(self.inputs)} alone, and no {name}")

    def _imu_vector(self, features: Tensor) -> Tensor:
        """Return the IMU feature [B, m] of what the IMU encoder returned, [B, m] or a map [B, channels, time]."""
        if features.ndim == 2:
            return features
        return features.flatten(1) if self.imu_vector == "flatten" else features.mean(dim=2)

    def fuse(self, image: Tensor | None, imu: Tensor | None) -> Output:
        """Return the outputs of the fusion network Pi and the classifier: z_phi [B, D] and logits [B, C].

        Args:
            image: z_I, [B, d], or [B, 512] if N > 1; None for a model, or for clips, without frames.
            imu: z_M, [B, m]; None for a model, or for clips, without IMU.
        """
        if self.optional_inputs and (image is None) != (imu is None):  # not the paper's
            image = self.no_frames.repeat(imu.shape[0], 1) if image is None else image
            imu = self.no_imu.repeat(image.shape[0], 1) if imu is None else imu
        given = {"frames": image, "imu": imu}
        if lacking := [name for name in self.inputs if given[name] is None]:
            raise ValueError(f"this model needs {lacking[0]}: model({', '.join(self.inputs)})")
        if image is not None and imu is not None and not torch.compiler.is_compiling() and len(image) != len(imu):
            raise ValueError(f"there are {len(image)} clips of frames and {len(imu)} of IMU samples; pass one per clip")
        if self.with_unsure is not None:  # not the paper's: the last number of z_M is how unlike known motion it is
            feature = self.fusion(image, imu[:, :-1])
            return Output(feature, self.with_unsure(self.classifier(feature), imu[:, -1:]))
        feature = self.fusion(image, imu)
        return Output(feature, self.classifier(feature))

    def without(self, name: Literal["frames", "imu"]) -> EgoDistill:
        """Return a copy of this student, which has `optional_inputs`, that lacks one of them.

        Args:
            name: The input that it lacks.

        Raises:
            ValueError: This student needs the input.
        """
        require_optional(self, name)
        found = copy.deepcopy(self)
        for part in READS[name]:
            if hasattr(found, part):
                delattr(found, part)
        (other,) = found.inputs = tuple(one for one in self.inputs if one != name)
        found.lacks, found.calibration = name, self.calibration and self.calibration.for_input(other)
        return found

    def freeze_trunk(self) -> EgoDistill:
        """Freeze everything but the classifier, in this library's training also statistics; return the student."""
        self.requires_grad_(False)
        self.classifier.requires_grad_(True)
        for part in self.modules():  # Other batch norms have weights, which say that they are frozen.
            if isinstance(part, nn.BatchNorm1d) and not part.affine:
                vars(part)["keeps_statistics"] = True
        return self

    def with_classes(self, names: Sequence[str]) -> EgoDistill:
        """Return a student of other classes, not yet trained: this one's encoders and fusion network, a new classifier.

        Args:
            names: Names of the classes. A student with a last class "unsure" keeps it; it need not be among them.

        Raises:
            ValueError: This is a copy of `without()`.

        >>> from egodistill import EgoDistill
        >>> EgoDistill.load("glasses").with_classes(["reading", "cycling"]).class_names
        ['reading', 'cycling', 'unsure']
        """
        if self.lacks:
            raise ValueError(f"this student lacks {self.lacks}; give the one that it is a copy of")
        found = [str(name) for name in names]
        found += self.class_names[-1:] if self.with_unsure and found[-1:] != self.class_names[-1:] else []
        own = {name: copy.deepcopy(part) for name, part in self.parts.items()}
        model = self.from_arguments({**self.arguments, "num_classes": len(found)}, found, **own)
        taken = {name: value for name, value in self.state_dict().items() if not name.startswith(OF_CLASSES)}
        model.load_state_dict(model.state_dict() | taken)
        return model

    def save(self, path: str | os.PathLike) -> None:
        """Write one self-contained file for `load()`: arguments, class names and weights.

        Args:
            path: The file to write.
        """
        with needing_package():
            from .engine import checkpoints
        checkpoints.save_model(self, path)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Return the networks of one's own, by name: `load()` must be given them."""
        networks = {name: network for name in PARTS if (network := getattr(self, name, None)) is not None}
        return {name: part for name, part in networks.items() if type(part) is not self.built.get(name)}

    @classmethod
    def load(cls, path: str | os.PathLike, **parts: Part) -> EgoDistill:
        """Return the model that `save()` wrote, in evaluation mode, on the CPU.

        A file has no code: of a student with a class or networks of your own, call `load()` of that class, and pass the
        networks again.

        Args:
            path: The model file.
            parts: The networks of your own that the model was built with, or their classes: `image_encoder`,
                `imu_encoder`, `fusion`. Their weights are replaced.

        Raises:
            EgoDistillOSError: The file does not exist.
            EgoDistillError: The file is damaged or does not fit, or it needs other parts.

        >>> from egodistill import EgoDistill
        >>> model = EgoDistill.load("student.safetensors")
        >>> model.inputs, model.num_classes, model.class_names[:2]
        (('frames', 'imu'), 13, ['close', 'cut'])
        """
        with needing_package():
            from .engine import checkpoints
        return checkpoints.load_model(path, cls, parts)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], class_names: list[str] | None, **parts: Part) -> EgoDistill:
        """Return a model with random weights, for `load()`.

        Args:
            arguments: Those of the constructor, as in `model.arguments`.
            class_names: C names, or None.
            parts: Networks that are not in the arguments.
        """
        return cls(**arguments, **parts, class_names=class_names, image_weights=None)


# ---------------------------------------------------------------------------------------------------------------
# The IMU encoder f_M, the fusion network Pi (section 3.3, appendix C) and the predictor h (section 3.4)


class IMUEncoder(nn.Module):
    """The IMU encoder f_M (appendix C), a dilated 1-D CNN of five layers: imu [B, T, 6] -> feature map [B, width, T].

    Kernels, channels and dilations are those of Brossard, Bonnabel and Barrau ("Denoising IMU gyroscopes with deep
    learning for open-loop attitude estimation", 2020), which the paper cites; norms, GELU, dropout and padding those of
    their released code. All padding is on the left and repeats the first sample, so each output depends on present and
    past samples only: 511 of them, more than a clip has. Remove the mean first, as `EgoDistill.encode_imu()` does.

    Args:
        width: Number of channels of the last layer. Neither paper gives it; 16 is closest to the published parameter
            count.
        dropout: Dropout rate after each layer but the last.

    >>> import torch
    >>> from egodistill import IMUEncoder
    >>> IMUEncoder(width=16)(torch.randn(2, 422, 6)).shape
    torch.Size([2, 16, 422])
    """

    def __init__(self, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        kernel, channels, dilations = 7, (6, 16, 32, 64, 128), (1, 4, 16, 64)
        layers: list[nn.Module] = [nn.ReplicationPad1d(((kernel - 1) * sum(dilations), 0))]
        for before, after, dilation in zip(channels, channels[1:], dilations, strict=False):
            layers += [nn.Conv1d(before, after, kernel, dilation=dilation), nn.BatchNorm1d(after)]
            layers += [nn.GELU(), nn.Dropout(dropout)]
        self.cnn = nn.Sequential(*layers, nn.Conv1d(channels[-1], width, 1))

    def forward(self, imu: Tensor) -> Tensor:
        return self.cnn(imu.transpose(1, 2))  # [B, 6, T] -> [B, width, T]


class ConcatFusion(nn.Sequential):
    """The fusion network Pi (appendix C): layers on image feature [B, d] and IMU feature [B, m], concatenated."""

    def forward(self, image: Tensor | None, imu: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        features = [feature for feature in (image, imu) if feature is not None]
        return super().forward(features[0] if len(features) == 1 else torch.cat(features, dim=1))


def perceptron(before: int, hidden: list[int], after: int) -> nn.Sequential:
    """Return fully connected layers with a ReLU after each but the last."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, after))


class IMUPredictor(nn.Module):
    """The predictor h of section 3.4: image features of first and last frame, [B, d] each -> IMU feature [B, m].

    The paper does not give its form; this one has one hidden layer, by default as wide as those of Pi.
    `pretrain_imu()` builds a predictor, unless you pass your own to keep it.

    Args:
        image_dim: Size d of an image feature.
        imu_dim: Size m of the IMU feature.
        hidden: Width of the hidden layer; None makes h linear.

    >>> import torch
    >>> from egodistill import EgoDistill, IMUPredictor
    >>> model = EgoDistill.load("student.safetensors")
    >>> first, last = torch.randn(2, 4, model.image_dim)
    >>> IMUPredictor(model.image_dim, model.imu_dim)(first, last).shape
    torch.Size([4, 6752])
    """

    def __init__(self, image_dim: int, imu_dim: int, hidden: int | None = 1024) -> None:
        super().__init__()
        self.image_dim, self.imu_dim = image_dim, imu_dim
        self.layers = perceptron(2 * image_dim, [] if hidden is None else [hidden], imu_dim)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        return self.layers(torch.cat([first, last], dim=1))


# ---------------------------------------------------------------------------------------------------------------
# The image encoder f_I: the paper's ResNet-18 (appendix C), and other ResNets


class BasicBlock(nn.Module):
    """Block of ResNet-18: two 3x3 convolutions and a shortcut (He et al., CVPR 2016), named as in torchvision.

    Args:
        before: Channels of the input.
        width: Channels of both convolutions.
        stride: Stride of the first convolution.
        downsample: Layers of the shortcut; None adds the input itself.
        groups: Groups of both convolutions.
    """

    expansion = 1

    def __init__(self, before: int, width: int, stride: int, downsample: nn.Sequential | None, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(before, width, 3, stride, groups), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, 1, groups), nn.BatchNorm2d(width)
        self.downsample = downsample
        # One module per call: quantisers do not support a module that is called twice.
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu2(y)


class Bottleneck(nn.Module):
    """Block of ResNet-50 v1.5: 1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut.

    Args:
        before: Channels of the input.
        width: Channels of the first two convolutions; the last has those of the shortcut.
        stride: Stride of the 3x3 convolution.
        downsample: Layers of the shortcut; None adds the input itself.
        groups: Groups of the 3x3 convolution.
    """

    expansion = 4

    def __init__(self, before: int, width: int, stride: int, downsample: nn.Sequential | None, groups: int = 1) -> None:
        super().__init__()
        after = before if downsample is None else downsample[-1].num_features  # of its batch norm
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

    Return None if neither the channels nor the size change.

    In the backward pass of a strided 1x1 convolution in channels_last, oneDNN's kernels for x86 write outside of their
    workspace if there are fewer input channels than the kernel's block: 8 with AVX2, 16 with AVX-512
    (uxlfoundation/oneDNN#6035). The process crashes, hangs, or continues with wrong gradients. Narrow shortcuts
    therefore select the pixels first and convolve them with stride 1, which is equivalent.
    """
    if before == after and stride == 1:
        return None
    layers: dict[str, nn.Module] = {}
    if stride > 1 and before < MAX_BLOCK:
        layers["pixels"] = Subsample(stride)
        stride = 1
    layers |= {"0": nn.Conv2d(before, after, 1, stride, bias=False), "1": nn.BatchNorm2d(after)}
    return nn.Sequential(OrderedDict(layers))


class Subsample(nn.Module):
    """Selection of every `stride`-th row and column: [B, C, H, W] -> [B, C, h, w]."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :: self.stride, :: self.stride]


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier, of any width and depth: [B, channels, H, W] -> [B, d].

    `state_dict()` has torchvision's names. Raise ValueError for depths that are not four numbers of at least 1.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: Number of blocks in each of the four stages.
        width: Channels of the stem and of the first stage; each further stage has twice as many.
        channels: Channels of the input.
        stem_stride: Stride of the first convolution.
        groups: Groups of the 3x3 convolutions.
        group_width: Channels per group in the first stage of a network with width 64 (torchvision's
            `width_per_group`).

    >>> import torch
    >>> from egodistill.student import BasicBlock, ResNet
    >>> net = ResNet(BasicBlock, (1, 1, 1, 1), width=8).eval()
    >>> net(torch.randn(2, 3, 64, 64)).shape, net.maps(torch.randn(2, 3, 64, 64)).shape
    (torch.Size([2, 64]), torch.Size([2, 64, 2, 2]))
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
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
            raise ValueError(f"depths must be four numbers of blocks, each at least 1; got {tuple(depths)}")
        self.conv1, self.bn1, self.relu = conv(channels, width, 7, stem_stride), nn.BatchNorm2d(width), nn.ReLU(True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = width
        for stage, depth in enumerate(depths):
            after = width * 2**stage * block.expansion
            inside = (width * 2**stage * group_width // 64) * groups  # channels of the 3x3 convolution
            blocks: list[nn.Module] = []
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(block(before, inside, stride, shortcut(before, after, stride), groups))
                before = after
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.feature_dim = after
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.maps(x), 1).flatten(1)  # [B, d, h, w] -> [B, d, 1, 1] -> [B, d]

    def maps(self, x: Tensor) -> Tensor:
        """Return the last feature map, [B, channels, H, W] -> [B, d, h, w]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x

    def stem(self, x: Tensor) -> Tensor:
        """Return the map after the first convolution and the max pooling, [B, channels, H, W] -> [B, width, h, w]."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    @property
    def blocks(self) -> list[nn.Module]:
        """Return the residual blocks of all stages in order."""
        return [*self.layer1, *self.layer2, *self.layer3, *self.layer4]


# torchvision's ResNets: block, depths, and other arguments of `ResNet`.
RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...], dict[str, int]]] = {
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


def build_image_encoder(encoder: str | Part, weights: Weights, size: int = 224) -> tuple[nn.Module, int]:
    """Return an image network without its classifier, [B, 3, H, W] -> [B, d], and d; `size` is the frames' H and W."""
    if not isinstance(encoder, str):
        network, found = custom_network("image_encoder", encoder, [torch.zeros(2, 3, size, size)], ("d",))
        return network, found.shape[1]
    if small := re.fullmatch(r"resnet10x([1-9]\d*)", encoder):
        network = ResNet(BasicBlock, (1, 1, 1, 1), int(small[1]))
    elif encoder in RESNETS:
        block, depths, options = RESNETS[encoder]
        network = ResNet(block, depths, **options)
    else:
        with needing_package():
            from .engine import image_encoders
        return image_encoders.build_torchvision_encoder(encoder, weights)
    if weights is not None:
        load_image_weights(network, encoder, weights)
    return network, network.feature_dim


def preprocessing(encoder: str | Part | None) -> tuple[int, Sequence[float], Sequence[float]]:
    """Return side in pixels, mean and standard deviation (RGB, 0 to 1) of frames for a network's ImageNet weights."""
    if not isinstance(encoder, str) or encoder in RESNETS or encoder.startswith("resnet10x"):
        return 224, IMAGENET_MEAN, IMAGENET_STD
    with needing_package():
        from .engine import image_encoders
    return image_encoders.preprocessing(encoder)


def load_image_weights(network: ResNet, name: str, weights: Weights) -> None:
    """Load "imagenet", a state dict or a file into a ResNet without its classifier. Raise unless they fit."""
    if IN_PACKAGE:
        from .engine import image_encoders

        image_encoders.load_image_weights(network, name, weights, head="fc")
        return
    if isinstance(weights, str) and weights == "imagenet":
        from torchvision import models

        version = "IMAGENET1K_V1" if name == "resnet18" else "DEFAULT"  # ResNet-18: those of the paper's time
        state = models.get_model_weights(name)[version].get_state_dict(progress=True, check_hash=True)
    else:
        state = weights if isinstance(weights, Mapping) else torch.load(weights, map_location="cpu", weights_only=True)
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})


# ---------------------------------------------------------------------------------------------------------------
# What lies in the package engine, and what a copy of this file does without it


def custom_network(
    name: str, part: Part, inputs: Sequence[Tensor | None], *shapes: tuple[int | str, ...]
) -> tuple[nn.Module, Tensor]:
    """Return a network of one's own, given or built, and its output for a batch of two clips.

    Its shape must be [2, *shape] of one of the shapes, in which a name is for any size; the package checks it.
    """
    if IN_PACKAGE:
        from .engine import parts

        return parts.custom_network(name, part, inputs, shapes)
    network = part if isinstance(part, nn.Module) else part()
    with torch.no_grad():
        return network, copy.deepcopy(network).eval()(*inputs)


def require_optional(model: Any, name: str, what: str = "this model") -> None:
    """Raise ValueError unless a student can do without an input; `what` is the student in the message."""
    reads = " and ".join(model.inputs)
    if len(model.inputs) < 2 or name not in model.inputs:
        raise ValueError(f"{what} reads {reads}, and cannot do without {name}")
    if not getattr(model, "optional_inputs", False):
        raise ValueError(
            f"{what} needs {reads}; one that was built with optional_inputs=True (--optional-inputs), and trained so, "
            f"can do without {name}"
        )


def require_tensor(name: str, value: object) -> None:
    """Raise TypeError for what is no tensor, such as the arrays that `data.read_frames()` and `Imu.window()` return."""
    if not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise TypeError(f"{name} must be a torch.Tensor; got {kind}: give torch.from_numpy({name})")


def describe(tensor: Tensor) -> str:
    """Return dtype and shape as text, such as "uint8 [2, 1, 3, 224, 224]"."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


@contextlib.contextmanager
def needing_package() -> Iterator[None]:
    """Let the block import of the package. Raise ValueError in a copy of this file alone."""
    try:
        yield
    except ImportError as error:
        if IN_PACKAGE:
            raise
        raise ValueError(
            "this needs egodistill's engine; in a copy of student.py alone, save model.arguments and "
            "model.state_dict() with torch.save(), and give encoders as networks, such as "
            "image_encoder=torchvision.models.mobilenet_v2(num_classes=512)"
        ) from error
