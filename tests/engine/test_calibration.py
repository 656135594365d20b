"""How sure a model may be: the temperature, the error of its probabilities, and what a file may say of both."""

import math

import pytest
import torch

from egodistill.engine import calibration
from egodistill.engine.calibration import Calibration


def true_clips(count, spread=2.0, classes=8, seed=0):
    """Logits whose softmax is the chance of each class, and classes drawn by it."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(count, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("wanted", [0.3, 1.0, 1.7, 6.0])
def test_the_temperature_undoes_what_logits_were_multiplied_by(wanted):
    logits, labels = true_clips(20000)
    found = calibration.fit(wanted * logits, labels)
    assert found == pytest.approx(wanted, rel=0.03)
    losses = {
        k: float(torch.nn.functional.cross_entropy(wanted * logits.double() / (found * k), labels))
        for k in (0.98, 1, 1.02)
    }
    assert min(losses, key=losses.get) == 1
    assert calibration.fit(wanted * logits + 100, labels) == pytest.approx(found, abs=1e-3)


def test_few_clips_that_are_all_right_do_not_make_a_model_sure_of_everything():
    labels = torch.arange(60) % 4
    logits = 8 * torch.nn.functional.one_hot(labels, 4).float()
    sure = (logits / calibration.fit(logits, labels)).softmax(1).amax(1).mean()
    assert 0.95 < sure < 0.99
    assert calibration.fit(torch.zeros(60, 4), labels) <= calibration.HIGHEST
    assert calibration.fit(-logits, labels) == calibration.HIGHEST  # always wrong


def test_below_50_clips_nothing_is_fitted():
    logits, labels = true_clips(50)
    assert Calibration.fitted(logits[1:], labels[1:]) == Calibration() and not Calibration().record()
    found = Calibration.fitted(3 * logits, labels)
    assert found.clips == 50 and found.temperature == calibration.fit(3 * logits, labels) > 1.5
    assert Calibration(**found.record()) == found


def test_the_error_is_the_mean_distance_of_bins_from_what_they_claim():
    """By hand: 4 clips at 0.9, three of them right; 4 at 0.58, in the bin that ends at 0.6, one of them right."""
    scores = torch.tensor([[0.9, 0.1]] * 4 + [[0.42, 0.58]] * 4)
    found = calibration.reliability(scores, torch.tensor([0, 0, 0, 1, 1, 0, 0, 0]))
    assert found.bins == [(4, pytest.approx(0.58), 0.25), (4, pytest.approx(0.9), 0.75)]
    assert found.error == pytest.approx((0.33 + 0.15) / 2)
    loss = -(3 * math.log(0.9) + math.log(0.1) + math.log(0.58) + 3 * math.log(0.42)) / 8
    assert found.log_loss == pytest.approx(loss) and found.clips == 8
    deviations = math.sqrt(4 * 0.9 * 0.1) + math.sqrt(4 * 0.58 * 0.42)
    assert found.floor == pytest.approx(math.sqrt(2 / math.pi) * deviations / 8)
    edges = torch.tensor([[1.0, 0.0], [0.6, 0.4], [0.0, 1.0]])
    assert [row[0] for row in calibration.reliability(edges, torch.tensor([0, 0, 0])).bins] == [1, 2]
    assert math.isfinite(calibration.reliability(edges, torch.tensor([0, 0, 0])).log_loss)


@pytest.mark.parametrize(("count", "points"), [(200, 7.2), (4000, 1.65)])
def test_the_floor_is_what_true_probabilities_have(count, points):
    found = []
    for seed in range(60):
        logits, labels = true_clips(count, spread=1.0, seed=seed)
        found.append(calibration.reliability(logits.softmax(1), labels))
    floor = 100 * sum(one.floor for one in found) / len(found)
    assert floor == pytest.approx(points, rel=0.03)
    assert 100 * sum(one.error for one in found) / len(found) == pytest.approx(floor, rel=0.08)
    logits, labels = true_clips(count)
    assert calibration.reliability((3 * logits).softmax(1), labels).error > 3 * found[0].floor * (count > 200)


EVENTS = {"start": 0.6, "end": 0.4, "min_seconds": 0.5, "max_pause": 1.0, "stride": 0.5}


def test_events_begin_alike_however_an_input_went_missing():
    found = Calibration(0.6, 70, EVENTS, {"frames": 0.9, "imu": 2.0}).for_input("frames")
    assert found == Calibration(0.9, 70, EVENTS)


def test_thresholds_and_defaults_are_read():
    assert Calibration(**{}) == Calibration()
    found = Calibration(1.5, 80, EVENTS)
    assert Calibration(**found.record()) == found


def test_an_attribute_of_ones_own_is_no_calibration():
    """Such as a network that divides its own scores."""
    model = torch.nn.Linear(2, 2)
    model.temperature, model.calibration = 0.1, torch.nn.Linear(2, 2)
    assert calibration.calibration_of(model) == Calibration() == calibration.calibration_of(None)
