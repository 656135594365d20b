"""STTS, a baseline of the paper: a video transformer that drops tokens in time and space.

    from egodistill import finetune
    from lab import stts

    model = stts.STTS(len(train.class_names))
    finetune(model, train)

Wang et al., "Efficient Video Transformers with Spatial-Temporal Token Selection", ECCV 2022; outputs equal those of the
released code (wangjk666/STTS).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from egodistill import student, video_transformers
from egodistill.engine import checkpoints, models
from egodistill.support.defaults import CLIP_SECONDS
from lab.baselines import KINETICS, Baseline, BaselineError, load_pretrained

__all__ = ["STTS", "STTS_VARIANTS", "perturbed_topk"]

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

    The feature is the normalised class token, D = 8 * width. `STTS(C, **STTS_VARIANTS["T0.8-S0.9"])` has the released
    settings.

    At evaluation the selection is a plain top-k. `selection` holds that of the last forward pass: for "time" and
    "space" the scores [B, candidates] scaled to 0..1 (for space one row per kept frame), and the chosen indices [B, k]
    in order.

    Where the released code differs from its paper, or neither gives a value, the choice is an argument: `sigma`,
    `samples` and `jacobian`.

    Args:
        num_classes: C.
        time_ratio: Share of the temporal tokens (two frames each) that are kept before the first block; None: all. With
            4 frames there are two temporal tokens, and every valid ratio below 1 keeps one of them.
        space_ratio: Share of the area that is kept as a window before the second block of the third stage; None: all.
        num_frames: T, the number of frames.
        frame_size: Height and width of the frames in pixels, a multiple of 32.
        width: Channels of the first block, a multiple of 4.
        depths: Number of blocks of each of the four stages, at least 1, in the third at least 2.
        dropout: Rate of dropout before the classifier.
        drop_path: Rate of stochastic depth in the last block; it grows linearly from 0 in the first.
        sigma: Scale of the noise in training; it decreases linearly to 0 over the training (`set_progress()`).
        samples: Number of noise samples per selection.
        jacobian: Gradient of the selection: "diagonal" is the released one, in which a score depends only on its own
            candidate; "full" is that of the perturbed maximum (Berthet et al., NeurIPS 2020).
        clip_seconds: Length of a clip in seconds.
        weights: "kinetics" (MViT-B 16x4 on Kinetics-400, downloaded by torchvision), a state dict in the layout of
            torchvision, PySlowFast, pytorchvideo or STTS, or the path of one, or None for random. The classifier is not
            loaded; position embeddings are interpolated if frames or size differ (our choice: the checkpoint from which
            the authors started is not released).
        class_names: C names; None: training takes them from the store.

    Raises:
        BaselineError: If an argument or an input does not fit.

    >>> import torch
    >>> from egodistill import data
    >>> from lab import stts
    >>> variant = stts.STTS_VARIANTS["T0.5-S0.7"]
    >>> model = stts.STTS(8, frame_size=64, width=32, depths=(1, 1, 2, 1), weights=None, **variant).eval()
    >>> feature, logits = model(torch.from_numpy(data.ClipStore("store").read("frames_4", [0, 1, 2])))
    >>> feature.shape, logits.shape
    (torch.Size([3, 256]), torch.Size([3, 8]))
    >>> {name: tuple(chosen.shape) for name, (scores, chosen) in model.selection.items()}
    {'time': (3, 1), 'space': (3, 1)}
    """

    file_class = "STTS"

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
        """Build MViT's patches, positions and blocks, with MViT's parameter names.

        Args:
            width: Channels of the first block.
            depths: Number of blocks per stage.
            drop_path: Rate of stochastic depth in the last block.
        """
        times, side, _ = self.grid
        self.patch_embed = nn.ModuleDict({"proj": video_transformers.Conv3d(3, width, (3, 7, 7), (2, 4, 4), (1, 3, 3))})
        self.cls_token, self.pos_embed_class = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.pos_embed_spatial = nn.Parameter(torch.zeros(1, side**2, width))
        self.pos_embed_temporal = nn.Parameter(torch.zeros(1, times, width))
        # The norms after pooling have an eps of 1e-5, unlike all others here.
        self.blocks = video_transformers.mvit_blocks(width, 1, depths, kv_stride=8, pool_eps=1e-5, drop_path=drop_path)
        self.feature_dim = 8 * width
        self.norm = nn.LayerNorm(self.feature_dim, eps=1e-6)

    def build_time_selection(self, ratio: float | None, dim: int) -> None:
        """Build the scorer of temporal tokens and the table of their tokens.

        Args:
            ratio: Share of the temporal tokens to keep; None: all. One that keeps none raises BaselineError.
            dim: Channels of a token.
        """
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
        """Build the scorer of windows and the table of their tokens on the third stage's map.

        Args:
            ratio: Share of the area to keep, above 0 and at most 1, else BaselineError; None: all.
            dim: Channels of a token.
        """
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
        """Load published weights; the classifier stays random, and so do the scorers if the weights are of an MViT.

        Args:
            weights: The argument of the model, other than None.
        """
        state, source = load_pretrained(weights, "kinetics", "MViT_V1_B_Weights.KINETICS400_V1", "head.")
        layout = checkpoints.find_layout(state, STTS_LAYOUTS, source)
        state, names, _ = checkpoints.rename(state, layout)
        keep = ["head."] if layout.source == "STTS" else ["head.", "time_scorer.", "space_scorer."]
        checkpoints.load_strictly(self, self.fit_positions(state), source, names=names, keep=keep)

    def forward(self, frames: Tensor) -> student.Output:
        return self.encode(self.pixels(frames))

    def encode(self, pixels: Tensor) -> student.Output:
        """Return the outputs for normalised frames.

        Args:
            pixels: Frames from `pixels()`, float [B, T, 3, H, W]. Another size than the model's raises BaselineError.
        """
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

        Args:
            x: Class token and tokens, [B, 1 + S, C].
            grid: Number of tokens in time, height and width.
        """
        maps = x[:, 1:].unflatten(1, (grid[0], -1))
        scores = self.time_scorer(torch.cat([maps.mean(2), maps.amax(2)], dim=2))
        tokens = self.select("time", x[:, 1:], scores, self.time_table, self.keep_times)
        return torch.cat([x[:, :1], tokens], dim=1), (self.keep_times, *grid[1:])

    def select_window(self, x: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int, int]]:
        """Return the tokens [B, 1 + S', C] in the best window of each time, and their grid.

        The score of a window is the mean of its tokens' scores.

        Args:
            x: Class token and tokens, [B, 1 + S, C].
            grid: Number of tokens in time, height and width.
        """
        tokens = x[:, 1:].unflatten(1, (grid[0], -1)).flatten(0, 1)
        scores = self.space_scorer(tokens).view(-1, 1, *grid[1:])
        scores = F.avg_pool2d(scores, self.window, self.window_stride).flatten(1)
        tokens = self.select("space", tokens, scores, self.space_table, 1).reshape(len(x), -1, x.shape[2])
        return torch.cat([x[:, :1], tokens], dim=1), (grid[0], self.window, self.window)

    def select(self, name: str, tokens: Tensor, scores: Tensor, table: Tensor, k: int) -> Tensor:
        """Return the tokens of the k best candidates, [B, k * L, C].

        In training each selected candidate is a mean of all candidates, weighted by how often noisy scores choose them.

        Args:
            name: The key of `selection` that is set, "time" or "space".
            tokens: [B, n, C].
            scores: [B, d], of the candidates.
            table: Numbers of the tokens of each candidate, [d, L].
            k: Number of candidates to select.
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
        """Reduce the noise; training calls this.

        Args:
            share: Share of the training that is done, 0 to 1.
        """
        self.sigma = self.arguments["sigma"] * (1 - share)

    def fit_positions(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with position embeddings resized to this model's number of frames and frame size.

        Args:
            state: Weights by the model's names.
        """
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
    """Return the k best (1 to d) of scores [B, d] as a differentiable selection, [B, k, d].

    Row j is the share of the noisy scores x + sigma * noise in which each candidate is the j-th, by index, of the k
    best. Its gradient (Cordonnier et al., "Differentiable Patch Selection for Image Recognition", CVPR 2021) is
    estimated from the same samples: the derivative of the mean of f(x + sigma Z) with respect to x_c is the mean of f(x
    + sigma Z) Z_c / sigma. Without noise (sigma <= 1e-20) rows are one-hot and the gradient is zero. The noise is
    standard normal, [B, samples, d]; None: drawn here. The jacobian "full" is for all pairs of candidates; "diagonal",
    as released, drops pairs of different ones. Raise BaselineError for another one, and another k.

    >>> import torch
    >>> from lab import stts
    >>> stts.perturbed_topk(torch.tensor([[0.1, 0.9, 0.5]]), k=2, sigma=0.0, samples=1)
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


models.register(STTS)
