"""lab/when_to_look.py: gates on made-up recordings, the oracle above all of them, and tables from lines."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import egodistill
from egodistill import CLIP_SECONDS, data, inference
from egodistill.deploy import feeds, gates
from egodistill.support import files
from egodistill.world import behaviour, synthetic
from lab import benches, contrasts
from lab.protocols import PROTOCOLS

ROOT = Path(egodistill.__file__).parent


@pytest.fixture
def script(fresh, monkeypatch, tmp_path):
    found = fresh("when_to_look")
    monkeypatch.setattr(found, "AGES_FILE", tmp_path / "ages.jsonl")
    monkeypatch.setattr(found, "LOOKS_FILE", tmp_path / "looks.jsonl")
    return found


def made_up(script, wearer, seed):
    """Two minutes; an act of 3 s every 10 s, for which only frames of the last two answers before it help."""
    rng = np.random.default_rng(seed)
    stops = CLIP_SECONDS + np.arange(240) * 0.5
    middles, names = stops - CLIP_SECONDS / 2, sorted(behaviour.VERBS)
    begins = [10.0 * k + 3 + rng.uniform(0, 3) for k in range(11)]
    acts = [(start, start + 3, int(rng.integers(len(names)))) for start in begins]
    truth, scores = np.full(240, -1), np.full((240, 81, 20), 0.01, np.float32)
    windows = [np.zeros((422, 6)) for _ in stops]
    for start, stop, label in acts:
        truth[(middles >= start) & (middles < stop)] = label
    for k in np.flatnonzero(truth >= 0):
        scores[k, :3, truth[k]] = 0.8
        scores[k, 3:, (truth[k] + 1) % 20] = 0.3
        windows[k][-60:, 4] = 1.0 if truth[k - 1] >= 0 else 3.0  # the head moves in an act, most at its start
    return script.Day(wearer, stops, windows, scores, truth, acts)


def test_an_answer_has_the_scores_of_its_frame(script):
    day = made_up(script, "P30", 0)
    probabilities, count = script.looked((lambda *_: True), day)
    assert count == 240 and (probabilities == day.scores[:, 0]).all()
    probabilities, count = script.looked(gates.Period(2.0), day)
    assert count == 48 and (probabilities[7] == day.scores[7, 2]).all()
    assert (script.chosen(day, np.full(240, -1)) == 0).all()
    counts = script.score(day, script.looked((lambda *_: True), day)[0], 0.5)
    assert counts["right"] == counts["seen"] == (day.truth >= 0).sum() > 60
    assert counts["hits"] == counts["events"] == counts["acts"] == 11 and script.f1(counts) == 100
    late = script.score(day, script.looked((lambda *_: False), day)[0], 0.5)
    assert late["right"] < 12 and late["hits"] <= 2 and script.f1(late) < 20
    assert script.score(day, np.zeros((240, 20), np.float32), 0.5)["right"] == 0


def test_events_match_an_act_by_half_of_both(script):
    day = made_up(script, "P30", 0)
    probabilities = day.scores[:, 0].copy()
    known = np.flatnonzero(day.truth >= 0)
    probabilities[known[:6:2]] = 0.01  # half of the first act's answers say nothing, but its event lasts
    counts = script.score(day, probabilities, 0.5)
    assert counts["acts"] == 11 and counts["hits"] >= 10
    probabilities[known[2:6]] = 0.01  # now it is too short
    assert script.score(day, probabilities, 0.5)["hits"] == 10


def test_thresholds_meet_their_budget(script):
    found = script.threshold_for(6, lambda x: 60 / x, 0.05, 60.0)
    assert found == pytest.approx(10, rel=0.01)
    assert 120 / script.threshold_for(3, lambda x: 120 / max(x, 40), 0.05, 60.0) >= 2  # 3 a minute at x = 40


def test_the_change_gate_compares_with_the_last_look(script):
    sizes = {"feature_dim": 8, "image_encoder": "resnet10x4", "hidden": 8, "imu_width": 4, "frame_size": 64}
    model, rng = egodistill.EgoDistill(4, image_weights=None, **sizes).eval(), np.random.default_rng(0)
    one, two = ([0, 0, 9.8, 0, 0, 0] + rng.normal(0, 2.0, (422, 6)) * scale for scale in (0.05, 1.0))
    probe = script.Changed(model, 2.0, {})
    apart = 1 - float(probe.embed(one) @ probe.embed(two))
    assert apart > 1e-5 and abs(np.linalg.norm(probe.embed(one)) - 1) < 1e-5
    gate, far = (script.Changed(model, apart * share, {}) for share in (0.9, 1.1))
    assert [gate(x, [0.0], 3.0) for x in (one, one, two, two, one)] == [False, False, True, False, True]
    assert not any(far(x, [0.0], 3.0) for x in (one, two, one))


def test_the_oracle_is_the_best_of_all_choices(script):
    rng = np.random.default_rng(0)
    for price in (0.0, 0.3, 0.7, 1.4):
        right = rng.random((8, 3)) < 0.5

        def worth(looks, right=right, price=price):
            age, total = 3, 0.0
            for k, look in enumerate(looks):
                age = 0 if look else min(age + 1, 3)
                total += (right[k, age] if age < 3 else 0) - price * look
            return total

        best = max(itertools.product([False, True], repeat=8), key=worth)
        assert worth(script.best_requests(right, price)) == pytest.approx(worth(best))
    assert not script.best_requests(right, 9.0).any()


@pytest.mark.slow("a simulation of 6 recordings")
def test_a_gate_on_the_acts_beats_the_period_and_the_oracle_both(script, tmp_path):
    validation, test = ([made_up(script, f"P{k}", seed + k) for k in range(30, 33)] for seed in (0, 50))
    torch.manual_seed(0)
    sizes = {"feature_dim": 8, "image_encoder": "resnet10x4", "hidden": 8, "imu_width": 4, "frame_size": 64}
    model = egodistill.EgoDistill(20, image_weights=None, **sizes)
    for seed in (0, 1):
        for kind in ("fixed, N = 1", "ages, N = 1"):
            about = {"student": kind, "seed": seed, "world": "A", "max_age": 40.0}
            for line in script.gate_lines(model.eval(), validation, test, (3, 6, 12, 30)):
                files.append_line(script.LOOKS_FILE, about | line)
    table = script.gate_table(script.played("ages, N = 1"), script.Camera())
    rows = {(row[0], row[1]): row for row in table.rows}
    assert len(rows) == 2 + 6 * 4 and not script.played("ages, N = 1", max_age=4.0)
    right = {key: float(row[3].split()[0]) for key, row in rows.items()}
    assert right["120", "always"] == 100 and right["0", "when too old"] < 15
    assert right["6", "head moves"] > right["6", "fixed period"]
    for budget in ("3", "6", "12", "30"):
        assert right[budget, "oracle"] >= max(right[budget, name] for name in script.GATES) - 8  # looks differ a little
    assert abs(float(rows["12", "fixed period"][2]) - 12) < 1.5 and rows["12", "fixed period"][4] == ""
    assert rows["6", "head moves"][4].startswith("+") and abs(float(rows["12", "random"][2]) - 12) < 2
    assert rows["120", "always"][7:] == ["7", "67", "100"]  # 120 looks, each after 0, 0.3 and 1 s
    total = inference.count_macs(model, torch.device("cpu")) / 1e9
    assert float(rows["120", "always"][6]) == pytest.approx(2 * total, abs=6e-4)  # two frames, windows, answers
    costs = script.gmacs_of_parts(model)
    assert sum(costs.values()) == pytest.approx(total, rel=1e-6)
    one = script.played("ages, N = 1")[12, "embedding changed"]
    embedded = one.looks / 60 * costs["frame"] + 4 * costs["motion"] + 2 * costs["answer"]
    assert one.gmacs == pytest.approx(embedded) and len(table.header) == 10
    power = script.gate_table(script.played("ages, N = 1"), script.Camera(look_energy=0.06, gmac_energy=0.002))
    expected = 120 + 2 * float(rows["120", "always"][6])  # mW: two looks a second, then the operations
    assert power.header[-1] == "power (mW)"
    assert float(next(row for row in power.rows if row[1] == "always")[-1]) == pytest.approx(expected, abs=0.1)
    line = {"seed": 0, "age": 0.2, "correct": contrasts.pack(dict.fromkeys(("P30", "P31"), np.arange(10) < 6))}
    for seed in (0, 1):
        for kind in script.students():
            files.append_line(script.AGES_FILE, line | {"student": kind, "seed": seed})
    assert [path.name for path in script.figure(tmp_path / "look")] == ["look.png", "look.svg"]
    drawn = (tmp_path / "look.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in (*script.GATES, "oracle", "trained on all ages, N = 2"))


def test_the_default_is_compared_with_more_looks_at_a_fixed_period(script):
    for seed in (0, 1):
        for gate, budget, right in (("fixed period", 30, 60), ("head moves", 20, 63), ("always", 120, 55)):
            counts = {"seen": 100, "hits": 1, "events": 2, "acts": 2, "looks": 2 * budget, "seconds": 120}
            wearers = {name: counts | {"right": right + k + seed} for k, name in enumerate(("P30", "P31"))}
            about = {"student": "ages, N = 1", "seed": seed, "world": "C", "max_age": 4.0, "gate": gate}
            files.append_line(script.LOOKS_FILE, about | {"budget": budget, "wearers": wearers})
    assert script.default_table().rows == [
        ["C", "head moves", "20.0", "+3.0 (+3.0 to +3.0)"],
        ["C", "always", "120.0", "-5.0 (-5.0 to -5.0)"],
    ]


def test_shares_of_right_answers_and_their_differences_stay_within_100(script):
    def gate(*right):
        counts = {"seen": 100, "hits": 1, "events": 2, "acts": 2, "looks": 5, "seconds": 60}
        wearers = [{"P30": counts | {"right": k}, "P31": counts | {"right": k}} for k in right]
        about = {"gate": "random", "gmacs": dict.fromkeys(("frame", "motion", "answer"), 1.0)}
        return script.Played([about | {"seed": seed, "wearers": own} for seed, own in enumerate(wearers)])

    one, base = gate(100, 0), gate(0, 100)
    (_, row) = script.gate_table({(6, "fixed period"): base, (6, "random"): one}, script.Camera()).rows
    assert row[3:5] == ["50.0 (0.0 to 100.0)", "+0.0 (-100.0 to +100.0)"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"look_energy": 0.1}, "both energies"),
        ({"frame_time": -1}, "frame_time"),
        ({"frame_time": np.nan}, "frame_time"),
    ],
)
def test_costs_of_a_camera_that_make_no_sense_are_refused(script, given, message):
    with pytest.raises(egodistill.EgoDistillError, match=message):
        script.Camera(**given)


def test_gates_are_measured_once_for_each_student_world_and_limit(script, monkeypatch, tmp_path):
    rendered = []
    monkeypatch.setattr(script.synthetic, "render", lambda folder, **settings: rendered.append((folder, settings)))
    monkeypatch.setattr(script, "load", lambda out, run: f"{run.sampling} {run.seed}")
    monkeypatch.setattr(script, "days", lambda model, world, max_age: [model, max_age])
    said = []
    monkeypatch.setattr(script, "gate_lines", lambda *given: said.append(given) or [{"gate": "always"}])
    monkeypatch.setattr(script.evidence, "origin_of_lines", lambda: {"commit": "c"})
    for world, max_age in (("A", 40.0), ("C", 4.0), ("C", 4.0)):
        script.measure_looks(tmp_path, 2, world, max_age)
    assert said == [
        (model, [model, limit], [model, limit], budgets)
        for limit, budgets in ((40.0, (3, 6, 12, 30)), (4.0, (20, 30)))
        for model in ("uniform 2", "ages 2")
    ]
    folders, settings = zip(*rendered[-2:], strict=True)
    assert folders == (tmp_path / "looks", tmp_path / "looks-C") and rendered[1][0] == tmp_path / "A" / "world"
    assert [one["seed"] for one in settings] == [1, 2] and rendered[1][1]["seed"] == 0
    lines = list(files.read_lines(script.LOOKS_FILE, "world"))
    assert [(line["student"], line["world"], line["max_age"]) for line in lines] == [
        (kind, world, limit) for world, limit in (("A", 40.0), ("C", 4.0)) for kind in ("fixed, N = 1", "ages, N = 1")
    ]


def test_accuracy_by_age_comes_from_lines(script):
    for seed in (0, 1):
        for k, age in enumerate((0.2, 0.7)):
            hits = {name: np.arange(10) < 8 - 3 * k for name in ("P30", "P35")}
            line = {"student": "ages, N = 1", "seed": seed, "age": age, "correct": contrasts.pack(hits)}
            files.append_line(script.AGES_FILE, line)
    rows = script.curve().rows
    assert [row[0] for row in rows] == ["0.20", "0.70"]
    assert [row[1].split()[0] for row in rows] == ["80.0", "50.0"]
    files.append_line(script.AGES_FILE, line | {"student": "ages, N = 2"})
    assert script.curve().rows[1][2] == ""  # the oldest frames have none before them


def small_world(script, monkeypatch, folder):
    """A world of 16 acts, one of whose wearers has an untrimmed recording with four, in pictures of 32 pixels."""
    small = {"train_acts": 8, "validation_acts": 0, "test_acts": 8, "train_wearers": 2, "validation_wearers": 0}
    small |= {"test_wearers": 2, "untrimmed": 1, "size": (32, 32)}
    monkeypatch.setattr(
        synthetic.Request,
        "long_recordings",
        lambda self: [synthetic.RenderedRecording("P30_201", 4, self.seed, 32, 32, untrimmed=True)],
    )
    monkeypatch.setattr(script.evidence, "PIXELS", 32)
    return synthetic.render(folder, workers=1, progress=False, **small)


def small_student(frames):
    settings = replace(PROTOCOLS["demo"].recipe.student, image_encoder="resnet10x4", hidden=8, imu_width=4)
    return replace(settings, num_frames=frames).build(20, feature_dim=8, frame_size=32).eval()


@pytest.mark.parametrize("make", [lambda: gates.Period(2.0), lambda: gates.Turned(0.4)], ids=["period", "turned"])
def test_a_stream_of_the_recording_takes_the_looks_of_the_table_and_says_the_same(script, monkeypatch, tmp_path, make):
    world = small_world(script, monkeypatch, tmp_path / "world")
    torch.manual_seed(0)
    model = small_student(1)
    (day,) = script.days(model, world, 9.0)
    segments = data.read_epic_kitchens(world.untrimmed, world.root, evaluation_wearers=world.test_wearers)
    motion = segments[0].recording.motion()
    pictures = data.read_frames(segments[0].video, day.stops, size=32).transpose(0, 2, 3, 1)
    at_zero = [
        np.array([np.interp(0.0, times, column) for column in values.T])
        for times, values in ((motion.accel_time, motion.accel), (motion.gyro_time, motion.gyro))
    ]
    answers, taken, waiting = [], [], list(range(len(day.stops)))
    options = {"every": script.EVERY, "frames": "newest", "precision": "fp32", "gate": make()}
    with egodistill.Stream(model, max_age=day.max_age, **options) as stream:
        stream.accept_imu([0.0], np.concatenate(at_zero)[None])  # so that its first clip begins where the table's does
        for times, readings in feeds.recorded_samples(motion, 0.02):
            stream.accept_imu(times[times > 0], readings[times > 0])
            answers += stream.results()
            if waiting and times[-1] >= day.stops[waiting[0]]:
                k = waiting.pop(0)
                if stream.wants_frame(day.stops[k]):
                    stream.accept_frame(day.stops[k], pictures[k])
                    taken.append(k)
    looks = gates.simulate(make(), day.windows, day.stops, day.stops, max_age=day.max_age)
    assert 3 < len(taken) < len(day.stops) / 2 and looks.taken == taken[: len(looks.taken)]
    probabilities, _ = script.looked(make(), day)
    assert len(answers) == len(day.stops) > 30
    for k, answer in enumerate(answers):
        assert answer.stop == pytest.approx(day.stops[k])
        if answer.problem is None:
            assert answer.frame_age == pytest.approx((day.stops[k] - day.stops[looks.used[k]],))
            assert answer.classes[0] == (
                str(probabilities[k].argmax()),
                pytest.approx(float(probabilities[k].max()), abs=1e-5),
            )
    assert sum(answer.problem is not None for answer in answers) <= 1


def test_recordings_and_ages_are_read_from_files(script, monkeypatch, tmp_path):
    """Untrained students on a small world: what is encoded once is what the student itself would say."""
    evidence = script.evidence
    world = small_world(script, monkeypatch, tmp_path / "world")
    segments = data.read_epic_kitchens(world.annotations, world.root, evaluation_wearers=world.test_wearers)
    store = tmp_path / evidence.slug(evidence.ANY_AGE) / "store"
    options = evidence.FRAME_OPTIONS[evidence.ANY_AGE] | {"frame_size": 32, "class_names": sorted(behaviour.VERBS)}
    data.prepare(segments, store, workers=1, progress=False, **options)
    torch.manual_seed(0)
    models = {n: small_student(n) for n in (1, 2)}
    monkeypatch.setattr(script, "load", lambda out, run: models[run.frames])
    (day,) = script.days(models[1], world, 4.0)
    assert day.scores.shape == (len(day.stops), 9, 20) and len(day.acts) == 4
    assert {day.truth[k] for k in np.flatnonzero(day.truth >= 0)} <= {label for *_, label in day.acts}
    k, a = len(day.stops) - 1, 3
    frame = torch.from_numpy(data.read_frames(segments[-1].video, [0.0], size=32))
    assert frame.shape[1:] == (3, 32, 32)
    video = next(world.root.rglob("P30_201.MP4"))
    frame = torch.from_numpy(data.read_frames(video, day.stops[[k - a]], size=32))
    with torch.no_grad():
        alone = models[1](frame[None], torch.from_numpy(day.windows[k])[None]).logits.softmax(1)[0]
    torch.testing.assert_close(torch.from_numpy(day.scores[k, a]), alone, atol=1e-5, rtol=1e-4)
    origin = {"commit": "c", "protocol": "p", "processor": "AMD EPYC 9R14 96-Core Processor"}
    monkeypatch.setattr(evidence, "origin_of_lines", lambda: origin)
    script.measure_ages(tmp_path, 0)
    lines = list(files.read_lines(script.AGES_FILE, "student", "age"))
    ages = [line["age"] for line in lines if line["student"] == "ages, N = 2"]
    assert all(origin.items() <= line.items() for line in lines) and evidence.machines(lines) == "AMD EPYC"
    assert len(lines) == 2 * 8 + 2 * 6 and np.allclose(ages, 0.25 + 0.5 * np.arange(6), atol=0.2)
    script.measure_ages(tmp_path, 0)
    assert len(list(files.read_lines(script.AGES_FILE, "student"))) == len(lines)  # not twice
    assert benches.Run("EgoDistill").name in script.students()["fixed, N = 1"].name
