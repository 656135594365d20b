"""Batches of a store."""

import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from toys import QUIET, Store, small

from egodistill import EgoDistill, EgoDistillError, Output, baselines, batches, data, evaluate, finetune, measure
from egodistill.clips import ClipSpec


def test_reading_ahead_hides_the_reading():
    class Slow(Store):
        def read(self, name, index):
            time.sleep(0.02)
            return super().read(name, index)

    waits = []
    for _, wait in batches.read(Slow(32), ["imu"], torch.arange(32), 4, torch.device("cpu")):
        time.sleep(0.04)
        waits.append(wait)
    assert len(waits) == 8 and np.median(waits[1:]) < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"imu_rate": 100.0}, "'imu' of the store does not fit .* imu_rate is 198.0 in the store, 100.0 in the model"),
        ({"imu_samples": 300, "imu_vector": "mean"}, "imu_samples is 422 in the store, 300"),
        ({"clip_seconds": 1.0}, "'frames_1' of the store does not fit .* seconds is 2.13.* in the store, 1.0"),
        ({"frame_size": 32}, "size is 40 in the store, 32 in the model. Build the model with frame_size=40"),
        ({"exact": False}, "exact is True in the store, False"),
        ({"sampling": "first"}, "no array 'frames_1_first'"),
        ({"num_frames": 2}, "no array 'frames_2'"),
    ],
)
def test_a_student_for_other_clips_than_the_stores_is_refused(store, options, words):
    arguments = {"image_weights": None, "image_encoder": "resnet10x8", "frame_size": 40, "hidden": 8} | options
    model = EgoDistill(3, **arguments)
    with pytest.raises(EgoDistillError, match=words):
        finetune(model, store.split("test"), epochs=1, **QUIET)


class Own(torch.nn.Module):
    """A model of a user: what it says about its clips are attributes."""

    def __init__(self, *inputs, **said):
        super().__init__()
        self.inputs, self.layer = inputs, torch.nn.Linear(1, 4)
        for name, value in said.items():
            setattr(self, name, value)

    def forward(self, *inputs):
        feature = sum(x.float().flatten(1).mean(1, keepdim=True) for x in inputs)
        return Output(feature, self.layer(feature))


def test_a_model_that_names_no_size_is_evaluated_on_any():
    assert evaluate(Own("frames", "imu"), Store(4), **QUIET).clips == 4
    with pytest.raises(EgoDistillError, match=r"40 in the model. Build the model with frame_size=32"):
        evaluate(Own("frames", frame_size=40), Store(4), **QUIET)
    with pytest.raises(EgoDistillError, match=r"40 in the model. Build the model with size=32"):
        evaluate(Own("frames", clip_spec=ClipSpec(frames=1, size=40)), Store(4), **QUIET)


@pytest.mark.parametrize("model", [small(), Own("frames")])
def test_frames_that_were_cut_out_are_not_those_that_were_squeezed(model):
    store = Store(4)
    for crop in (False, True):
        store.specs = {"frames_1": ClipSpec(frames=1, size=32, crop=crop)}
        with pytest.raises(EgoDistillError, match="crop is True in the store, False in") if crop else nullcontext():
            evaluate(model, store, **QUIET)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (small(num_frames=2, imu_samples=100), [(2, 3, 32, 32), (100, 6)]),
        (small(use_imu=False), [(1, 3, 32, 32)]),
        (baselines.ListenToLook(3, frame_size=32, width=8, weights=None), [(1, 3, 32, 32), (201, 40)]),
        (
            baselines.ListenToLook(3, frame_size=32, width=8, audio_steps=21, mel_bands=33, weights=None),
            [(1, 3, 32, 32), (21, 33)],
        ),
        (Own("imu", "frames"), [(422, 6), (1, 3, 224, 224)]),
        (Own("clip", num_frames=5, frame_size=16), [(5, 3, 16, 16)]),
        (Own("clip", clip_spec=ClipSpec(frames=5, size=16)), [(5, 3, 16, 16)]),
        (Own("audio"), [(201, 40)]),
    ],
)
def test_example_inputs_are_what_a_model_reads(model, shapes):
    inputs = batches.example_inputs(model, 2)
    assert [tuple(x.shape) for x in inputs] == [(2, *shape) for shape in shapes]
    assert [x.dtype for x in inputs] == [torch.uint8 if len(shape) == 4 else torch.float32 for shape in shapes]
    for x in inputs:
        assert int(x.max()) > 250 if x.dtype == torch.uint8 else 0.5 < x.std() < 2
    assert measure(model, batch_size=2, repeats=1, device="cpu", precision="fp32").gmacs > 0


@pytest.mark.parametrize(("model", "word"), [(Own("gaze"), "'gaze'"), (Own("clip"), "'clip'.*num_frames")])
def test_inputs_of_unknown_shape_have_no_example(model, word):
    with pytest.raises(EgoDistillError, match=f"Own reads {word}"):
        batches.example_inputs(model)


def test_a_student_reads_the_frames_that_it_is_for(kitchen, tmp_path):
    """Several choices of frames in one store."""
    options = {"num_frames": 2, "frame_size": 32, "ends": False, "workers": 1, "progress": False}
    store = data.prepare(kitchen[6:], tmp_path / "s", sampling=("uniform", "last", "random"), seed=3, **options)
    assert store.names == ["frames_2", "frames_2_last", "frames_2_random", "imu"]
    for rule, name in (("uniform", "frames_2"), ("last", "frames_2_last"), ("random", "frames_2_random")):
        arguments = {"image_weights": None, "image_encoder": "resnet10x8", "frame_size": 32, "hidden": 8}
        model = EgoDistill(3, num_frames=2, sampling=rule, **arguments)
        assert batches.arrays_of(model, store) == [name, "imu"]
    alone = data.prepare(kitchen[6:], tmp_path / "alone", sampling="random", seed=3, **options)
    assert (alone.read("frames_2_random", slice(None)) == store.read("frames_2_random", slice(None))).all()


def test_a_crop_depends_on_the_clips_seed_alone():
    ramp = torch.arange(64, dtype=torch.uint8).expand(2, 2, 3, 64, 64)  # two clips of two frames, brighter to the right
    augment, plain = batches.Augment(crop=0.5), {"frames_2": ramp, "clip": ramp}

    def cropped(seeds, rows):
        batch = {name: x[rows] for name, x in plain.items()}
        augment.apply(batch, seeds)
        assert torch.equal(batch["clip"], ramp[rows])  # a teacher's
        return batch["frames_2"]

    both, second = cropped([3, 4], [0, 1]), cropped([4], [1])
    assert both.shape == ramp.shape and both.dtype == torch.uint8
    assert torch.equal(both[1], second[0]) and not torch.equal(both[0], both[1])
    assert torch.equal(both[0, 0], both[0, 1]) and torch.equal(cropped([3], [0])[0], both[0])
    sides = []
    for seed in range(50):
        row = cropped([seed], [0])[0, 0, 0, 0].float()
        sides.append(float(row[-1] - row[0] + 1) / 64)
    assert 0.5 <= min(sides) < 0.55 and 0.95 < max(sides) <= 1
    with pytest.raises(EgoDistillError, match="0 <= crop < 1; got 1"):
        batches.Augment(crop=1)
