"""Baselines of the paper: AdaFuse, STTS and ListenToLook, three other efficient video models.

    from egodistill import baselines, data, distill, evaluate, finetune

    train, test = (data.ClipStore("store").split(name) for name in ("train", "test"))
    model = baselines.AdaFuse(len(train.class_names))               # skips and reuses channels from frame to frame
    model = baselines.STTS(len(train.class_names))                  # drops tokens in time and space
    finetune(model, train)                                          # on labels; AdaFuse adds its own loss
    model = baselines.ListenToLook(len(train.class_names), feature_dim=768)
    distill(model, train, teacher="motionformer")                   # the only one of the three with a teacher
    print(evaluate(model, test).top1)
    model.save("baseline.pt")
    model = baselines.Baseline.load("baseline.pt")

All take the same frames as the student, uint8 [B, N, 3, H, W] in RGB, normalise them and return
`Output(feature, logits)`. They follow the code released by their authors (mengyuest/AdaFuse, wangjk666/STTS,
facebookresearch/Listen-to-Look) and give equal outputs; where that code and its paper differ, or where neither gives a
value, the choice is an argument. AdaFuse saves no time here: like the released code, it computes all channels and then
masks them. `AdaFuse.gflops()` returns the cost if masked channels were not computed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from egodistill import CLIP_SECONDS, EgoDistillError, checkpoints, student, video_transformers
from egodistill.audio import AUDIO_BANDS, AUDIO_STEPS

__all__ = [
    "STTS_VARIANTS",
    "AdaFuse",
    "Baseline",
    "BaselineError",
    "Gflops",
    "ListenToLook",
    "STTS",
    "perturbed_topk",
    "straight_through_gumbel",
]

IMAGENET = (student.IMAGENET_MEAN, student.IMAGENET_STD)  # mean and standard deviation of RGB
KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


class BaselineError(EgoDistillError):
    """An argument or input of a baseline does not fit; the message says what would."""


# ---------------------------------------------------------------------------------------------------------------
# Common base


class Baseline(nn.Module):
    """The base class of AdaFuse, STTS and ListenToLook; `Baseline.load(path)` returns any of them.

    >>> from egodistill import baselines
    >>> model = baselines.AdaFuse(8, frame_size=64, width=8, depths=(1, 1, 1, 1), policy_hidden=8, weights=None)
    >>> model.save("baseline.pt")
    >>> type(baselines.Baseline.load("baseline.pt")).__name__
    'AdaFuse'
    """

    inputs: tuple[str, ...] = ("frames",)

    def __init__(
        self,
        normalise: tuple[Sequence[float], Sequence[float]],
        num_classes: int,
        num_frames: int,
        frame_size: int,
        width: int,
        clip_seconds: float,
        class_names: list[str] | None,
    ) -> None:
        """`normalise` is mean and standard deviation of RGB pixels (0 to 1); see the subclasses for the rest."""
        super().__init__()
        lowest = {"num_classes": (num_classes, 1), "num_frames": (num_frames, 1), "frame_size": (frame_size, 32)}
        for name, (value, least) in (lowest | {"width": (width, 1)}).items():
            if value < least:
                raise BaselineError(f"{type(self).__name__}: {name} must be at least {least}; got {value}")
        if class_names is not None and len(class_names) != num_classes:
            raise BaselineError(f"{len(class_names)} class names for num_classes={num_classes}")
        self.num_classes, self.num_frames, self.frame_size = num_classes, num_frames, frame_size
        self.clip_seconds = clip_seconds
        self.class_names = [str(name) for name in class_names] if class_names is not None else None
        for name, values in zip(("mean", "std"), normalise, strict=True):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    if TYPE_CHECKING:  # A torch module's call has no types.

        def __call__(self, *inputs: Tensor) -> student.Output: ...

    def pixels(self, frames: Tensor) -> Tensor:
        """Return normalised frames: uint8 [B, N, 3, H, W] -> float of the same shape."""
        if frames.ndim != 5 or frames.shape[1:3] != (self.num_frames, 3) or frames.dtype != torch.uint8:
            raise BaselineError(
                f"{type(self).__name__} reads frames as uint8 [batch, {self.num_frames}, 3, height, width]; got "
                f"{student.describe(frames)}. Pass them as the store returns them, not normalised"
            )
        return (frames.float() - self.mean) / self.std

    def save(self, path: str | os.PathLike) -> None:
        """Write one self-contained file for `load()`; the file is complete or absent."""
        checkpoints.save_model(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Baseline:
        """Return the model that `save()` wrote, in evaluation mode, on the CPU.

        Raise EgoDistillOSError if the file does not exist, EgoDistillError if it is damaged or does not fit.
        """
        return checkpoints.load_model(path, cls)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], class_names: list[str] | None) -> Baseline:
        """Return a model with these `arguments` and random weights, for `load()`."""
        return cls(**arguments, class_names=class_names, weights=None)


def require_choices(model: nn.Module, **options: tuple[str, tuple[str, ...]]) -> None:
    """Raise BaselineError if an option, {name: (value, choices)}, is not one of its choices."""
    for name, (value, choices) in options.items():
        if value not in choices:
            raise BaselineError(f"{type(model).__name__}: {name} must be one of {choices}; got {value!r}")


def load_pretrained(weights: student.Weights, keyword: str, published: str, head: str) -> tuple[dict[str, Tensor], str]:
    """Return weights without the classifier, whose keys start with `head`, and their name for error messages.

    If `weights` is `keyword`, torchvision downloads the weights called `published`.
    """
    if isinstance(weights, str) and weights == keyword:
        state = student.download_weights(torchvision.models.get_weight(published), published)
        source = f"torchvision's {published}"
    else:
        state = checkpoints.read_weights(weights)
        source = "the given weights" if isinstance(weights, Mapping) else f"the file {weights}"
    return {key: value for key, value in state.items() if not key.startswith(head)}, source


# ---------------------------------------------------------------------------------------------------------------
# AdaFuse (Meng et al., "AdaFuse: Adaptive Temporal Fusion Network for Efficient Action Recognition", ICLR 2021)

SKIP, REUSE, KEEP = 0, 1, 2  # actions of a policy on a channel of a frame


class Gflops(NamedTuple):
    """Billions of operations for one clip, counted as by AdaFuse's authors (see `AdaFuse.count_operations()`)."""

    upb: float  # Upper bound: operations that read a skipped channel are saved.
    real: float  # Operations whose results are never read are saved, too.
    dense: float  # Nothing is saved.


class GatedBottleneck(student.Bottleneck):
    """Bottleneck with AdaFuse's two changes: a temporal shift of its input, and gates after the first convolution.

    `inside` replaces x as the input of the convolutions, including the shortcut's; `between` is applied to the output
    of the first one.
    """

    def forward(
        self, x: Tensor, inside: Tensor | None = None, between: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        inside = x if inside is None else inside
        y = self.relu1(self.bn1(self.conv1(inside)))
        y = self.relu2(self.bn2(self.conv2(y if between is None else between(y))))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(inside)
        return self.relu3(y)


class Policy(nn.Module):
    """The policy of a block: pooled inputs of previous and this frame [F, 2 * Cin] -> log-probabilities [F, w, 3]."""

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.fc0, self.bn, self.fc1 = first, nn.BatchNorm1d(first.out_features), second

    def forward(self, pooled: Tensor) -> Tensor:
        scores = self.fc1(F.relu(self.bn(self.fc0(pooled)))).unflatten(1, (-1, 3))
        return scores.float().softmax(2).clamp(min=1e-8).log()


class AdaFuse(Baseline):
    """A ResNet-50 whose policies skip channels of a frame, reuse the previous frame's, or keep them.

    num_classes      C. The feature is the mean over the frames of the pooled last map, D = 32 * width.
    gates            "last": only the blocks of the last stage have policies, one each. This is the configuration of
                     the released training script and of the paper's 38.85 M parameters. "all": each block has a
                     policy, and policies of equal shape share all but the batch norm (the released AdaFuse-R50-TSN).
    temporal_shift   TSM (Lin et al., ICCV 2019): an eighth of the channels come from the next frame, another eighth
                     from the previous one. No operations are counted for it.
    num_frames, frame_size, width, depths   T, height and width, channels of the stem, blocks per stage.
    weights          "imagenet" (torchvision downloads them), a ResNet-50 state dict of torchvision or the path of
                     one, or None for random. Policies and classifier always start with random weights.

    Choices where the released code differs from its paper, or neither gives a value:

    sample_at_evaluation   The released code draws noise at evaluation, too; False takes the likeliest action.
    last_frame             In `real`, "released" counts the second-to-last frame instead of the last, because of a
                           leftover loop variable in the released code; "corrected" counts the last.
    efficiency             The count that the loss reduces: "upb", or "real" (used for Something-Something v2, with
                           efficiency_weight=0.075).
    efficiency_weight      Its weight in the loss, in 1 / GFLOPs per frame.
    tau                    Temperature of the Gumbel softmax; constant, as the released decay option has no effect.
    policy_hidden          "last": hidden units of each policy (1024). "all": hidden units times channels (196608).
    history_gradient       False: no gradient through channels reused from the previous frame.

    After a forward pass, `decisions` holds the actions, uint8 [B, T, w] per gated block (0 skip, 1 reuse, 2 keep).
    Raise BaselineError for arguments or inputs that do not fit.

    >>> import torch
    >>> from egodistill import baselines, data
    >>> model = baselines.AdaFuse(8, frame_size=64, width=8, depths=(1, 1, 1, 1), policy_hidden=8, weights=None).eval()
    >>> feature, logits = model(torch.from_numpy(data.ClipStore("store").read("frames_4", [0, 1, 2])))
    >>> feature.shape, logits.shape
    (torch.Size([3, 256]), torch.Size([3, 8]))
    >>> cost = model.gflops()
    >>> cost.real <= cost.upb <= cost.dense
    True
    """

    @student.record_arguments("weights", "class_names")
    def __init__(
        self,
        num_classes: int,
        *,
        gates: str = "last",
        temporal_shift: bool = False,
        num_frames: int = 4,
        frame_size: int = 224,
        width: int = 64,
        depths: Sequence[int] = (3, 4, 6, 3),
        dropout: float = 0.5,
        sample_at_evaluation: bool = False,
        last_frame: str = "released",
        efficiency: str = "upb",
        efficiency_weight: float = 0.125,
        tau: float = 0.67,
        policy_hidden: int | None = None,
        history_gradient: bool = True,
        clip_seconds: float = CLIP_SECONDS,
        weights: student.Weights = "imagenet",
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__(IMAGENET, num_classes, num_frames, frame_size, width, clip_seconds, class_names)
        require_choices(
            self,
            gates=(gates, ("last", "all")),
            last_frame=(last_frame, ("released", "corrected")),
            efficiency=(efficiency, ("upb", "real")),
        )
        if temporal_shift and width < 8:
            raise BaselineError(f"AdaFuse: temporal_shift needs a width of at least 8; got width={width}")
        self.temporal_shift, self.history_gradient, self.last_frame = temporal_shift, history_gradient, last_frame
        self.sample_at_evaluation, self.tau = sample_at_evaluation, tau
        self.efficiency, self.efficiency_weight = efficiency, efficiency_weight

        self.backbone = build_resnet(GatedBottleneck, depths, width)
        if weights is not None:
            state, source = load_pretrained(weights, "imagenet", "ResNet50_Weights.IMAGENET1K_V1", "fc.")
            checkpoints.load_strictly(self.backbone, state, source)
        self.feature_dim = self.backbone.feature_dim
        self.dropout = nn.Dropout(dropout)
        self.classifier = small_linear(self.feature_dim, num_classes)
        self.first_gate = 0 if gates == "all" else len(self.backbone.blocks) - depths[3]
        self.policies = self.build_policies(shared=gates == "all", hidden=policy_hidden)
        self.frame_macs, self.block_macs = self.count_operations()
        self.decisions: list[Tensor] = []
        self.spent: Tensor | None = None

    def build_policies(self, *, shared: bool, hidden: int | None) -> nn.ModuleList:
        """Return a policy for each gated block; with `shared`, policies of equal shape share all but the batch norm."""
        policies = nn.ModuleList()
        layers: dict[tuple[int, int], tuple[nn.Linear, nn.Linear]] = {}
        for number, block in enumerate(self.backbone.blocks[self.first_gate :]):
            before, channels = block.conv1.in_channels, block.conv1.out_channels
            units = max(1, (hidden or 196_608) // channels) if shared else hidden or 1024
            key = (before, channels) if shared else (number, 0)
            if key not in layers:
                layers[key] = small_linear(2 * before, units), small_linear(units, 3 * channels)
            policies.append(Policy(*layers[key]))
        return policies

    def forward(self, frames: Tensor) -> student.Output:
        return self.encode(self.pixels(frames))

    def encode(self, pixels: Tensor) -> student.Output:
        """Return the outputs for normalised frames, float [B, T, 3, H, W]; logits are averaged over the frames."""
        count = pixels.shape[1]
        x = self.backbone.stem(pixels.flatten(0, 1))
        actions = []
        for number, block in enumerate(self.backbone.blocks):
            inside, between = shift(x, count) if self.temporal_shift else x, None
            if number >= self.first_gate:
                actions.append(self.decide(self.policies[number - self.first_gate], inside, count))
                between = partial(self.merge, action=actions[-1])
            x = block(x, inside, between)
        self.record_decisions(actions)
        feature = x.mean((2, 3)).unflatten(0, (-1, count))
        return student.Output(feature.mean(1), self.classifier(self.dropout(feature)).mean(1))

    def decide(self, policy: Policy, x: Tensor, count: int) -> Tensor:
        """Return one-hot actions [B, T, w, 3] for a block with the input x [B * T, Cin, H, W]."""
        pooled = x.mean((2, 3)).unflatten(0, (-1, count))
        both = torch.cat([previous_frame(pooled), pooled], dim=2)
        log_probabilities = policy(both.flatten(0, 1))
        noise = gumbel_noise(log_probabilities) if self.training or self.sample_at_evaluation else None
        return straight_through_gumbel(log_probabilities, noise, self.tau).unflatten(0, (-1, count))

    def merge(self, y: Tensor, action: Tensor) -> Tensor:
        """Return y [B * T, w, H, W] with channels kept, replaced by the previous frame's (unmasked), or set to 0."""
        y = y.unflatten(0, action.shape[:2])
        previous = previous_frame(y if self.history_gradient else y.detach())
        keep, reuse = (action[..., k, None, None].to(y.dtype) for k in (KEEP, REUSE))
        return (keep * y + reuse * previous).flatten(0, 1)

    def count_operations(self) -> tuple[int, list[tuple[int, int]]]:
        """Return the operations for a full frame, and those of the first two convolutions of each gated block.

        The authors count as thop does: multiply-adds of convolutions and linear layers without biases, 4 operations
        per value of a batch norm, 1 per value that the global pool reads or writes.
        """
        gated = set(self.backbone.blocks[self.first_gate :])
        side = half_size(self.frame_size)
        total = with_norm(self.backbone.conv1, side)
        side, saved = half_size(side), []
        for block in self.backbone.blocks:
            after = half_size(side) if block.conv2.stride[0] == 2 else side
            total += with_norm(block.conv1, side) + with_norm(block.conv2, after) + with_norm(block.conv3, after)
            if block.downsample is not None:
                total += with_norm(block.downsample[-2], after)
            if block in gated:
                saved.append((block.conv1.weight.numel() * side**2, block.conv2.weight.numel() * after**2))
            side = after
        total += self.feature_dim * (side**2 + 1) + self.classifier.weight.numel()
        for policy in self.policies:
            total += policy.fc0.weight.numel() + 4 * policy.bn.num_features + policy.fc1.weight.numel()
        return total, saved

    def record_decisions(self, actions: list[Tensor]) -> None:
        """Store the decisions and their cost, GFLOPs per frame (upb, real) of each clip, differentiable in training."""
        self.decisions = [action.detach().argmax(3).to(torch.uint8) for action in actions]
        upb = real = torch.full((len(actions[0]),), self.frame_macs / 1e9, device=actions[0].device)
        for action, (first, second) in zip(actions, self.block_macs, strict=True):
            skip, reuse, keep = action.unbind(3)
            downstream = skip.mean((1, 2))
            # A channel is never read if it is not kept now and not reused in the next frame.
            unread = (1 - keep[:, :-1]) * (1 - reuse[:, 1:])
            last = 1 - (keep[:, -2 if self.last_frame == "released" and keep.shape[1] > 1 else -1])
            upstream = torch.cat([unread, last[:, None]], dim=1).mean((1, 2))
            upb = upb - downstream * second / 1e9
            real = real - (upstream * first + downstream * second) / 1e9
        spent = torch.stack([upb, real])
        # In evaluation nothing calls extra_loss(), and a stored graph would hold memory and prevent copies.
        self.spent = spent if self.training else spent.detach()

    def gflops(self) -> Gflops:
        """Return the mean cost per clip of the last batch, at `frame_size`, if masked channels were not computed.

        Raise BaselineError if there was no batch, or if `extra_loss()` has been called since.
        """
        if not self.decisions:
            raise BaselineError("AdaFuse.gflops() returns the cost of a batch; run the model on one first")
        if self.spent is None:
            raise BaselineError("extra_loss() has taken the cost of the last training batch; call gflops() before it")
        upb, real = (self.num_frames * float(value) for value in self.spent.detach().mean(1))
        return Gflops(upb, real, self.num_frames * self.frame_macs / 1e9)

    def extra_loss(self, output: student.Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the term that training adds to its loss: the weighted GFLOPs per frame of each clip, [B].

        Raise BaselineError unless it is called once after a forward pass.
        """
        if self.spent is None:
            raise BaselineError("AdaFuse.extra_loss() must be called once after a forward pass")
        spent, self.spent = self.spent, None
        return {"efficiency": self.efficiency_weight * spent[("upb", "real").index(self.efficiency)].abs()}


def gumbel_noise(like: Tensor) -> Tensor:
    """Return standard Gumbel noise with the shape of a tensor."""
    uniform = torch.rand(like.shape, device=like.device, dtype=torch.float32).clamp(1e-6, 1 - 1e-6)
    return -torch.log(-torch.log(uniform))


def straight_through_gumbel(log_probabilities: Tensor, noise: Tensor | None, tau: float) -> Tensor:
    """Return a one-hot choice along the last axis, float [..., n] -> float [..., n] (Jang, Gu, Poole, ICLR 2017).

    The gradient is that of softmax((log p + noise) / tau). With Gumbel noise the choice is a sample, without noise
    (None) the likeliest one.

    >>> import torch
    >>> from egodistill import baselines
    >>> baselines.straight_through_gumbel(torch.tensor([[0.2, 0.7, 0.1]]).log(), None, tau=0.67)
    tensor([[0., 1., 0.]])
    """
    scores = log_probabilities if noise is None else log_probabilities + noise
    hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)
    soft = (scores / tau).softmax(-1)
    return hard + (soft - soft.detach())


def previous_frame(x: Tensor) -> Tensor:
    """Return the values of the previous frame, zeros for the first: [B, T, ...] -> the same shape."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


def shift(x: Tensor, count: int) -> Tensor:
    """Shift [B * T, C, H, W] in time: C // 8 channels of the next frame, C // 8 of the previous, then this one's."""
    x = x.unflatten(0, (-1, count))
    part = x.shape[2] // 8
    following, previous = x[:, 1:, :part], x[:, :, part : 2 * part]
    following = torch.cat([following, torch.zeros_like(x[:, :1, :part])], dim=1)
    return torch.cat([following, previous_frame(previous), x[:, :, 2 * part :]], dim=2).flatten(0, 1)


def build_resnet(block: type[nn.Module], depths: Sequence[int], width: int, **options: int) -> student.ResNet:
    """Return a ResNet. Raise BaselineError if the depths do not fit."""
    try:
        return student.ResNet(block, depths, width, **options)
    except ValueError as error:
        raise BaselineError(str(error)) from error


def small_linear(before: int, after: int) -> nn.Linear:
    layer = nn.Linear(before, after)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


def half_size(side: int) -> int:
    """Return the size after a convolution or a pool with stride 2."""
    return (side + 1) // 2


def with_norm(layer: nn.Conv2d, side: int) -> int:
    """Return the operations of a convolution and its batch norm on a map of `side` x `side`."""
    return (layer.weight.numel() + 4 * layer.out_channels) * side**2


# ---------------------------------------------------------------------------------------------------------------
# STTS (Wang et al., "Efficient Video Transformers with Spatial-Temporal Token Selection", ECCV 2022)

# The released configurations; their settings differ from the ratios in their names.
STTS_VARIANTS: dict[str, dict[str, float | None]] = {
    "T0.5-S0.7": {"time_ratio": 0.5, "space_ratio": 0.7367},
    "T0.8-S0.9": {"time_ratio": 0.75, "space_ratio": 0.863},
    "full": {"time_ratio": None, "space_ratio": None},
}


class Scorer(nn.Module):
    """The scores of tokens: [B, n, C] -> [B, n]. Half of the channels are the token's, half the mean of all tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 1)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        own, common = self.in_conv(tokens).chunk(2, dim=2)
        return self.out_conv(torch.cat([own, common.mean(1, keepdim=True).expand_as(own)], dim=2)).squeeze(2)


class STTS(Baseline):
    """An MViT-B that keeps the frames with the best scores, and within them the window with the best score.

    num_classes      C. The feature is the normalised class token, D = 8 * width.
    time_ratio       Share of the temporal tokens (two frames each) that are kept before the first block; None: all.
    space_ratio      Share of the area that is kept as a window before the second block of the third stage; None:
                     all. `STTS(C, **STTS_VARIANTS["T0.8-S0.9"])` has the released settings. With 4 frames there
                     are two temporal tokens, and every valid ratio below 1 keeps one of them.
    num_frames, frame_size, width, depths   T, height and width, channels of the first block, blocks per stage.
    drop_path        Rate of stochastic depth in the last block; it grows linearly from 0 in the first.
    weights          "kinetics" (MViT-B 16x4 on Kinetics-400, downloaded by torchvision), a state dict in the layout
                     of torchvision, PySlowFast, pytorchvideo or STTS, or the path of one, or None for random. The
                     classifier is not loaded; position embeddings are interpolated if frames or size differ (our
                     choice: the checkpoint from which the authors started is not released).

    Choices where the released code differs from its paper, or neither gives a value:

    sigma            Scale of the noise in training; it decreases linearly to 0 over the training (`set_progress`).
    samples          Number of noise samples per selection.
    jacobian         Gradient of the selection: "diagonal" is the released one, in which a score depends only on its own
                     candidate; "full" is that of the perturbed maximum (Berthet et al., NeurIPS 2020).

    At evaluation the selection is a plain top-k. `selection` holds that of the last forward pass: for "time" and
    "space" the scores [B, candidates] scaled to 0..1 (for space one row per kept frame), and the chosen indices [B, k]
    in order. Raise BaselineError for arguments or inputs that do not fit.

    >>> import torch
    >>> from egodistill import baselines, data
    >>> variant = baselines.STTS_VARIANTS["T0.5-S0.7"]
    >>> model = baselines.STTS(8, frame_size=64, width=32, depths=(1, 1, 2, 1), weights=None, **variant).eval()
    >>> feature, logits = model(torch.from_numpy(data.ClipStore("store").read("frames_4", [0, 1, 2])))
    >>> feature.shape, logits.shape
    (torch.Size([3, 256]), torch.Size([3, 8]))
    >>> {name: tuple(chosen.shape) for name, (scores, chosen) in model.selection.items()}
    {'time': (3, 1), 'space': (3, 1)}
    """

    @student.record_arguments("weights", "class_names")
    def __init__(
        self,
        num_classes: int,
        *,
        time_ratio: float | None = 0.5,
        space_ratio: float | None = 0.7367,
        num_frames: int = 4,
        frame_size: int = 224,
        width: int = 96,
        depths: Sequence[int] = (1, 2, 11, 2),
        dropout: float = 0.5,
        drop_path: float = 0.2,
        sigma: float = 0.1,
        samples: int = 500,
        jacobian: str = "diagonal",
        clip_seconds: float = CLIP_SECONDS,
        weights: student.Weights = "kinetics",
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__(KINETICS, num_classes, num_frames, frame_size, width, clip_seconds, class_names)
        if len(depths) != 4 or min(depths) < 1 or depths[2] < 2:
            raise BaselineError(
                f"STTS: depths must be four numbers of blocks, each at least 1 and the third at least 2; got {depths}"
            )
        if frame_size % 32 or width % 4:
            raise BaselineError(f"STTS: frame_size={frame_size} must be a multiple of 32 and width={width} of 4")
        require_jacobian(jacobian)
        self.samples, self.jacobian, self.sigma = samples, jacobian, sigma
        self.selection: dict[str, tuple[Tensor, Tensor]] = {}
        self.grid = ((num_frames + 1) // 2, frame_size // 4, frame_size // 4)
        self.build_transformer(width, depths, drop_path)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(self.feature_dim, num_classes)
        self.space_block = depths[0] + depths[1] + 1
        self.build_time_selection(time_ratio, 2 * width)
        self.build_space_selection(space_ratio, 4 * width)
        video_transformers.initialise(self)
        if weights is not None:
            self.load_pretrained(weights)

    def build_transformer(self, width: int, depths: Sequence[int], drop_path: float) -> None:
        """Build MViT's patches, positions and blocks, with MViT's parameter names."""
        times, side, _ = self.grid
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, (3, 7, 7), (2, 4, 4), (1, 3, 3))})
        self.cls_token, self.pos_embed_class = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.pos_embed_spatial = nn.Parameter(torch.zeros(1, side**2, width))
        self.pos_embed_temporal = nn.Parameter(torch.zeros(1, times, width))
        # The norms after pooling have an eps of 1e-5, unlike all others here.
        self.blocks = video_transformers.mvit_blocks(width, 1, depths, kv_stride=8, pool_eps=1e-5, drop_path=drop_path)
        self.feature_dim = 8 * width
        self.norm = nn.LayerNorm(self.feature_dim, eps=1e-6)

    def build_time_selection(self, ratio: float | None, dim: int) -> None:
        """Build the scorer of temporal tokens and the table of their tokens; None keeps all."""
        times, side, _ = self.grid
        self.keep_times = times if ratio is None else int(times * ratio)
        if not 1 <= self.keep_times <= times:
            raise BaselineError(
                f"STTS: time_ratio={ratio} keeps {self.keep_times} of the {times} temporal tokens of "
                f"{self.num_frames} frames; it must keep 1 to {times}"
            )
        self.time_scorer = None if ratio is None else Scorer(dim)
        if ratio is not None:
            self.register_buffer("time_table", torch.arange(times * side**2).view(times, -1), persistent=False)

    def build_space_selection(self, ratio: float | None, dim: int) -> None:
        """Build the scorer of windows and the table of their tokens on the third stage's map; None keeps all."""
        self.space_scorer = None if ratio is None else Scorer(dim)
        if ratio is None:
            return
        side = self.grid[1] // 4
        self.window = math.isqrt(max(0, int(side**2 * ratio)))
        if not 1 <= self.window <= side:
            raise BaselineError(
                f"STTS: space_ratio={ratio} results in windows of {self.window} x {self.window} on a map of "
                f"{side} x {side}; it must be above 0 and at most 1"
            )
        self.window_stride = max((side - self.window) // 2, 1)
        cells = torch.arange(side**2).view(side, side)
        windows = cells.unfold(0, self.window, self.window_stride).unfold(1, self.window, self.window_stride)
        self.register_buffer("space_table", windows.flatten(2).flatten(0, 1).contiguous(), persistent=False)

    def load_pretrained(self, weights: student.Weights) -> None:
        """Load published weights; the classifier stays random, and so do the scorers if the weights are of an MViT."""
        state, source = load_pretrained(weights, "kinetics", "MViT_V1_B_Weights.KINETICS400_V1", "head.")
        layout = checkpoints.find_layout(state, STTS_LAYOUTS, source)
        state, names, _ = checkpoints.rename(state, layout)
        keep = ["head."] if layout.source == "STTS" else ["head.", "time_scorer.", "space_scorer."]
        checkpoints.load_strictly(self, self.fit_positions(state), source, names=names, keep=keep)

    def forward(self, frames: Tensor) -> student.Output:
        return self.encode(self.pixels(frames))

    def encode(self, pixels: Tensor) -> student.Output:
        """Return the outputs for normalised frames, float [B, T, 3, H, W]."""
        x = self.patch_embed["proj"](pixels.transpose(1, 2))
        if x.shape[2:] != self.grid:
            raise BaselineError(
                f"STTS was built for frames of {self.frame_size} pixels; got frames {student.describe(pixels)}"
            )
        grid = self.grid
        x = x.flatten(3).permute(0, 2, 3, 1)  # [B, times, side * side, width]
        x = x + self.pos_embed_spatial[:, None] + self.pos_embed_temporal[:, :, None]
        x = torch.cat([(self.cls_token + self.pos_embed_class).expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
        self.selection = {}
        if self.time_scorer is not None:
            x, grid = self.select_times(x, grid)
        for number, block in enumerate(self.blocks):
            if number == self.space_block and self.space_scorer is not None:
                x, grid = self.select_window(x, grid)
            x, grid = block(x, grid)
        feature = self.norm(x[:, 0])
        return student.Output(feature, self.head(self.dropout(feature)))

    def select_times(self, x: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int, int]]:
        """Return the tokens [B, 1 + S', C] of the best times, in order, and their grid.

        The score of a time uses the mean and the maximum of its tokens.
        """
        maps = x[:, 1:].unflatten(1, (grid[0], -1))
        scores = self.time_scorer(torch.cat([maps.mean(2), maps.amax(2)], dim=2))
        tokens = self.select("time", x[:, 1:], scores, self.time_table, self.keep_times)
        return torch.cat([x[:, :1], tokens], dim=1), (self.keep_times, *grid[1:])

    def select_window(self, x: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int, int]]:
        """Return the tokens [B, 1 + S', C] in the best window of each time, and their grid.

        The score of a window is the mean of its tokens' scores.
        """
        tokens = x[:, 1:].unflatten(1, (grid[0], -1)).flatten(0, 1)
        scores = self.space_scorer(tokens).view(-1, 1, *grid[1:])
        scores = F.avg_pool2d(scores, self.window, self.window_stride).flatten(1)
        tokens = self.select("space", tokens, scores, self.space_table, 1).reshape(len(x), -1, x.shape[2])
        return torch.cat([x[:, :1], tokens], dim=1), (grid[0], self.window, self.window)

    def select(self, name: str, tokens: Tensor, scores: Tensor, table: Tensor, k: int) -> Tensor:
        """Return the tokens of the k best candidates: [B, n, C] -> [B, k * L, C].

        `table` [d, L] lists the tokens of each candidate. In training each selected candidate is a mean of all
        candidates, weighted by how often noisy scores choose them.
        """
        low, high = (extreme(scores.float(), dim=1, keepdim=True) for extreme in (torch.amin, torch.amax))
        scores = (scores.float() - low) / (high - low + 1e-5)
        index = scores.topk(k, dim=1).indices.sort(dim=1).values
        self.selection[name] = (scores.detach(), index)
        if self.training and self.sigma > NO_NOISE:
            chosen = perturbed_topk(scores, k, self.sigma, samples=self.samples, jacobian=self.jacobian)
            return torch.einsum("bkd,bdlc->bklc", chosen.to(tokens.dtype), tokens[:, table]).flatten(1, 2)
        return tokens.take_along_dim(table[index].flatten(1)[:, :, None], dim=1)

    def set_progress(self, share: float) -> None:
        """Reduce the noise; training calls this with the share that is done, 0 to 1."""
        self.sigma = self.arguments["sigma"] * (1 - share)

    def fit_positions(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with position embeddings resized to this model's number of frames and frame size."""
        state = dict(state)
        if (times := state.get("pos_embed_temporal")) is not None and times.shape[1] != self.grid[0]:
            resized = F.interpolate(times.transpose(1, 2), self.grid[0], mode="linear")
            state["pos_embed_temporal"] = resized.transpose(1, 2)
        if (places := state.get("pos_embed_spatial")) is not None and places.shape[1] != self.grid[1] ** 2:
            maps = places.transpose(1, 2).unflatten(2, (math.isqrt(places.shape[1]), -1))
            resized = F.interpolate(maps, self.grid[1:], mode="bilinear", antialias=True)
            state["pos_embed_spatial"] = resized.flatten(2).transpose(1, 2)
        return state


# The released STTS has its own names for the scorers, and PySlowFast's for the rest.
STTS_LAYOUTS = (
    checkpoints.Layout(
        video_transformers.MViT,
        "STTS",
        r"(time|space)_score_predictor\.",
        ((r"_score_predictor\.0\.score_network\.", "_scorer."),),
        **video_transformers.MVIT_SHAPES,
    ),
    *(
        checkpoints.Layout(**plain)
        for plain in video_transformers.LAYOUTS
        if plain["network"] is video_transformers.MViT
    ),
)
NO_NOISE = 1e-20


def gaussian_noise(x: Tensor, samples: int) -> Tensor:
    return torch.randn(len(x), samples, x.shape[1], device=x.device, dtype=x.dtype)


def perturbed_topk(
    x: Tensor, k: int, sigma: float, *, samples: int = 500, noise: Tensor | None = None, jacobian: str = "diagonal"
) -> Tensor:
    """Return the k best of d scores as a differentiable selection, [B, d] -> [B, k, d].

    Row j is the share of `samples` noisy scores x + sigma * noise in which each candidate is the j-th, by index, of
    the k best; noise is standard normal [B, samples, d]. Its gradient (Cordonnier et al., "Differentiable Patch
    Selection for Image Recognition", CVPR 2021) is estimated from the same samples: the derivative of the mean of
    f(x + sigma Z) with respect to x_c is the mean of f(x + sigma Z) Z_c / sigma. `jacobian="full"` computes it for all
    pairs; "diagonal", as released, drops pairs of different candidates. Without noise (sigma <= 1e-20) rows are one-hot
    and the gradient is zero. Raise BaselineError for another `jacobian`, or a k that is not from 1 to d.

    >>> import torch
    >>> from egodistill import baselines
    >>> baselines.perturbed_topk(torch.tensor([[0.1, 0.9, 0.5]]), k=2, sigma=0.0, samples=1)
    tensor([[[0., 1., 0.],
             [0., 0., 1.]]])
    """
    require_jacobian(jacobian)
    if not 1 <= k <= x.shape[1]:
        raise BaselineError(f"k must be from 1 to {x.shape[1]}, the number of candidates; got {k}")
    noise = gaussian_noise(x, samples) if noise is None else noise
    return PerturbedTopK.apply(x, k, sigma, noise, jacobian)


class PerturbedTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int, sigma: float, noise: Tensor, jacobian: str) -> Tensor:
        chosen = (x[:, None] + sigma * noise).topk(k, dim=2).indices.sort(dim=2).values
        chosen = F.one_hot(chosen, x.shape[1]).to(x.dtype)  # [B, samples, k, d]
        full = jacobian == "full"
        ctx.scale = 1 / (sigma * noise.shape[1]) if sigma > NO_NOISE else 0.0
        ctx.contraction = "bkd,bkdc->bc" if full else "bkd,bkd->bd"
        ctx.save_for_backward(torch.einsum("bskd,bsc->bkdc" if full else "bskd,bsd->bkd", chosen, noise))
        return chosen.mean(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return ctx.scale * torch.einsum(ctx.contraction, gradient, *ctx.saved_tensors), None, None, None, None


def require_jacobian(jacobian: str) -> None:
    if jacobian not in ("diagonal", "full"):
        raise BaselineError(f"jacobian must be 'diagonal' or 'full'; got {jacobian!r}")


# ---------------------------------------------------------------------------------------------------------------
# ListenToLook (Gao et al., "Listen to Look: Action Recognition by Previewing Audio", CVPR 2020): its IMG-AUD network


class AudioNet(nn.Module):
    """A ResNet-18 on a log-mel spectrogram: [B, steps, bands] -> [B, 8 * width].

    Its stem has stride 1. A 1x1 convolution, with the frequency axis as its channels, reduces that axis to one value;
    then the maximum over time is taken.
    """

    def __init__(self, bands: int, depths: Sequence[int], width: int) -> None:
        super().__init__()
        self.resnet = build_resnet(student.BasicBlock, depths, width, channels=1, stem_stride=1)
        for _ in range(4):
            bands = half_size(bands)
        self.frequency = nn.Conv2d(bands, 1, 1)

    def forward(self, spectrogram: Tensor) -> Tensor:
        maps = self.resnet.maps(spectrogram[:, None])  # [B, D, t, f]
        return self.frequency(maps.permute(0, 3, 2, 1)).squeeze(1).amax(1)


class ListenToLook(Baseline):
    """A network for one or more frames and the clip's sound -> the teacher's feature and class logits.

    num_classes      C.
    feature_dim      D, the size of the teacher's feature. 512 is the original's, and results in the paper's 25.53 M
                     parameters; `distill()` from a teacher with 768 needs 768 (25.81 M).
    num_frames       N. The image features of several frames go through a GRU, whose last state is used.
    gru              True: a single frame goes through the GRU, too, as in the paper's parameter count. None: only
                     several frames do.
    hidden           Width of the fusion network's hidden layer.
    audio_steps, mel_bands   Size of the spectrogram. 201 steps of 10 ms (2.0 s of the longer clip) result in the
                     paper's operation count; the released network fits 33 to 48 bands, of which we chose 40.
    frame_size, width, depths   Height and width, channels of both stems, blocks per stage.
    weights          "imagenet" (torchvision downloads them), a ResNet-18 state dict of torchvision or the path of
                     one, for both networks except the sound's stem; or None for random.

    The model takes frames uint8 [B, N, 3, H, W] and the sound as a log-mel spectrogram, float [B, steps, bands], as
    written by `data.prepare(..., audio=True)` and computed by `data.log_mel()`. Train it with `distill()`; the authors'
    own distillation, L1 of the features and divergence of the class scores, is `distill(..., alpha=1)`. Raise
    BaselineError for arguments or inputs that do not fit.

    >>> import torch
    >>> from egodistill import baselines, data
    >>> model = baselines.ListenToLook(
    ...     8, feature_dim=48, frame_size=64, width=4, depths=(1, 1, 1, 1), hidden=16, weights=None
    ... ).eval()
    >>> store = data.ClipStore("store")
    >>> frames, audio = (torch.from_numpy(store.read(name, [0, 1, 2])) for name in ("frames_1", "audio"))
    >>> feature, logits = model(frames, audio)
    >>> feature.shape, logits.shape
    (torch.Size([3, 48]), torch.Size([3, 8]))
    """

    inputs = ("frames", "audio")

    @student.record_arguments("weights", "class_names")
    def __init__(
        self,
        num_classes: int,
        *,
        feature_dim: int = 512,
        num_frames: int = 1,
        gru: bool | None = None,
        frame_size: int = 224,
        width: int = 64,
        depths: Sequence[int] = (2, 2, 2, 2),
        hidden: int = 1024,
        audio_steps: int = AUDIO_STEPS,
        mel_bands: int = AUDIO_BANDS,
        clip_seconds: float = CLIP_SECONDS,
        weights: student.Weights = "imagenet",
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__(IMAGENET, num_classes, num_frames, frame_size, width, clip_seconds, class_names)
        if gru is False and num_frames > 1:
            raise BaselineError(f"ListenToLook: num_frames={num_frames} needs the GRU; leave gru out")
        if audio_steps < 1 or mel_bands < 1:
            raise BaselineError(f"ListenToLook: audio_steps={audio_steps} and mel_bands={mel_bands} must be at least 1")
        self.feature_dim, self.audio_steps, self.mel_bands = feature_dim, audio_steps, mel_bands
        self.image = build_resnet(student.BasicBlock, depths, width)
        self.audio = AudioNet(mel_bands, depths, width)
        size = self.image.feature_dim
        self.gru = nn.GRU(size, size, batch_first=True) if gru or num_frames > 1 else None
        self.fusion = nn.Sequential(nn.Linear(2 * size, hidden), nn.ReLU(), nn.Linear(hidden, feature_dim))
        self.classifier = nn.Linear(feature_dim, num_classes)
        for layer in (self.audio.resnet.conv1, self.audio.frequency, self.fusion[0], self.fusion[2], self.classifier):
            nn.init.normal_(layer.weight, std=0.02)
        if weights is not None:
            state, source = load_pretrained(weights, "imagenet", "ResNet18_Weights.IMAGENET1K_V1", "fc.")
            checkpoints.load_strictly(self.image, state, source)
            state = {key: value for key, value in state.items() if key != "conv1.weight"}
            checkpoints.load_strictly(self.audio.resnet, state, source, keep=["conv1."])

    def forward(self, frames: Tensor, audio: Tensor) -> student.Output:
        if audio.ndim != 3 or audio.shape[2] != self.mel_bands or not audio.is_floating_point():
            raise BaselineError(
                f"ListenToLook reads sound as a float spectrogram [batch, steps, {self.mel_bands}]; "
                f"got {student.describe(audio)}"
            )
        return self.encode(self.pixels(frames), audio)

    def encode(self, pixels: Tensor, spectrogram: Tensor) -> student.Output:
        """Return the outputs for normalised frames, float [B, N, 3, H, W], and spectrogram [B, steps, bands]."""
        image = self.aggregate(self.image.maps(pixels.flatten(0, 1)).mean((2, 3)).unflatten(0, pixels.shape[:2]))
        feature = self.fusion(torch.cat([image, self.audio(spectrogram)], dim=1))
        return student.Output(feature, self.classifier(feature))

    def aggregate(self, features: Tensor) -> Tensor:
        """Return one image feature of all frames: [B, N, d] -> [B, d]."""
        return features[:, 0] if self.gru is None else self.gru(features)[1][-1]
