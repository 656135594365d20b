"""AdaFuse, a baseline of the paper: channels of a ResNet are skipped or reused from frame to frame.

    from egodistill import finetune
    from lab import adafuse

    model = adafuse.AdaFuse(len(train.class_names))
    finetune(model, train)                                  # on labels, with its own loss of efficiency
    print(model.gflops().upb)

Meng et al., "AdaFuse: Adaptive Temporal Fusion Network for Efficient Action Recognition", ICLR 2021; outputs equal
those of the released code (mengyuest/AdaFuse). It saves no time here: like the released code, it computes all channels
and then masks them. `AdaFuse.gflops()` returns the cost if masked channels were not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from egodistill import student
from egodistill.engine import checkpoints, models
from egodistill.support.defaults import CLIP_SECONDS
from lab.baselines import IMAGENET, Baseline, BaselineError, build_resnet, half_size, load_pretrained, require_choices

__all__ = ["AdaFuse", "Gflops", "straight_through_gumbel"]

SKIP, REUSE, KEEP = 0, 1, 2  # actions of a policy on a channel of a frame


class Gflops(NamedTuple):
    """Billions of operations for one clip, counted as by AdaFuse's authors (see `AdaFuse.count_operations()`)."""

    upb: float  # upper bound: operations that read a skipped channel are saved
    real: float  # operations whose results are never read are saved, too
    dense: float  # nothing is saved


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

    The feature is the mean over the frames of the pooled last map, D = 32 * width. After a forward pass, `decisions`
    holds the actions, uint8 [B, T, w] per gated block (0 skip, 1 reuse, 2 keep).

    Where the released code differs from its paper, or neither gives a value, the choice is an argument:
    `sample_at_evaluation`, `last_frame`, `efficiency`, `efficiency_weight`, `tau`, `policy_hidden` and
    `history_gradient`.

    Args:
        num_classes: C.
        gates: "last": only the blocks of the last stage have policies, one each. This is the configuration of the
            released training script and of the paper's 38.85 M parameters. "all": each block has a policy, and policies
            of equal shape share all but the batch norm (the released AdaFuse-R50-TSN).
        temporal_shift: TSM (Lin et al., ICCV 2019): an eighth of the channels come from the next frame, another eighth
            from the previous one. No operations are counted for it.
        num_frames: T, the number of frames.
        frame_size: Height and width of the frames in pixels.
        width: Channels of the stem.
        depths: Number of blocks per stage.
        dropout: Rate of dropout before the classifier.
        sample_at_evaluation: True: draw noise at evaluation, too, as the released code does. False: take the likeliest
            action.
        last_frame: "released": `Gflops.real` counts the second-to-last frame instead of the last, because of a leftover
            loop variable in the released code. "corrected": it counts the last.
        efficiency: The count that the loss reduces: "upb", or "real" (used for Something-Something v2, with
            `efficiency_weight=0.075`).
        efficiency_weight: Weight of that count in the loss, in 1 / GFLOPs per frame.
        tau: Temperature of the Gumbel softmax; constant, as the released decay option has no effect.
        policy_hidden: Hidden units of each policy with "last", hidden units times channels with "all"; None: 1024 and
            196608.
        history_gradient: False: no gradient flows through channels reused from the previous frame.
        clip_seconds: Length of a clip in seconds.
        weights: "imagenet" (torchvision downloads them), a ResNet-50 state dict of torchvision or the path of one, or
            None for random. Policies and classifier always start with random weights.
        class_names: C names; None: training takes them from the store.

    Raises:
        BaselineError: If an argument or an input does not fit.

    >>> import torch
    >>> from egodistill import data
    >>> from lab import adafuse
    >>> model = adafuse.AdaFuse(8, frame_size=64, width=8, depths=(1, 1, 1, 1), policy_hidden=8, weights=None).eval()
    >>> feature, logits = model(torch.from_numpy(data.ClipStore("store").read("frames_4", [0, 1, 2])))
    >>> feature.shape, logits.shape
    (torch.Size([3, 256]), torch.Size([3, 8]))
    >>> cost = model.gflops()
    >>> cost.real <= cost.upb <= cost.dense
    True
    """

    file_class = "AdaFuse"

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

    @property
    def blocks(self) -> list[GatedBottleneck]:
        """Return the residual blocks of all stages in order."""
        return cast("list[GatedBottleneck]", self.backbone.blocks)

    def build_policies(self, *, shared: bool, hidden: int | None) -> nn.ModuleList:
        """Return a policy for each gated block.

        Args:
            shared: Policies of equal shape share all but the batch norm.
            hidden: The argument `policy_hidden` of the model.
        """
        policies = nn.ModuleList()
        layers: dict[tuple[int, int], tuple[nn.Linear, nn.Linear]] = {}
        for number, block in enumerate(self.blocks[self.first_gate :]):
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
        """Return the outputs for normalised frames; logits are averaged over the frames.

        Args:
            pixels: Frames from `pixels()`, float [B, T, 3, H, W].
        """
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
        """Return one-hot actions [B, T, w, 3] for a block.

        Args:
            policy: The policy of the block.
            x: The input of the block, [B * T, Cin, H, W].
            count: T, the number of frames.
        """
        pooled = x.mean((2, 3)).unflatten(0, (-1, count))
        both = torch.cat([previous_frame(pooled), pooled], dim=2)
        log_probabilities = policy(both.flatten(0, 1))
        noise = gumbel_noise(log_probabilities) if self.training or self.sample_at_evaluation else None
        return straight_through_gumbel(log_probabilities, noise, self.tau).unflatten(0, (-1, count))

    def merge(self, y: Tensor, action: Tensor) -> Tensor:
        """Return y with channels kept, replaced by the previous frame's (unmasked), or set to 0.

        Args:
            y: Output of a block's first convolution, [B * T, w, H, W].
            action: One-hot actions [B, T, w, 3], from `decide()`.
        """
        y = y.unflatten(0, action.shape[:2])
        previous = previous_frame(y if self.history_gradient else y.detach())
        keep, reuse = (action[..., k, None, None].to(y.dtype) for k in (KEEP, REUSE))
        return (keep * y + reuse * previous).flatten(0, 1)

    def count_operations(self) -> tuple[int, list[tuple[int, int]]]:
        """Return the operations for a full frame, and those of the first two convolutions of each gated block.

        The authors count as thop does: multiply-adds of convolutions and linear layers without biases, 4 operations
        per value of a batch norm, 1 per value that the global pool reads or writes.
        """
        gated = set(self.blocks[self.first_gate :])
        side = half_size(self.frame_size)
        total = with_norm(self.backbone.conv1, side)
        side, saved = half_size(side), []
        for block in self.blocks:
            after = half_size(side) if block.conv2.stride[0] == 2 else side
            total += with_norm(block.conv1, side) + with_norm(block.conv2, after) + with_norm(block.conv3, after)
            if block.downsample is not None:
                total += with_norm(block.downsample[-2], after)
            if block in gated:
                saved.append((block.conv1.weight.numel() * side**2, block.conv2.weight.numel() * after**2))
            side = after
        total += self.feature_dim * (side**2 + 1) + self.classifier.weight.numel()
        for policy in cast("list[Policy]", self.policies):
            total += policy.fc0.weight.numel() + 4 * policy.bn.num_features + policy.fc1.weight.numel()
        return total, saved

    def record_decisions(self, actions: list[Tensor]) -> None:
        """Store the decisions and their cost, GFLOPs per frame (upb, real) of each clip, differentiable in training.

        Args:
            actions: One-hot actions [B, T, w, 3] of each gated block.
        """
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

        Raises:
            BaselineError: If there was no batch, or if `extra_loss()` has been called since.
        """
        if not self.decisions:
            raise BaselineError("AdaFuse.gflops() returns the cost of a batch; run the model on one first")
        if self.spent is None:
            raise BaselineError("extra_loss() has taken the cost of the last training batch; call gflops() before it")
        upb, real = (self.num_frames * float(value) for value in self.spent.detach().mean(1))
        return Gflops(upb, real, self.num_frames * self.frame_macs / 1e9)

    def extra_loss(self, output: student.Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the term that training adds to its loss: the weighted GFLOPs per frame of each clip, [B].

        Args:
            output: The model's outputs; not used.
            batch: The batch; not used.

        Raises:
            BaselineError: If it is not called exactly once after a forward pass.
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
    """Return a one-hot choice along the last axis of log p, float [..., n] (Jang, Gu, Poole, ICLR 2017).

    With Gumbel noise of the same shape, the choice is a sample; with None, the likeliest one. The gradient is that of
    softmax((log p + noise) / tau).

    >>> import torch
    >>> from lab import adafuse
    >>> adafuse.straight_through_gumbel(torch.tensor([[0.2, 0.7, 0.1]]).log(), None, tau=0.67)
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


def small_linear(before: int, after: int) -> nn.Linear:
    layer = nn.Linear(before, after)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


def with_norm(layer: nn.Conv2d, side: int) -> int:
    """Return the operations of a convolution and its batch norm on a map of `side` x `side`."""
    return (layer.weight.numel() + 4 * layer.out_channels) * side**2


models.register(AdaFuse)
