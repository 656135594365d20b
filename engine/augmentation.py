"""Random changes of training clips, as an `Augment` says.

    from egodistill.engine import augmentation

    augmentation.apply(Augment(crop=0.3, shift=0.05), batch, seeds)    # one seed per clip

The change of a clip depends on its seed alone: on 13 random numbers `draws`, made on the CPU. On the CPU clips are
changed one by one, on other devices all at once, where a crop may differ by 1 of 255 and added motion by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..support.errors import EgoDistillError
from .motion import RecordedMotion
from .recipes import Augment
from .runtime import send

__all__ = ["apply", "crop_clips", "crop_frames", "draw", "jitter_frames", "shift_imu"]


def apply(
    augment: Augment, batch: dict[str, Tensor], seeds: Sequence[int], motion: RecordedMotion | None = None
) -> None:
    """Change a batch, {array: values [b, ...]}, in place; arrays other than frames and head motion stay as they are.

    `motion` are the recordings of `augment.motion`, read; without them, EgoDistillError is raised.
    """
    if augment.motion and motion is None:
        raise EgoDistillError("motion: give the recordings that are added, read by engine.motion.RecordedMotion")
    draws = torch.stack([draw(seed) for seed in seeds])
    for name in filter(augment.changes, list(batch)):
        one_by_one = batch[name].device.type == "cpu"
        if name == "imu":
            steps = [(shift_imu, augment.shift), (lambda imu, draws, recorded: recorded.add(imu, draws), motion)]
        else:
            steps = [(crop_frames if one_by_one else crop_clips, augment.crop), (jitter_frames, augment.jitter)]
        for step, share in steps:
            if share and one_by_one:
                batch[name] = torch.stack([step(x, own, share) for x, own in zip(batch[name], draws, strict=True)])
            elif share:
                batch[name] = step(batch[name], draws, share)


def draw(seed: int) -> Tensor:
    """Return the random numbers of a clip, float [13], 0 to 1."""
    return torch.rand(13, generator=torch.Generator().manual_seed(seed))


def crop_frames(frames: Tensor, draws: Tensor, share: float) -> Tensor:
    """Crop all frames of a clip, uint8 [N, 3, H, W], alike and resize the crop; `draws` [13]: the first three."""
    (top, left), (height, width) = (values.tolist() for values in crop_boxes(frames, draws, share))
    part = frames[:, :, top : top + height, left : left + width].float()
    part = F.interpolate(part, tuple(frames.shape[2:]), mode="bilinear", antialias=True)
    return part.round().clamp(0, 255).to(frames.dtype)


def crop_clips(frames: Tensor, draws: Tensor, share: float) -> Tensor:
    """Do the same with several clips, uint8 [b, N, 3, H, W] with `draws` [b, 13], at once."""
    lines, (firsts, sides) = [], crop_boxes(frames, draws, share)
    for axis, full in enumerate(frames.shape[3:]):
        first, side = firsts[:, axis, None], sides[:, axis, None]
        place = ((torch.arange(full) + 0.5) * side / full - 0.5).clamp(min=0).minimum(side - 1.0) + first
        lines.append(send((2 * place + 1) / full - 1, frames.device))  # [b, full], as grid_sample counts: -1 to 1
    y, x = lines
    grid = torch.stack([x[:, None].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], -1)
    found = F.grid_sample(frames.flatten(1, 2).float(), grid, align_corners=False)
    return found.round().clamp(0, 255).to(frames.dtype).view(frames.shape)


def crop_boxes(frames: Tensor, draws: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return first row and column of the crops of frames [..., H, W], and their sides: int64 [..., 2] each."""
    draws, full = draws.double(), torch.tensor(frames.shape[-2:], dtype=torch.float64)
    sides = (full * (1 - share * draws[..., :1])).round().clamp(min=1)
    return (draws[..., 1:3] * (full - sides)).round().long(), sides.long()


def jitter_frames(frames: Tensor, draws: Tensor, share: float) -> Tensor:
    """Multiply the colours of all frames of clips, uint8 [..., N, 3, H, W]; `draws` [..., 13]: four after the crop's.

    Half of a change is the same for the three colours.
    """
    numbers = 2 * draws[..., 3:7] - 1
    factors = 1 + share * (numbers[..., :1] + numbers[..., 1:]) / 2
    return (frames * send(factors[..., None, :, None, None], frames.device)).round().clamp(0, 255).to(frames.dtype)


def shift_imu(imu: Tensor, draws: Tensor, share: float) -> Tensor:
    """Move the samples of clips, float [..., T, 6], in time; `draws` [..., 13]: the one after the jitter's."""
    samples = imu.shape[-2]
    moves = (share * (2 * draws[..., 7:8].double() - 1) * samples).round().long()
    places = (torch.arange(samples) + moves).clamp(0, samples - 1)
    return imu.gather(-2, send(places, imu.device)[..., None].expand(imu.shape))
