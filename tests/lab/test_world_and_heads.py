"""world_and_heads: its numbers on hand-made head motion of known axes and units, and on wearers of the world."""

import re
from pathlib import Path

import numpy as np
import pytest

import egodistill
from egodistill.world import synthetic

ROOT = Path(egodistill.__file__).parent


@pytest.fixture
def script(fresh):
    return fresh("world_and_heads")


def shaken(script, up, hertz=0.0, size=0.0, turn=0.0):
    """A window of a sensor on which up is this direction: shaken up and down, and turning to the left."""
    time = np.arange(script.SIZE)[:, None] / script.RATE
    up = np.array(up) / np.linalg.norm(up)
    accel = (9.81 + size * np.sin(2 * np.pi * hertz * time)) * up
    return np.hstack([accel, turn * up + 0 * time]).astype(np.float32)


def windows(script, samples, labels=None, recordings=None, wearers=None):
    zeros = np.zeros(len(samples), int)
    labels, recordings, wearers = (zeros if one is None else np.array(one) for one in (labels, recordings, wearers))
    return script.Windows(np.stack(samples), labels, wearers, recordings, zeros == 0)


def test_a_sinusoid_has_its_rms_band_and_jerk(script):
    hertz = script.FREQUENCIES[[4, 17, 30, 80]]  # 1.9, 8, 14, 38 Hz
    found = script.numbers(windows(script, [shaken(script, (0, -1, 0), one, 2.0, -0.4) for one in hertz]))
    np.testing.assert_allclose(found["turn"], 0.4, rtol=1e-5)
    np.testing.assert_allclose(found["acceleration"], 2**0.5, rtol=1e-4)
    np.testing.assert_allclose(found["jerk"], 2**0.5 * 200 * np.sin(np.pi * hertz / 100), rtol=0.02)
    bands = [found[f"{low} Hz"] for low in (5, 10, 25)]
    np.testing.assert_allclose(bands, 2**0.5 * np.eye(4)[1:], atol=1e-4)


def test_spectra_are_densities(script):
    noise = np.random.default_rng(0).normal(0, 3.0, (400, script.SIZE, 2))
    found = script.spectra(noise).mean(0)
    np.testing.assert_allclose(found[2:].mean(0), 9 / 50, rtol=0.02)  # variance over 50 Hz
    np.testing.assert_allclose(script.FREQUENCIES[1], 1 / 2.13)


def test_tilts_are_from_the_recording_and_from_the_walks_of_the_wearer(script):
    degrees = np.radians([-10, 10, 30, 30, 0])
    samples = [shaken(script, (np.sin(one), np.cos(one), 0)) for one in degrees]
    walk = script.WALKING
    found = script.numbers(windows(script, samples, [walk, walk, 0, 0, 0], [0, 0, 1, 1, 2], [1, 1, 1, 1, 2]))
    np.testing.assert_allclose(found["tilt"], [10, 10, 0, 0, 0], atol=0.05)
    np.testing.assert_allclose(found["posture"], [10, 10, 30, 30, np.nan], atol=0.05)  # the other one never walks


def test_net_turns_are_to_the_left_about_up_wherever_the_sensor_sits(script):
    ups = [(0, -1, 0), (0, 1, 0), (1, 0, 1)]
    samples = [shaken(script, up, turn=turn) for up, turn in zip(ups, (0.3, -0.2, 0.1), strict=True)]
    found = windows(script, samples, recordings=[4, 5, 6])
    np.testing.assert_allclose(script.net_turns(found), [0.3, -0.2, 0.1], rtol=1e-5)
    np.testing.assert_allclose(script.between_recordings(found), [180, 90, 90], atol=0.05)


def test_wearers_of_the_world_turn_and_walk_as_their_heads_do(script):
    names = ["P01_101", "P02_101"]
    found = script.drawn(names, acts=30)
    assert found.samples.shape[1:] == (213, 6) and found.wearers.tolist() == sorted(found.wearers)
    up = script.verticals(found)
    assert (up[:, 2] > 0.85).all()  # a GoPro's axes
    np.testing.assert_allclose(np.linalg.norm(found.samples[..., :3].mean(1), axis=1), 9.81, atol=0.6)
    walks = found.labels == script.WALKING
    assert 5 < walks.sum() < len(walks) / 4
    shaken = script.numbers(found)["acceleration"]
    assert np.median(shaken[walks]) > 1.3 * np.median(shaken[~walks])
    for number, name in enumerate(names):
        plan = synthetic.RenderedRecording(name, 30).draw()
        end = 1 + script.SECONDS * np.sum(found.recordings == number)
        first, last = plan.head.state(np.array([1.0, end]))[0]
        assert script.net_turns(found)[number] == pytest.approx((last - first) / (end - 1), abs=0.03)


def test_the_table_and_the_picture(script, tmp_path, monkeypatch):
    """Of few recordings; real ones are made up: all of them still, but for a shaken runner."""
    pytest.importorskip("matplotlib")
    labels, recordings = np.repeat(np.arange(11), 4), np.repeat(np.arange(22), 2)
    samples = [shaken(script, (0, -1, 0), 8, 5.0 * (label == 9)) for label in labels]
    real = windows(script, samples, labels, recordings)._replace(tested=np.arange(44) % 2 == 0)
    monkeypatch.setattr(script.real_heads, "cut", lambda study, seconds: real)
    monkeypatch.setattr(script, "RECORDINGS", script.RECORDINGS[:2])
    document, stem = tmp_path / "table.md", tmp_path / "picture"
    monkeypatch.setattr("sys.argv", ["x.py", "--markdown", str(document), "--figure", str(stem)])
    script.main()
    rows = [row.strip("| ").split(" | ") for row in document.read_text().splitlines() if row.startswith("| ")]
    cells = {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows}
    counts = cells["windows, recordings"]
    assert (counts["real: desk"], counts["real: stairs"]) == ("8, 8", "2, 2")
    shares = cells["windows that turn less than 0.1 rad/s (%)"]
    assert shares["real: desk"] == "100" and float(shares["world"]) < 20
    moving = cells["acceleration without its mean, rms (m/s2)"]
    assert (moving["real: running"], moving["real: desk"]) == ("3.53", "0.00")
    assert stem.with_suffix(".png").stat().st_size > 10000 and "running" in stem.with_suffix(".svg").read_text()


def test_the_table_of_the_data_card_is_the_generated_one():
    card = (ROOT / "docs" / "world.md").read_text(encoding="utf-8")
    (own,) = re.findall(r"(?m)^\| medians .*\n(?:\|.*\n)+", card)
    generated = (ROOT / "results" / "world_and_heads.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in own.splitlines() if row not in generated] == []
