"""lead: recorded head motion as the pose of a rendered head, and its lines on a world of 38 clips."""

from dataclasses import replace

import numpy as np
import pytest
import small_benches
from numpy.testing import assert_allclose

from egodistill import data
from egodistill.world import behaviour, synthetic
from lab import contrasts


@pytest.fixture
def lead(fresh, monkeypatch, tmp_path):
    """The module, for a small world, with a repository of its own instead of results/."""
    evidence = fresh("evidence")
    results = tmp_path / "repository" / "results"
    small_benches.small_world(monkeypatch, evidence, results)
    module = fresh("lead")
    monkeypatch.setattr(module.real_heads, "PROTOCOL", results / "protocol-heads.json")
    yield module
    module.IMU_READERS.pop(".carried", None)


def commit_protocols(lead):
    """Write both protocols and commit them, as the commands want it."""
    lead.evidence.write_protocol(lead.better_student.PROTOCOL, lead.better_student.content())
    lead.files.write_json(lead.real_heads.PROTOCOL, lead.real_heads.PROTOCOL_TEXT)
    small_benches.commit(lead.evidence.RESULTS.parent)


def fake_recordings(study):
    """Two activities of 20 wearers: one sits still, the other nods."""
    times = np.arange(0, 60, 0.01)
    for activity, wearer in np.ndindex(2, 20):
        tilt = 0.3 * activity * np.sin(2 * np.pi * times)
        rest, zero = np.full_like(times, 9.81), np.zeros_like(times)
        rate = 0.6 * activity * np.pi * np.cos(2 * np.pi * times)
        yield activity, wearer, np.stack([zero, rest * np.sin(tilt), rest * np.cos(tilt), rate, zero, zero], 1)


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


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_lines_have_the_carriers_and_the_report_reads_them(lead, tmp_path, monkeypatch, capsys):
    commit_protocols(lead)
    monkeypatch.setattr(lead.real_heads, "recordings", fake_recordings)
    monkeypatch.setattr(lead, "ACTIVITIES", ["still", "walk"])
    lead.recorded.cache_clear()
    out = tmp_path / "out"
    lead.make(out)
    plain, store = (data.ClipStore(out / name / "store") for name in ("D", "D-with-carriers"))
    assert plain.segments.tolist() == store.segments.tolist()
    motion = [one.split("test").read("imu", slice(None)) for one in (plain, store)]
    assert np.array_equal(*motion)  # what is tested here is cut anew, for each carrier
    still, nods = (lead.tested(out, activity) for activity in (0, 1))
    rms = [np.sqrt(np.square(one[:, :, 3:]).sum(2).mean()) for one in (motion[0], still, nods)]
    assert rms[1] < rms[0] < rms[2] and rms[2] > 1.0  # the act alone; with sway and steps; with nods
    own = {name: lead.activity_of(one) for one in lead.better_student.recordings_of("D", out) for name in [one.name]}
    learned = [one.split("train").read("imu", slice(None)) for one in (plain, store)]
    kept = [own[clip["id"].rsplit("_", 1)[0]] is None for clip in plain.split("train").clips]
    assert [np.array_equal(*pair) for pair in zip(*learned, strict=True)] == kept
    for _ in range(2):  # nothing is left the second time
        lead.run(out, [0, 1], [1], [])
        lines = {world: lead.finished(world) for world in (lead.CONTROLS, lead.CARRIED)}
        assert {world: len(some) for world, some in lines.items()} == {lead.CONTROLS: 22, lead.CARRIED: 8}
    for world, some in lines.items():
        for line in some.values():
            method = line["run"]["method"]
            assert ("carried" in line) == (method in (lead.KNOWN, *lead.CARRIED_METHODS)), (world, method)
    bits = lines[lead.CARRIED]["seed-0/spectrum-n1-slowfast-0"]["carried"]["walk"]
    model = lead.bench_of(lead.CARRIED, out).load(lead.Run(lead.WINNER, 0, 1, lead.SLOWFAST)).eval()
    (right,) = lead.better_student.right_of(model, store.split("test"), [nods])
    assert (np.concatenate(list(contrasts.unpack(bits).values())) == right).all()
    lead.evidence.shutil.copy(out / "D-controls" / "runs" / "segments.json", lead.evidence.segments_path("D"))
    found = lead.outcomes()
    (row,) = [row for row in lead.by_activity(found).rows if row[0] == "walk"]
    alone = [lines[lead.CONTROLS][f"seed-{k}/frames-with-augmentation-n1-slowfast-{k}"]["top1"] for k in (0, 1)]
    assert row[1] == f"{50 * sum(alone):.1f}"
    said = {tuple(row[:3]) for row in lead.tests(found).rows}
    assert ("walk, N = 1", "Filterbank, carriers", "Frames with augmentation") in said
