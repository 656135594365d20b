"""Baselines of the paper: AdaFuse, STTS and ListenToLook, three other ways to spend less on a video.

    from egodistill import baselines, data, distill, evaluate, finetune

    train, test = (data.ClipStore("store").split(name) for name in ("train", "test"))
    model = baselines.AdaFuse(len(train.class_names))               # skips and reuses channels from frame to frame
    model = baselines.STTS(len(train.class_names))                  # drops tokens in time and space
    finetune(model, train)                                          # on labels; each model adds its own loss
    model = baselines.ListenToLook(len(train.class_names), feature_dim=768)
    distill(model, train, teacher="motionformer")                   # the only one of the three with a teacher
    print(evaluate(model, test).top1)
    model.save("baseline.pt")
    model = baselines.Baseline.load("baseline.pt")

All take the same frames as the student, uint8 [B, N, 3, H, W] in RGB, normalise them and return
`Output(feature, logits)`. They follow the code that their authors released (mengyuest/AdaFuse, wangjk666/STTS,
facebookresearch/Listen-to-Look) and agree with it number by number; where that code and its paper differ, or where
neither gives a value, the choice is an argument. What they save is not time: the released AdaFuse computes each channel
and then masks it, and so does this one. Its GFLOPs are those that a policy would need (`gflops()`).
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
from egodistill.video import AUDIO_BANDS, AUDIO_STEPS

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

IMAGENET = (student.IMAGENET_MEAN, student.IMAGENET_STD)  # mean and deviation of RGB
KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


class BaselineError(EgoDistillError):
    """Something given does not fit; the message says what, where, and what would."""


# ---------------------------------------------------------------------------------------------------------------
# What the three have in common


class Baseline(nn.Module):
    """Base of the three. `Baseline.load(path)` returns whichever of them was saved."""

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
        """`normalise` are mean and deviation of RGB pixels from 0 to 1; the rest are arguments of each subclass."""
        super().__init__()
        lowest = {"num_classes": (num_classes, 1), "num_frames": (num_frames, 1), "frame_size": (frame_size, 32)}
        for name, (value, least) in (lowest | {"width": (width, 1)}).items():
            if value < least:
                raise BaselineError(f"{type(self).__name__}: {name} is at least {least}; got {value}")
        if class_names is not None and len(class_names) != num_classes:
            raise BaselineError(f"{len(class_names)} class names for num_classes={num_classes}")
        self.num_classes, self.num_frames, self.frame_size = num_classes, num_frames, frame_size
        self.clip_seconds = clip_seconds
        self.class_names = list(class_names) if class_names is not None else None
        for name, values in zip(("mean", "std"), normalise, strict=True):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    if TYPE_CHECKING:  # A torch module's call has no types.

        def __call__(self, *inputs: Tensor) -> student.Output: ...

    def pixels(self, frames: Tensor) -> Tensor:
        """Return normalised frames: uint8 [B, N, 3, H, W] -> float of the same shape."""
        if frames.ndim != 5 or frames.shape[1:3] != (self.num_frames, 3) or frames.dtype != torch.uint8:
            raise BaselineError(
                f"{type(self).__name__} reads frames as uint8 [batch, {self.num_frames}, 3, height, width]; got "
                f"{student.describe(frames)}. Frames come as the store keeps them, neither scaled nor normalised."
            )
        return (frames.float() - self.mean) / self.std

    def save(self, path: str | os.PathLike) -> None:
        """Write one file that `load()` needs nothing else for; it is complete or absent."""
        checkpoints.save_model(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Baseline:
        """Return the model that `save()` wrote, in evaluation mode. Raise EgoDistillError with the file's name."""
        return checkpoints.load_model(path, cls)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], class_names: list[str] | None) -> Baseline:
        """Return the model that `arguments` describe, for `load()`; its weights are random."""
        return cls(**arguments, class_names=class_names, weights=None)


def require_choices(model: nn.Module, **options: tuple[str, tuple[str, ...]]) -> None:
    """Raise BaselineError if an option, {name: (value, choices)}, is none of its choices."""
    for name, (value, choices) in options.items():
        if value not in choices:
            raise BaselineError(f"{type(model).__name__}: {name} is one of {choices}; got {value!r}")


def pretrained(weights: student.Weights, keyword: str, published: str, head: str) -> tuple[dict[str, Tensor], str]:
    """Return weights without their classifier, whose names begin with `head`, and what to call them in an error.

    If `weights` is `keyword`, torchvision downloads those of the name `published`.
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

SKIP, REUSE, KEEP = 0, 1, 2  # what a policy does with a channel of a frame


class Gflops(NamedTuple):
    """Billions of operations for one clip, by the rule of AdaFuse's authors (see `AdaFuse.count()`)."""

    upb: float  # Upper bound: only what reads a skipped channel is saved.
    real: float  # What nobody reads is saved, too.
    dense: float  # Nothing is saved.


class GatedBottleneck(student.Bottleneck):
    """Bottleneck with AdaFuse's two changes: a temporal shift of its input, and gates behind the first convolution.

    `inside` replaces x for the convolutions, the shortcut's own included; `between` changes the first one's output.
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
    """Pooled block inputs of the previous and this frame [F, 2 * Cin] -> log-probabilities of actions [F, w, 3]."""

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.fc0, self.bn, self.fc1 = first, nn.BatchNorm1d(first.out_features), second

    def forward(self, pooled: Tensor) -> Tensor:
        scores = self.fc1(F.relu(self.bn(self.fc0(pooled)))).unflatten(1, (-1, 3))
        return scores.float().softmax(2).clamp(min=1e-8).log()


class AdaFuse(Baseline):
    """A policy decides for each frame and channel: skip it, reuse the previous frame's, or keep it. ResNet-50.

    num_classes      C. The feature is the mean over the frames of the pooled last map, D = 32 * width.
    gates            "last": only the blocks of the last stage have a policy, each its own. This is the configuration
                     of the released training script and of the paper's 38.85 M parameters. "all": each block has
                     one, and those of equal shape share all but the batch norm (the released AdaFuse-R50-TSN).
    temporal_shift   TSM (Lin et al., ICCV 2019): an eighth of the channels come from the next frame, another eighth
                     from the previous one. It costs no operation that is counted.
    num_frames, frame_size, width, depths   T, height and width, channels of the stem, blocks per stage.
    weights          "imagenet" (torchvision downloads them), a ResNet-50 state dict of torchvision or the path of
                     one, or None for random. The policies and the classifier start at random in any case.

    Where the released code and its paper differ, or a choice is left:

    sample_at_evaluation   The released code draws noise at evaluation, too; False takes the likeliest action.
    last_frame             In `real`, "released" reads the last but one frame in place of the last, because of a
                           leftover loop variable; "corrected" reads the last.
    efficiency             Which count the loss reduces: "upb", or "real" (as for Something-Something v2, there with
                           efficiency_weight=0.075).
    efficiency_weight      Its weight in the loss, in 1 / GFLOPs per frame.
    tau                    Temperature of the Gumbel softmax; constant, because nothing reads the released decay option.
    policy_hidden          "last": hidden units of each policy (1024). "all": hidden units times channels (196608).
    history_gradient       False: no gradient through what is reused of the previous frame.

    After a forward pass `decisions` holds the actions, uint8 [B, T, w] per gated block (0 skip, 1 reuse, 2 keep).
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
            raise BaselineError(f"AdaFuse: temporal_shift moves an eighth of the channels; width={width} is below 8")
        self.temporal_shift, self.history_gradient, self.last_frame = temporal_shift, history_gradient, last_frame
        self.sample_at_evaluation, self.tau = sample_at_evaluation, tau
        self.efficiency, self.efficiency_weight = efficiency, efficiency_weight

        self.backbone = build_resnet(GatedBottleneck, depths, width)
        if weights is not None:
            state, source = pretrained(weights, "imagenet", "ResNet50_Weights.IMAGENET1K_V1", "fc.")
            checkpoints.load_strictly(self.backbone, state, source)
        self.feature_dim = self.backbone.feature_dim
        self.dropout = nn.Dropout(dropout)
        self.classifier = small_linear(self.feature_dim, num_classes)
        self.first_gate = 0 if gates == "all" else len(self.backbone.blocks) - depths[3]
        self.policies = self.build_policies(shared=gates == "all", hidden=policy_hidden)
        self.frame_macs, self.block_macs = self.count()
        self.decisions: list[Tensor] = []
        self.spent: Tensor | None = None

    def build_policies(self, *, shared: bool, hidden: int | None) -> nn.ModuleList:
        """Return a policy for each gated block; with `shared`, those of equal shape share all but the batch norm."""
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
        """Return the outputs for normalised frames, float [B, T, 3, H, W]. The logits are the mean over the frames'."""
        count = pixels.shape[1]
        x = self.backbone.stem(pixels.flatten(0, 1))
        actions = []
        for number, block in enumerate(self.backbone.blocks):
            inside, between = shift(x, count) if self.temporal_shift else x, None
            if number >= self.first_gate:
                actions.append(self.decide(self.policies[number - self.first_gate], inside, count))
                between = partial(self.merge, action=actions[-1])
            x = block(x, inside, between)
        self.remember(actions)
        feature = x.mean((2, 3)).unflatten(0, (-1, count))
        return student.Output(feature.mean(1), self.classifier(self.dropout(feature)).mean(1))

    def decide(self, policy: Policy, x: Tensor, count: int) -> Tensor:
        """Return one-hot actions [B, T, w, 3] of a block with the input x [B * T, Cin, H, W]."""
        pooled = x.mean((2, 3)).unflatten(0, (-1, count))
        both = torch.cat([earlier(pooled), pooled], dim=2)
        log_probabilities = policy(both.flatten(0, 1))
        noise = gumbel_noise(log_probabilities) if self.training or self.sample_at_evaluation else None
        return straight_through_gumbel(log_probabilities, noise, self.tau).unflatten(0, (-1, count))

    def merge(self, y: Tensor, action: Tensor) -> Tensor:
        """Return channels y [B * T, w, H, W] kept, replaced by the previous frame's (unmasked), or 0."""
        y = y.unflatten(0, action.shape[:2])
        previous = earlier(y if self.history_gradient else y.detach())
        keep, reuse = (action[..., k, None, None].to(y.dtype) for k in (KEEP, REUSE))
        return (keep * y + reuse * previous).flatten(0, 1)

    def count(self) -> tuple[int, list[tuple[int, int]]]:
        """Return the operations of a frame if nothing is saved, and (first, second convolution) of each gated block.

        The authors count by thop's rule: multiply-adds of convolutions and linear layers without their biases, 4 per
        number in a batch norm, 1 per number that the global pool reads or writes.
        """
        gated = set(self.backbone.blocks[self.first_gate :])
        side = halve(self.frame_size)
        total = with_norm(self.backbone.conv1, side)
        side, saved = halve(side), []
        for block in self.backbone.blocks:
            after = halve(side) if block.conv2.stride[0] == 2 else side
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

    def remember(self, actions: list[Tensor]) -> None:
        """Keep the decisions and their cost: GFLOPs per frame, (upb, real) of each clip, differentiable in training."""
        self.decisions = [action.detach().argmax(3).to(torch.uint8) for action in actions]
        upb = real = torch.full((len(actions[0]),), self.frame_macs / 1e9, device=actions[0].device)
        for action, (first, second) in zip(actions, self.block_macs, strict=True):
            skip, reuse, keep = action.unbind(3)
            downstream = skip.mean((1, 2))
            # Nobody reads a channel that is not kept now and not reused by the next frame.
            unread = (1 - keep[:, :-1]) * (1 - reuse[:, 1:])
            last = 1 - (keep[:, -2 if self.last_frame == "released" and keep.shape[1] > 1 else -1])
            upstream = torch.cat([unread, last[:, None]], dim=1).mean((1, 2))
            upb = upb - downstream * second / 1e9
            real = real - (upstream * first + downstream * second) / 1e9
        spent = torch.stack([upb, real])
        # Outside of training nobody takes it; a graph that stays would hold memory and prevent copies.
        self.spent = spent if self.training else spent.detach()

    def gflops(self) -> Gflops:
        """Return the last batch's mean cost of a clip, at `frame_size`, if masked channels were not computed."""
        if not self.decisions:
            raise BaselineError("AdaFuse.gflops() returns the cost of a batch; run the model on one first")
        if self.spent is None:
            raise BaselineError("extra_loss() has taken the cost of the last training batch; ask before it")
        upb, real = (self.num_frames * float(value) for value in self.spent.detach().mean(1))
        return Gflops(upb, real, self.num_frames * self.frame_macs / 1e9)

    def extra_loss(self, output: student.Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the training loop adds to its loss: the weighted GFLOPs per frame of each clip, [B]."""
        if self.spent is None:
            raise BaselineError("AdaFuse.extra_loss() belongs after a forward pass, once")
        spent, self.spent = self.spent, None
        return {"efficiency": self.efficiency_weight * spent[("upb", "real").index(self.efficiency)].abs()}


def gumbel_noise(like: Tensor) -> Tensor:
    """Return standard Gumbel noise of the shape of a tensor."""
    uniform = torch.rand(like.shape, device=like.device, dtype=torch.float32).clamp(1e-6, 1 - 1e-6)
    return -torch.log(-torch.log(uniform))


def straight_through_gumbel(log_probabilities: Tensor, noise: Tensor | None, tau: float) -> Tensor:
    """Return a one-hot choice along the last axis, float [..., n] -> float [..., n].

    Its gradient is that of softmax((log p + noise) / tau) (Jang, Gu, Poole, ICLR 2017). With `gumbel_noise()` it is a
    draw, with None the likeliest choice.
    """
    scores = log_probabilities if noise is None else log_probabilities + noise
    hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)
    soft = (scores / tau).softmax(-1)
    return hard + (soft - soft.detach())


def earlier(x: Tensor) -> Tensor:
    """Return what the previous frame had, zeros for the first: [B, T, ...] -> the same shape."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


def shift(x: Tensor, count: int) -> Tensor:
    """Shift [B * T, C, H, W] in time: C // 8 channels of the next frame, C // 8 of the previous, then this one's."""
    x = x.unflatten(0, (-1, count))
    part = x.shape[2] // 8
    following, previous = x[:, 1:, :part], x[:, :, part : 2 * part]
    following = torch.cat([following, torch.zeros_like(x[:, :1, :part])], dim=1)
    return torch.cat([following, earlier(previous), x[:, :, 2 * part :]], dim=2).flatten(0, 1)


def build_resnet(block: type[nn.Module], depths: Sequence[int], width: int, **options: int) -> student.ResNet:
    """Return a ResNet; raise BaselineError if the depths do not fit."""
    try:
        return student.ResNet(block, depths, width, **options)
    except ValueError as error:
        raise BaselineError(str(error)) from error


def small_linear(before: int, after: int) -> nn.Linear:
    layer = nn.Linear(before, after)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


def halve(side: int) -> int:
    """Return the size after a convolution or a pool with stride 2."""
    return (side + 1) // 2


def with_norm(layer: nn.Conv2d, side: int) -> int:
    """Return the operations of a convolution and its batch norm on a map of `side` x `side`."""
    return (layer.weight.numel() + 4 * layer.out_channels) * side**2


# ---------------------------------------------------------------------------------------------------------------
# STTS (Wang et al., "Efficient Video Transformers with Spatial-Temporal Token Selection", ECCV 2022)

# The released configurations, whose settings are not the ratios in their names.
STTS_VARIANTS: dict[str, dict[str, float | None]] = {
    "T0.5-S0.7": {"time_ratio": 0.5, "space_ratio": 0.7367},
    "T0.8-S0.9": {"time_ratio": 0.75, "space_ratio": 0.863},
    "full": {"time_ratio": None, "space_ratio": None},
}


class Scorer(nn.Module):
    """Score each token: [B, n, C] -> [B, n]. Half of the channels are the token's, half the mean of all."""

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
    """MViT-B that keeps the frames with the best scores, and in them the window with the best score.

    num_classes      C. The feature is the normalised class token, D = 8 * width.
    time_ratio       Share of the temporal tokens (two frames each) that are kept, before the first block; None: all.
    space_ratio      Share of the area that the kept window has, before the second block of the third stage; None:
                     all. `STTS(C, **STTS_VARIANTS["T0.8-S0.9"])` gives the released settings. With 4 frames there
                     are two temporal tokens, and every valid ratio below 1 keeps one of them.
    num_frames, frame_size, width, depths   T, height and width, channels of the first block, blocks per stage.
    drop_path        Of the last block; it rises linearly from 0.
    weights          "kinetics" (MViT-B 16x4 on Kinetics-400, which torchvision downloads), a state dict in the layout
                     of torchvision, PySlowFast, pytorchvideo or STTS, or the path of one, or None for random. Its
                     classifier is left out; position embeddings are interpolated if frames or size differ (our choice:
                     the checkpoint from which the authors started is not released).

    Where the released code and its paper differ, or a choice is left:

    sigma            Scale of the noise in training; it falls linearly to 0 over the training (`set_progress`).
    samples          Draws of noise per selection.
    jacobian         Gradient of the selection: "diagonal" is the released one, in which a score depends only on its own
                     candidate; "full" is that of the perturbed maximum (Berthet et al., NeurIPS 2020).

    At evaluation the selection is a plain top-k. `selection` holds that of the last forward pass: for "time" and
    "space" the scores [B, candidates] (for space a row per kept frame), scaled to 0..1, and the chosen [B, k] in order.
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
            raise BaselineError(f"STTS: depths are the blocks of four stages, two or more in the third; got {depths}")
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
        """Build MViT's patches, positions and blocks, with its names."""
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
        """Build the scorer of temporal tokens and the table of their places; None keeps all."""
        times, side, _ = self.grid
        self.keep_times = times if ratio is None else int(times * ratio)
        if not 1 <= self.keep_times <= times:
            raise BaselineError(
                f"STTS: time_ratio={ratio} keeps {self.keep_times} of the {times} temporal tokens that "
                f"{self.num_frames} frames make; it must be 1 to {times}"
            )
        self.time_scorer = None if ratio is None else Scorer(dim)
        if ratio is not None:
            self.register_buffer("time_table", torch.arange(times * side**2).view(times, -1), persistent=False)

    def build_space_selection(self, ratio: float | None, dim: int) -> None:
        """Build the scorer of windows and the table of their places on the third stage's map; None keeps all."""
        self.space_scorer = None if ratio is None else Scorer(dim)
        if ratio is None:
            return
        side = self.grid[1] // 4
        self.window = math.isqrt(max(0, int(side**2 * ratio)))
        if not 1 <= self.window <= side:
            raise BaselineError(
                f"STTS: space_ratio={ratio} makes windows of {self.window} x {self.window} on a map of "
                f"{side} x {side}; it must be above 0 and at most 1"
            )
        self.window_stride = max((side - self.window) // 2, 1)
        cells = torch.arange(side**2).view(side, side)
        windows = cells.unfold(0, self.window, self.window_stride).unfold(1, self.window, self.window_stride)
        self.register_buffer("space_table", windows.flatten(2).flatten(0, 1).contiguous(), persistent=False)

    def load_pretrained(self, weights: student.Weights) -> None:
        """Load published weights; the classifier, and the scorers of a plain MViT, stay random."""
        state, source = pretrained(weights, "kinetics", "MViT_V1_B_Weights.KINETICS400_V1", "head.")
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
                f"STTS was built for frames of {self.frame_size} pixels; got {student.describe(pixels)}"
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
        """Return the best temporal tokens, in order, and their grid; a score reads mean and maximum over all places."""
        maps = x[:, 1:].unflatten(1, (grid[0], -1))
        scores = self.time_scorer(torch.cat([maps.mean(2), maps.amax(2)], dim=2))
        tokens = self.select("time", x[:, 1:], scores, self.time_table, self.keep_times)
        return torch.cat([x[:, :1], tokens], dim=1), (self.keep_times, *grid[1:])

    def select_window(self, x: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int, int]]:
        """Return the best window of each frame, and the grid; a window's score is the mean of its tokens' scores."""
        tokens = x[:, 1:].unflatten(1, (grid[0], -1)).flatten(0, 1)
        scores = self.space_scorer(tokens).view(-1, 1, *grid[1:])
        scores = F.avg_pool2d(scores, self.window, self.window_stride).flatten(1)
        tokens = self.select("space", tokens, scores, self.space_table, 1).reshape(len(x), -1, x.shape[2])
        return torch.cat([x[:, :1], tokens], dim=1), (grid[0], self.window, self.window)

    def select(self, name: str, tokens: Tensor, scores: Tensor, table: Tensor, k: int) -> Tensor:
        """Return k of the candidates, groups of L tokens that `table` [d, L] lists: [B, n, C] -> [B, k * L, C].

        In training each selected candidate is a mean of all, weighted by how often noisy scores choose them.
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
        """Let the noise fade; the training loop calls this with the share that is done, 0 to 1."""
        self.sigma = self.arguments["sigma"] * (1 - share)

    def fit_positions(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with position embeddings stretched to this model's number of frames and frame size."""
        state = dict(state)
        if (times := state.get("pos_embed_temporal")) is not None and times.shape[1] != self.grid[0]:
            stretched = F.interpolate(times.transpose(1, 2), self.grid[0], mode="linear")
            state["pos_embed_temporal"] = stretched.transpose(1, 2)
        if (places := state.get("pos_embed_spatial")) is not None and places.shape[1] != self.grid[1] ** 2:
            maps = places.transpose(1, 2).unflatten(2, (math.isqrt(places.shape[1]), -1))
            stretched = F.interpolate(maps, self.grid[1:], mode="bilinear", antialias=True)
            state["pos_embed_spatial"] = stretched.flatten(2).transpose(1, 2)
        return state


# A released STTS names its scorers in its own way and the rest as PySlowFast does.
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
    """Return how often each of d candidates is the j-th, by index, of the k best noisy scores: [B, d] -> [B, k, d].

    The mean over `samples` draws of x + sigma * noise, noise standard normal [B, samples, d]. It is differentiable
    (Cordonnier et al., "Differentiable Patch Selection for Image Recognition", CVPR 2021), by an estimate from the
    same draws: the derivative of the mean of f(x + sigma Z) by x_c is the mean of f(x + sigma Z) Z_c / sigma.
    `jacobian="full"` is that for all pairs; "diagonal", as released, drops those of different candidates. Without
    noise (sigma <= 1e-20) the gradient is zero. Raise BaselineError for another `jacobian`, or a k that is not 1 to d.
    """
    require_jacobian(jacobian)
    if not 1 <= k <= x.shape[1]:
        raise BaselineError(f"k={k} of {x.shape[1]} candidates cannot be chosen")
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
        raise BaselineError(f"jacobian is 'diagonal' or 'full'; got {jacobian!r}")


# ---------------------------------------------------------------------------------------------------------------
# ListenToLook (Gao et al., "Listen to Look: Action Recognition by Previewing Audio", CVPR 2020): its IMG-AUD network


class AudioNet(nn.Module):
    """ResNet-18 over a log-mel spectrogram [B, frames, bands] -> [B, 8 * width].

    Its stem keeps the size (stride 1). A 1x1 convolution, with the frequency axis as its channels, collapses what is
    left of that axis; then the maximum over time is taken.
    """

    def __init__(self, bands: int, depths: Sequence[int], width: int) -> None:
        super().__init__()
        self.resnet = build_resnet(student.BasicBlock, depths, width, channels=1, stem_stride=1)
        for _ in range(4):
            bands = halve(bands)
        self.frequency = nn.Conv2d(bands, 1, 1)

    def forward(self, spectrogram: Tensor) -> Tensor:
        maps = self.resnet.maps(spectrogram[:, None])  # [B, D, t, f]
        return self.frequency(maps.permute(0, 3, 2, 1)).squeeze(1).amax(1)


class ListenToLook(Baseline):
    """One frame, or a few, and the clip's sound -> the teacher's feature and class logits.

    num_classes      C.
    feature_dim      D, the size of the teacher's feature. 512 is the original's, and the one with which the paper's
                     25.53 M parameters come out; `distill()` from a teacher of 768 needs 768 (25.81 M).
    num_frames       N. The image features of several frames go through a GRU, whose last state is used.
    gru              True: one frame goes through the GRU, too, as in the paper's parameter count. None: only several
                     frames do.
    hidden           Width of the fusion network's hidden layer.
    audio_steps, mel_bands   Size of the spectrogram. 201 steps of 10 ms (2.0 s of the longer clip) give the paper's
                     operation count; the released network fits 33 to 48 bands, and 40 is our choice among them.
    frame_size, width, depths   Height and width, channels of both stems, blocks per stage.
    weights          "imagenet" (torchvision downloads them), a ResNet-18 state dict of torchvision or the path of
                     one, for both networks except the sound's stem; or None for random.

    Forward takes frames uint8 [B, N, 3, H, W] and the sound as a log-mel spectrogram, float [B, steps, bands], which
    `data.prepare(..., audio=True)` writes and `data.log_mel()` makes. For training use `distill()`; the authors' own
    distillation, L1 of the features and the divergence of the class scores, is that with alpha=1.
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
            raise BaselineError(f"ListenToLook: num_frames={num_frames} need the GRU; leave gru out")
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
            state, source = pretrained(weights, "imagenet", "ResNet18_Weights.IMAGENET1K_V1", "fc.")
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
        """Return one image feature: those of the frames [B, N, d] -> [B, d]."""
        return features[:, 0] if self.gru is None else self.gru(features)[1][-1]
