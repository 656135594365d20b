"""lead: recorded head motion as the pose of a rendered head, and encoders with something taken away."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import egodistill
from egodistill import EgoDistill
from egodistill.experiments import behaviour, synthetic

FOLDER = Path(egodistill.__file__).parent / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no benchmarks beside the package: not a checkout")
MODULES = ("lead", "head_encoders", "better_student", "real_heads", "evidence_report", "evidence")


@pytest.fixture
def lead(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("lead")
    for name in MODULES:
        sys.modules.pop(name, None)


def drawn_pose(seconds=60, seed=0):
    """A pose [n, 6] that nods more than it rolls, with frequencies of 0.8 to 2.5 Hz that fit the time."""
    rng, times = np.random.default_rng(seed), np.arange(0, seconds, 0.01)
    hertz = np.round(rng.uniform(0.8, 2.5, (6, 5)) * seconds) / seconds
    phase, size = rng.uniform(0, 6.28, (6, 5)), np.array([0.1, 0.2, 0.05, 0.02, 0.02, 0.03])
    return np.stack([size[k] * np.sin(6.283185307 * hertz[k] * times[:, None] + phase[k]).mean(1) for k in range(6)], 1)


def readings(carrier, seconds, mount):
    """What a sensor with these axes reads at 100 Hz, [n, 6], on a head that a carrier alone moves."""
    plan = synthetic.RenderedRecording("P01_101", acts=1).draw()
    plan.head.acts = [replace(plan.acts[0], turn=(0.0, 0.0), lean=(0.0, 0.0, 0.0), pitch=0.0)]
    plan.head.sway, plan.head.mount = carrier, mount
    return np.hstack(plan.head.imu(np.arange(0, seconds, 0.01)))


def test_a_pose_is_read_back_from_its_readings_however_the_sensor_sits(lead):
    pose = drawn_pose()
    angles = np.array([[2.0], [0.5], [-0.7]])
    mount = behaviour.rotation(np.cos(angles), np.sin(angles), facing_back=False)
    (found,) = lead.poses([readings(lead.Carrier(pose, 0.0, False), 60.0, mount[0])])
    found, wanted = found[500:-500], pose[500 : len(found) - 500]  # the filter settles, and the ends fade
    way = np.sign((found[:, 1] * wanted[:, 1]).sum())  # forward or backward: nobody can tell
    found = found * [1, way, way, way, way, 1]
    errors = np.abs(found - wanted).max(0).reshape(2, 3) / np.abs(wanted).reshape(-1, 2, 3).max((0, 2))[:, None]
    assert errors.max() < 0.15, errors  # of the largest angle, and of the largest way


def test_a_carrier_is_the_recording_again_and_again(lead):
    pose = drawn_pose(20)
    carrier = lead.Carrier(pose, 3.0, False)
    times = np.arange(100) / 100
    assert_allclose(carrier(times).T, pose[300:400], atol=1e-12)
    assert_allclose(carrier(times + 20.0), carrier(times), atol=1e-9)
    backward = lead.Carrier(pose, 3.0, True)(times)
    assert_allclose(backward, carrier(times) * np.array([1, -1, -1, -1, -1, 1])[:, None])
    fine = carrier(np.arange(0, 1, 1e-3))
    assert np.abs(np.diff(fine, 3)).max() < 1e-4  # no corner between two samples


def test_slow_turns_and_drift_are_left_out(lead):
    times = np.arange(0, 60, 0.01)
    walked = 0.3 * times + 0.5 * np.sin(2 * np.pi * 0.05 * times)  # round corners
    found = lead.band((walked + 0.1 * np.sin(2 * np.pi * 1.5 * times))[:, None], lead.SLOW)
    assert found.std() == pytest.approx(0.1 / np.sqrt(2), rel=0.03)


@pytest.mark.parametrize(("sensor", "own"), [(0, slice(0, 3)), (1, slice(3, 6))])
@pytest.mark.parametrize("kind", ["paper", "spectrum"])
def test_a_sensor_that_is_taken_away_changes_nothing(lead, kind, sensor, own):
    name = f"{kind}_without_{['accelerometer', 'gyroscope'][sensor]}"
    encoder = getattr(lead.head_encoders, name)
    model = EgoDistill(3, image_encoder="resnet10x4", image_weights=None, frame_size=32, imu_encoder=encoder).eval()
    imu = torch.randn(2, 422, 6)
    other, moved = imu.clone(), imu.clone()
    other[:, :, own] += torch.randn(2, 422, 3)
    moved[:, :, {0: 4, 1: 1}[sensor]] += torch.randn(2, 422)
    assert torch.equal(model.encode_imu(imu), model.encode_imu(other))
    assert not torch.equal(model.encode_imu(imu), model.encode_imu(moved))


def test_the_net_turn_is_taken_from_spectrum_and_given_to_the_cnn(lead):
    imu = torch.randn(2, 422, 6)
    turned = imu + torch.tensor([0, 0, 0, 0.3, 0, 0])
    spectrum, cnn = lead.head_encoders.SpectrumWithoutTurn().eval(), lead.head_encoders.ScaledCNN().eval()
    assert_allclose(spectrum(imu), spectrum(turned), atol=1e-4)
    changed = (cnn(imu) - cnn(turned)).abs().max(0).values
    assert changed[:-3].max() < 1e-3 and changed[-3:].tolist() == pytest.approx([0.3, 0, 0], abs=1e-3)
