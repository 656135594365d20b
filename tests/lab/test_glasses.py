"""glasses: what is different about a sensor, the student of a perceptron, and the lines of its readings."""

import copy
import json

import numpy as np
import pytest
import torch
from commandline import ROOT
from numpy.testing import assert_allclose

from egodistill import inference
from egodistill.engine.filterbank import IMUFilterbank
from egodistill.student import EgoDistill


@pytest.fixture
def glasses(fresh, monkeypatch, tmp_path):
    found = fresh("glasses")
    monkeypatch.setattr(found, "LINES", tmp_path / "lines.jsonl")
    monkeypatch.setattr(found, "PROTOCOL", tmp_path / "protocol.json")
    return found


def head(seconds=60, seed=0, size=1.0):
    """A recording at 100 Hz: gravity along y, steps at 2 Hz, turns at 1 Hz."""
    times, found = np.arange(100 * seconds) / 100, np.zeros((100 * seconds, 6))
    found[:, 1] = 9.81 + size * np.sin(4 * np.pi * times)
    found[:, 3] = 0.5 * size * np.sin(2 * np.pi * times)
    return np.float32(found + np.random.default_rng(seed).normal(0, 0.01, found.shape))


AS_GOOD = "100 Hz|50 Hz|30 Hz|30 Hz, gaps of 0.5 s|any mounting|noise of a phone|one axis mirrored".split("|")


@pytest.mark.parametrize("change", AS_GOOD)
def test_a_sensor_that_is_as_good_gives_nearly_the_same_numbers(glasses, change):
    motion = glasses.CHANGES[change](head(), np.random.default_rng(0))
    names = IMUFilterbank(glasses.SAMPLES, glasses.RATE).names
    kept = [k for k, name in enumerate(names) if name in ("vertical acceleration, 1.9 Hz", "tilting turn, 0.93 Hz")]
    wanted = glasses.numbers_of(glasses.at(head()), [3.0])[:, kept]
    assert_allclose(glasses.numbers_of(motion, np.arange(3.0, 40.0, 5.3))[:, kept], wanted.repeat(7, 0), atol=0.4)


def test_what_a_change_changes(glasses):
    samples, draws = head(), np.random.default_rng(0)
    changed = {name: change(samples, draws) for name, change in glasses.CHANGES.items()}
    assert [round(1 / changed[f"{rate} Hz"].median_steps[0]) for rate in (100, 50, 30)] == [100, 50, 30]
    gaps = np.diff(changed["30 Hz, gaps of 0.5 s"].accel_time)
    assert gaps.max() == pytest.approx(0.5, abs=0.01) and 5 <= (gaps > 0.1).sum() <= 6
    assert_allclose(changed["gyroscope x0.5"].gyro, samples[:, 3:] / 2)
    assert_allclose(changed["degrees per second"].gyro, np.rad2deg(samples[:, 3:]), rtol=1e-5)
    assert_allclose(changed["g"].accel, samples[:, :3] / 9.80665, rtol=1e-5)
    assert np.linalg.norm(changed["without gravity"].accel.mean(0)) < 0.01
    turned = changed["any mounting"]
    assert np.abs(turned.accel.mean(0) - samples[:, :3].mean(0)).max() > 1
    assert_allclose(np.linalg.norm(turned.accel, axis=1), np.linalg.norm(samples[:, :3], axis=1), rtol=1e-4)
    assert_allclose((turned.accel * turned.gyro).sum(1), (samples[:, :3] * samples[:, 3:]).sum(1), atol=1e-3)
    assert glasses.motion_states(changed["g"]) and glasses.motion_states(changed["degrees per second"])


def test_missing_gravity_is_told_of_every_real_head_and_of_none_that_has_it(glasses, sample_data):
    for _, _, samples in [*glasses.real_heads.recordings(1, 15)][::20]:
        assert glasses.motion_states(glasses.at(samples), rate=50.0) == []
        (state,) = glasses.motion_states(glasses.without_gravity(samples, np.random.default_rng(0)), rate=50.0)
        assert state[:2] == ("accelerometer", "units") and "without gravity" in state.text


def test_joined_recordings_have_the_class_at_their_end(glasses, monkeypatch):
    parts = [(8, 1, head(size=1.0)), (0, 1, head(size=0.0)), (1, 1, head(size=0.0)), (11, 1, head()), (9, 1, head(30))]
    monkeypatch.setattr(glasses.real_heads, "recordings", lambda study, count: parts)
    numbers, activities, *_, since, _ = (field for (field,) in zip(*glasses.joined(1, ""), strict=True))
    assert len(numbers) == 110 and sorted(np.unique(activities)) == [0, 1, 8]  # 12 is not known, 10 is too short
    classes = np.array([glasses.class_of(one) for one in activities])
    first = np.flatnonzero(np.diff(classes))[0] + 1
    assert first in (30, 70) and since[first] == 0 and since[first - 1] == first + 9 and since[first + 7] == 7
    power = numbers[:, 3]  # vertical, 1.9 Hz
    walks = classes == glasses.class_of(8)
    assert power[walks & (since > 9)].min() > power[~walks & (since > 10)].max() + 5


def made(glasses, count=900, wearers=10, seed=0):
    """Windows of six classes, each with numbers of its own."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(6, size=count)
    activities = np.array([kinds[0] for kinds in glasses.CLASSES.values()])[labels]
    centres = 3 * np.random.default_rng(9).normal(size=(6, 288))
    numbers = np.float32(centres[labels] + draws.normal(size=(count, 288)))
    who, zeros = np.arange(count) % wearers + 1, np.zeros(count)
    return glasses.Clips(numbers, activities, who, zeros.astype(int), zeros, zeros.astype(bool))


def test_the_student_is_the_perceptron_that_was_trained_and_the_same_bits_again(glasses, monkeypatch, tmp_path):
    trained, perceptron = [], glasses.real_heads.perceptron

    def kept(*given):
        trained.append(perceptron(*given))
        return copy.deepcopy(trained[-1])

    monkeypatch.setattr(glasses.real_heads, "perceptron", kept)
    found = made(glasses)
    model = glasses.learned([found], 0)
    chances = torch.from_numpy(glasses.answers(model, found.numbers))
    with torch.no_grad():
        wanted = trained[0](torch.from_numpy(found.numbers)).softmax(1)
    assert_allclose(chances[:, :6] / chances[:, :6].sum(1, keepdim=True), wanted, atol=1e-4)
    assert (chances.argmax(1).numpy() == glasses.labels_of(found)).mean() > 0.9
    other = made(glasses, seed=1)._replace(numbers=np.float32(20 * np.random.default_rng(2).normal(size=(900, 288))))
    assert (glasses.answers(model, other.numbers).argmax(1) == 6).mean() > 0.95
    again = glasses.learned([found], 0).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    model.save(tmp_path / "glasses.safetensors")
    assert (tmp_path / "glasses.safetensors").stat().st_size <= 300_000
    loaded = EgoDistill.load(tmp_path / "glasses.safetensors")
    assert loaded.class_names == [*glasses.CLASSES, "unsure"] and loaded.inputs == ("imu",)
    motion = glasses.at(head())
    with torch.no_grad():
        whole = loaded(torch.from_numpy(motion.window(3.0, 500, 50.0))[None]).logits.softmax(1)
    assert_allclose(glasses.answers(model, glasses.numbers_of(motion, [3.0])), whole, atol=1e-4)


def line(glasses, *confusions, **more):
    wearers = {str(k): np.array(one).tolist() for k, one in enumerate(confusions)}
    about = {"reading": "study 1", "change": "100 Hz", "seed": 0, "unlike": [1, 40], "not known": [3, 4]}
    return about | {"told": [0, 40], "wearers": wearers} | more


def test_figures_count_refusals_as_wrong(glasses):
    first, second = np.zeros((6, 7), int), np.zeros((6, 7), int)
    first[0, 0], first[0, 6] = 15, 5  # 15 of 20 are right, 5 refused
    second[3, 3], second[3, 0] = 16, 4  # 16 of 20 are right, 4 are called the other
    found = glasses.figures(line(glasses, first, second))
    one, other = 2 * 15 / (20 + 19), 2 * 16 / (20 + 16)
    assert found["macro-F1"] == pytest.approx(100 * (one + other) / 2)
    assert found["right"] == pytest.approx(100 * 31 / 35) and found["answered"] == 87.5 and found["unlike"] == 2.5
    assert glasses.worst([line(glasses, first, second)]) == ["75.0 (0)", "25.0 (0)"]
    assert glasses.worst([line(glasses, first, second), line(glasses, 5 * first[::-1], second)])[0] == "12.5 (0)"


def test_the_report_is_that_of_the_lines(glasses, tmp_path, monkeypatch, capsys):
    confusion = np.eye(6, 7, dtype=int) * 9
    confusion[:, 6] = 1
    lines = [
        line(glasses, confusion),
        {"reading": "joined", "change": "40 s each", "seed": 0, "waits": [4.0, 6.0, None], "after": [45, 20, 100]},
        {"reading": "Neon", "change": "", "seed": 0, "not known": [4, 10], "largest": {"walking": 0.4, "unsure": 0.9}},
        {"reading": "own labels", "change": "1 minute", "seed": 0, "on top": [6, 10], "alone": [5, 10]},
    ]
    glasses.LINES.write_text("".join(json.dumps(one) + "\n" for one in lines))
    given = ["glasses.py", "--cache", str(tmp_path / "cache"), "report", "--markdown", str(tmp_path / "glasses.md")]
    monkeypatch.setattr("sys.argv", given)
    glasses.main()
    text = (tmp_path / "glasses.md").read_text()
    assert "| study 1 | 100 Hz | 1 | 94.7 | 100.0 | 90.0 | 2.5 | 0.0 | 90.0 (0) | 10.0 (0) |" in text
    assert "| walking | 0.0 | 0.0 | 0.0 | 90.0 | 0.0 | 0.0 | 10.0 |" in text
    assert "new class after 6 s (median of 3 changes" in text and "45.0 % right, 20.0 % unsure" in text
    assert "refused 4 of 10 (40 %); most probable answer walking, 0.40" in text
    assert "on top of the student 60.0 %, those labels alone 50.0 %" in text
    assert "94.7" in capsys.readouterr().out


def test_a_line_that_is_there_is_not_computed_again(glasses, monkeypatch):
    monkeypatch.setattr(glasses.evidence, "git", lambda *words: "abc")
    for _ in range(2):
        glasses.add("study 1", "g", 0, lambda: {"unlike": [1, 2]})
    glasses.add("study 1", "g", 1, lambda: {"unlike": [1, 2]})
    assert [json.loads(text)["seed"] for text in glasses.LINES.read_text().splitlines()] == [0, 1]


def test_nothing_is_read_last_before_its_rule_is_committed(glasses, monkeypatch, tmp_path):
    monkeypatch.setattr(glasses, "add", None)
    own = json.dumps(glasses.protocol())
    states = ("", "", "there is none"), (own, " M", "commit it first"), ("{}", "", "differs from the settings")
    for text, state, said in states:
        if text:
            glasses.PROTOCOL.write_text(text)
        monkeypatch.setattr(glasses.evidence, "git", lambda *words, state=state: state)
        with pytest.raises(SystemExit, match=said):
            glasses.last(tmp_path, tmp_path / "glasses.safetensors")


def test_the_protocol_is_what_is_frozen(glasses):
    """Its text is not changed after the fact."""
    frozen = glasses.real_heads.RESULTS / "protocol-glasses.json"
    assert json.loads(frozen.read_text()) == json.loads(json.dumps(glasses.protocol()))


@pytest.mark.skipif(not (ROOT / "docs" / "glasses.md").exists(), reason="no documents: not a checkout")
def test_the_card_and_the_readme_say_what_the_lines_and_the_file_are():
    card, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/glasses.md", "README.md"))
    lines = [json.loads(line) for line in (ROOT / "results" / "glasses.jsonl").open(encoding="utf-8")]
    shares = {}
    for title, reading, change in (
        ("study 1, 27 wearers, folds", "study 1", "100 Hz"),
        ("the same at 30 Hz, with gaps of 0.5 s", "study 1", "30 Hz, gaps of 0.5 s"),
        ("study 2, 20 wearers", "study 2", "100 Hz"),
    ):
        own = [line for line in lines if (line["reading"], line["change"]) == (reading, change)]
        counts = np.array([sum(map(np.array, line["wearers"].values())) for line in own])  # [seed, class, said]
        counts = counts[:, counts.sum((0, 2)) > 0]
        there = [k for k in range(6) if sum(map(np.array, own[0]["wearers"].values()))[k].sum()]
        hits = np.stack([counts[:, row, k] for row, k in enumerate(there)], 1)
        f1 = 2 * hits / (counts.sum(2) + counts[:, :, there].sum(1))
        answered = counts[:, :, :6].sum((1, 2))
        shown = (f1.mean(1), hits.sum(1) / answered, answered / counts.sum((1, 2)))
        shares[title] = [f"{100 * share.mean():.1f}" for share in shown]
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {title}")]
        assert [cell.strip() for cell in row.split("|")[2:5]] == shares[title]
    unsure = 100 - float(shares["study 1, 27 wearers, folds"][2])
    assert f'{unsure:.0f} % are "unsure"' in card and f"for {unsure:.0f} % of their time" in readme
    assert "Nine of ten" in readme and 89.5 < float(shares["study 1, 27 wearers, folds"][1]) < 95
    (stream,) = [line for line in lines if line["reading"] == "stream"]
    given, due, dropped, problems = stream["answers"]
    assert (
        given == due and dropped == problems == 0 and f"{stream['hours']:.0f} hours gave all {given:,} answers" in card
    )
    model = EgoDistill.load("glasses")
    macs = inference.count_macs(model, torch.device("cpu")) / 1e6
    assert f"{macs:.2f} million multiply-adds" in card and f"{model.fusion[0].out_features} hidden" in card
    assert f"({(ROOT / 'students' / 'glasses.safetensors').stat().st_size / 1000:.0f} kB)" in card
