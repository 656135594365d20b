"""A small student, head motion and pictures for streams, and what they must equal."""

import dataclasses

import numpy as np
import torch

from egodistill import EgoDistill, Output, Stream
from egodistill.imu import Imu

CLIP = 64 / 30


def student(num_frames=1, **options):
    torch.manual_seed(0)
    small = {"image_encoder": "resnet10x4", "image_weights": None, "frame_size": 32, "hidden": 32, "imu_width": 4}
    about = {"feature_dim": 16, "num_frames": num_frames, "class_names": list("abcdefg")}
    return EgoDistill(7, **about, **small | options).eval()


class Fast(torch.nn.Module):
    """A student that costs next to nothing."""

    sampling, imu_axes, imu_rate, clip_seconds = "uniform", "gopro", 198.0, CLIP

    def __init__(self, inputs=("frames", "imu"), size=32, samples=422):
        super().__init__()
        self.inputs, self.frame_size, self.imu_samples = inputs, size, samples
        self.num_frames = int("frames" in inputs)
        self.eval()

    def encode_frames(self, frames, count=None):
        return frames.float().mean((2, 3, 4))[..., None]

    def aggregate(self, features):
        return features[:, 0]

    def encode_imu(self, imu):
        return imu.mean(1)

    def fuse(self, image, motion):
        return Output(torch.zeros(1, 2), torch.zeros(1, 2))


def open_stream(model, **options):
    return Stream(model, **{"precision": "fp32", "top": 7, **options})


def samples(start, stop, rate=200.0, seed=0):
    """Times and readings of a head that moves smoothly."""
    times = np.arange(round(start * rate), round(stop * rate)) / rate
    phase = np.random.default_rng(seed).uniform(0, 6, 6)
    readings = np.sin(np.outer(times, [1, 2, 3, 4, 5, 6]) + phase) * [2, 2, 2, 0.5, 0.5, 0.5] + [0, 0, 9.8, 0, 0, 0]
    return times, readings


def picture(seed=0, size=32):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def check(stream):
    """The equations of `Stats`."""
    s = stream.stats
    assert s.samples == s.used + s.late + s.double + s.invalid + s.held
    assert s.frames == s.encoded + s.refused + s.replaced + s.waiting
    assert s.due == s.given + s.problems + s.dropped + s.pending
    assert s.requests == s.answered + s.given_up + s.outstanding
    assert min(dataclasses.astuple(s)) >= 0
    return s


def offline(model, times, readings, start, frames):
    """The model on one clip, as `predict()` runs it with a batch of one."""
    window = Imu(times, readings[:, :3], times, readings[:, 3:]).window(start)
    given = np.stack([frame.transpose(2, 0, 1) for frame in frames])
    with torch.no_grad():
        scores = model(torch.from_numpy(given)[None], torch.from_numpy(window)[None]).logits.softmax(1)[0]
    values, best = scores.topk(7)
    return [(model.class_names[k], value) for k, value in zip(best.tolist(), values.tolist(), strict=True)]
