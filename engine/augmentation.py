"""Random changes of training clips, as an `Augment` says.

    from egodistill.engine import augmentation

    augmentation.augment_batch(Augment(crop=0.3, shift=0.05), batch, seeds)     # one seed per clip

The change of a clip depends on its seed alone: on 13 random numbers `draws`, made on the CPU. There clips are changed
one by one; elsewhere all at once, and a crop may differ by 1 of 255, added motion by rounding.

Recorded head motion of others, `Augment(motion=...)`, is not from the paper. A student that has only seen heads at rest
is misled by a walk. The readings are those of one head that does both: with R(t) the attitude of the recorded head and
a gravity g along u,

    w' = R' w + v,    a' = R' a + (b - R' g u)

where a, w are the clip's readings, b, v the recorded ones, turned upright and then to the clip's u, and R' undoes R. A
clip at rest reads b and v, a recording at rest changes nothing, and gravity counts once. The recording's net turn is
left out, because the pictures of the clip stay as they are: they are right to a few degrees.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..imu import Imu
from ..recordings.sensors import NEAR_GRAVITY, read_imu
from ..support.errors import DataError
from .recipes import Augment
from .runtime import send

__all__ = ["RecordedMotion", "augment_batch"]

SHARE = 0.75  # of the clips that are changed, so that a student does not forget heads at rest
STEP = 0.25  # seconds between the places in a recording from which a window may be taken


def augment_batch(
    augment: Augment, batch: dict[str, Tensor], seeds: Sequence[int], motion: RecordedMotion | None = None
) -> None:
    """Change frames and head motion of a batch, {array: values [b, ...]}, in place; `motion` is that of `augment`."""
    draws = torch.stack([torch.rand(13, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    for name in filter(augment.changes, list(batch)):
        values = batch[name]
        if name == "imu":
            values = shift_imu(values, draws, augment.shift) if augment.shift else values
            if motion:
                parts = zip(pieces(values), draws.split(len(pieces(values)[0])), strict=True)
                values = torch.cat([motion.add(*part) for part in parts])
        else:
            crop = crop_frames if values.device.type == "cpu" else crop_at_once
            values = crop(values, draws, augment.crop) if augment.crop else values
            values = jitter_frames(values, draws, augment.jitter) if augment.jitter else values
        batch[name] = values


def pieces(values: Tensor) -> Sequence[Tensor]:
    """Return values [b, ...] in the pieces [1 or b, ...] that are changed at once."""
    return values.split(1) if values.device.type == "cpu" else (values,)


def crop_frames(frames: Tensor, draws: Tensor, share: float) -> Tensor:
    """Crop all frames of a clip, uint8 [b, N, 3, H, W], alike and resize the crop."""
    found = torch.empty_like(frames)
    boxes = torch.cat(boxes_of(frames, draws, share), 1).int().tolist()
    for clip, out, (top, left, height, width) in zip(frames, found, boxes, strict=True):
        part = clip[:, :, top : top + height, left : left + width].float()
        part = F.interpolate(part, tuple(frames.shape[3:]), mode="bilinear", antialias=True)
        out.copy_(part.round_().clamp_(0, 255))
    return found


def crop_at_once(frames: Tensor, draws: Tensor, share: float) -> Tensor:
    """Do the same with all clips at once: the operations are as many for any number of clips."""
    firsts, sides = boxes_of(frames, draws, share)
    lines = []  # of rows and columns that are read, [b, H] and [b, W], as grid_sample counts: -1 to 1
    for length, first, side in zip(frames.shape[3:], firsts.T[..., None], sides.T[..., None], strict=True):
        places = ((torch.arange(length) + 0.5) * side / length - 0.5).clamp(min=0).minimum(side - 1)
        lines.append(send((2 * (first + places) + 1).div(length).sub(1).float(), frames.device))
    grid = torch.stack(torch.broadcast_tensors(lines[1][:, None], lines[0][:, :, None]), -1)
    found = F.grid_sample(frames.flatten(1, 2).float(), grid, align_corners=False)
    return found.round().clamp(0, 255).to(frames.dtype).view(frames.shape)


def boxes_of(frames: Tensor, draws: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the first row and column [b, 2] of each clip's crop, and its height and width [b, 2], on the CPU."""
    full, draws = torch.tensor(frames.shape[3:]), draws.double()
    sides = (full * (1 - share * draws[:, :1])).round().clamp(min=1)
    return (draws[:, 1:3] * (full - sides)).round(), sides


def jitter_frames(frames: Tensor, draws: Tensor, share: float) -> Tensor:
    """Multiply the colours of a clip's frames, uint8 [b, N, 3, H, W]; half of a change is the same for all three."""
    numbers = 2 * draws[:, 3:7] - 1
    factors = (1 + share * (numbers[:, :1] + numbers[:, 1:]) / 2)[:, None, :, None, None]
    found = torch.empty_like(frames)
    for clips, out, factor in zip(*map(pieces, (frames, found, send(factors, frames.device))), strict=True):
        out.copy_((clips * factor).round_().clamp_(0, 255))
    return found


def shift_imu(imu: Tensor, draws: Tensor, share: float) -> Tensor:
    """Move the samples of a clip, float [b, T, 6], in time."""
    samples = imu.shape[1]
    moves = (share * (2 * draws[:, 7:8].double() - 1) * samples).round().long()
    places = (torch.arange(samples) + moves).clamp(0, samples - 1)
    return imu.gather(1, send(places, imu.device)[..., None].expand(imu.shape))


class RecordedMotion:
    """Recordings of head motion (IMU files, or videos with one), windows of which are added to clips.

    Samples are read once, at the rate (Hz) and in the length of the clips, and stay in memory. Raise DataError for a
    recording without a window of a clip's length without gaps, or without gravity, and IMUError for one that cannot be
    read.

    >>> import torch
    >>> from egodistill.engine.augmentation import RecordedMotion
    >>> motion = RecordedMotion(["walk.csv"], samples=422, rate=198.0)
    >>> motion.add(torch.tensor([0, 0, 9.81, 0, 0, 0]).expand(1, 422, 6), torch.rand(1, 13)).shape
    torch.Size([1, 422, 6])
    """

    def __init__(self, paths: Sequence[str | os.PathLike], samples: int, rate: float) -> None:
        self.samples, self.rate, found = samples, rate, hashlib.sha256()
        self.places: list[tuple[Imu, float]] = []
        for path in paths:
            motion = read_imu(path)
            starts = places_in(motion, samples / rate)
            if not starts:
                raise DataError(
                    f"{os.fspath(path)}: has no {samples / rate:.2f} s without gaps, the length of a clip, to add to it"
                )
            size = np.median(np.linalg.norm(motion.accel, axis=1))
            if abs(size - 9.81) > NEAR_GRAVITY:
                raise DataError(
                    f"{os.fspath(path)}: acceleration is {size:.2f} m/s2 (median), not about 9.8; added motion is "
                    f"turned upright by gravity, so give readings in m/s2 with gravity"
                )
            self.places += [(motion, start) for start in starts]
            for values in (motion.accel_time, motion.accel, motion.gyro_time, motion.gyro):
                found.update(np.ascontiguousarray(values, np.float64).tobytes())
        self.fingerprint = found.hexdigest()

    def add(self, imu: Tensor, draws: Tensor) -> Tensor:
        """Return samples, float [b, T, 6] in m/s2 (with gravity) and rad/s; three of four clips plus a random window.

        The last two of `draws`, random numbers of each clip [b, 13] on the CPU, say which.
        """
        chances, places = draws[:, 11:].T.tolist()
        if min(chances) >= SHARE:
            return imu
        windows = np.zeros((len(imu), self.samples, 6), np.float32)  # zeros change no bit of a clip
        for window, chance, place in zip(windows, chances, places, strict=True):
            if chance < SHARE:
                motion, start = self.places[int(place * len(self.places))]
                window[:] = motion.window(start, self.samples, self.rate)
        turns = send((2 * math.pi * draws[:, 11:12].double() / SHARE).float(), imu.device)
        own, other = (x.unflatten(2, (2, 3)) for x in (imu, send(torch.from_numpy(windows), imu.device)))
        up, other_up = (F.normalize(x[:, :, 0].mean(1), dim=1) for x in (own, other))
        z = torch.eye(3, device=imu.device)[2].expand_as(up)
        upright = shortest(z, up) @ rotations(turns * z) @ shortest(other_up, z)
        other = (other.flatten(1, 2) @ upright.mT).unflatten(1, (-1, 2))
        rate = other[:, :, 1] - other[:, :, 1].mean(1, keepdim=True)
        angle = rate.cumsum(1) / self.rate
        undo = rotations(angle.mean(1, keepdim=True) - angle)  # of the attitude, the mean of which is the clip's own
        gravity = other[:, :, 0].norm(dim=2).median(1, keepdim=True).values * up
        force = (undo @ (own[:, :, 0] - gravity[:, None])[..., None])[..., 0] + other[:, :, 0]
        return torch.cat([force, (undo @ own[:, :, 1, :, None])[..., 0] + rate], 2)


def places_in(motion: Imu, seconds: float) -> list[float]:
    """Return the starts of windows without gaps, `STEP` apart, in s."""
    if not (len(motion.accel_time) and len(motion.gyro_time)):
        return []
    first = max(motion.accel_time[0], motion.gyro_time[0])
    last = min(motion.accel_time[-1], motion.gyro_time[-1])
    times = np.arange(first, last, STEP / 25)
    covered = np.append(0, np.cumsum(motion.covers(times).all(1))) if len(times) else np.zeros(1)
    size = math.ceil(seconds * 25 / STEP) + 1
    starts = np.arange(0, len(times) - size + 1, 25)
    return times[starts[covered[starts + size] - covered[starts] == size]].tolist() if len(starts) else []


def rotations(turns: Tensor) -> Tensor:
    """Return the rotations [..., 3, 3] by turns [..., 3] in rad (Rodrigues)."""
    size = turns.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    x, y, z = (turns / size).unbind(-1)
    none = torch.zeros_like(x)
    cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], -1).unflatten(-1, (3, 3))
    size = size[..., None]
    return torch.eye(3, device=turns.device) + size.sin() * cross + (1 - size.cos()) * (cross @ cross)


def shortest(start: Tensor, end: Tensor) -> Tensor:
    """Return the rotations [..., 3, 3] that turn unit vectors [..., 3] into others by the shortest way."""
    axis, cosine = torch.linalg.cross(start, end), torch.linalg.vecdot(start, end)[..., None]
    turn = F.normalize(axis, dim=-1) * torch.atan2(axis.norm(dim=-1, keepdim=True), cosine)
    side = torch.linalg.cross(start, torch.eye(3, device=start.device)[start.abs().argmin(-1)])
    half = math.pi * F.normalize(side, dim=-1)  # if opposite: about any axis across
    return rotations(torch.where(cosine < -0.999999, half, turn))
