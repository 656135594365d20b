"""Candidates for a student that may lack an input: what stands for it, and how they learn."""

import itertools

import numpy as np
import pytest
import torch
from toys import Store

from egodistill import DistillationSettings, distillation
from lab import optional_inputs as script


def built(name, **options):
    torch.manual_seed(0)
    (method,) = (one for one in script.METHODS if one.name == name)
    small = {"image_encoder": "resnet10x4", "image_weights": None, "frame_size": 32, "hidden": 8, "feature_dim": 12}
    model = method.build(4, **{**small, **getattr(method.build, "keywords", {}), **options})
    stage = getattr(method.stage, "keywords", {}).get("objective", distillation.Distill)
    return model, stage(model, Store(8), DistillationSettings(), "t")


@pytest.mark.parametrize("num_frames", [1, 4])
def test_each_candidate_answers_from_either_input(num_frames):
    frames = torch.zeros(3, num_frames, 3, 32, 32, dtype=torch.uint8)
    imu = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 422, 6)).astype(np.float32))
    for method in script.METHODS:
        if method.name in (script.WINNER, script.FRAMES, script.MOTION):
            continue
        model = method.build(
            4, image_encoder="resnet10x4", image_weights=None, frame_size=32, feature_dim=12, num_frames=num_frames
        ).eval()
        with torch.no_grad():
            answers = model(frames, imu).logits, model(frames, None).logits, model(None, imu).logits
        assert all(one.shape == (3, 4) for one in answers), method.name
        assert all((a - b).abs().max() > 1e-6 for a, b in itertools.combinations(answers, 2)), method.name
        trained = dict(model.named_parameters())
        assert ("no_frames" in trained) == ("no_imu" in trained) == (method.name != "Zeros")


def test_candidates_learn_from_what_their_names_say():
    store = Store(8)
    batch = {name: torch.from_numpy(value) for name, value in store.arrays.items()}
    batch |= {"label": torch.from_numpy(store.labels), "weight": torch.ones(8)}
    losses = {}
    for name in ("Vectors", "Vectors, weight 1", "Vectors, weight 0.25", "Vectors, frames too"):
        model, objective = built(name)
        objective.eval()
        with torch.no_grad():
            losses[name] = objective(batch)
    own = {key: losses["Vectors"][key] for key in ("frames alone", "imu alone")}
    alone = sum(own.values())
    both = losses["Vectors"]["loss"] - 0.5 * alone
    for name, wanted in (
        ("Vectors, weight 1", both + alone),
        ("Vectors, weight 0.25", both + 0.25 * alone),
        ("Vectors, frames too", both + 0.5 * own["frames alone"]),
    ):
        torch.testing.assert_close(losses[name]["loss"], wanted)
    model, objective = built("Vectors, drawn")
    torch.nn.init.constant_(model.no_frames, 50.0)
    torch.nn.init.constant_(model.no_imu, 50.0)
    objective.eval()
    model.eval()
    frames, imu = (batch[name].repeat_interleave(100, 0) for name in ("frames_1", "imu"))
    with torch.no_grad():
        whole = [model(frames, imu).logits, model(frames, None).logits, model(None, imu).logits]
        assert torch.equal(objective.outputs(frames, imu)[0].logits, whole[0])  # nothing is missing in validation
        objective.training = True
        (drawn,) = objective.outputs(frames, imu)
    nearest = torch.stack([(drawn.logits - one).abs().sum(1) for one in whole]).argmin(0)
    shares = torch.bincount(nearest, minlength=3) / len(nearest)
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.15, 0.15]), atol=0.04, rtol=0)
