"""lab/unlabelled.py: its blocks and measures, without a teacher."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys

from egodistill import CLIP_SECONDS


@pytest.fixture
def unlabelled(fresh):
    return fresh("unlabelled")


def store_of(**lengths):
    clips = [
        {"video": video, "start": start}
        for video, length in lengths.items()
        for start in np.arange(0, length - CLIP_SECONDS + 0.01, 0.25)
    ]
    return SimpleNamespace(clips=clips)


def test_no_clip_to_learn_from_shares_a_second_with_the_block(unlabelled):
    store = store_of(a=10.0, b=5.0)
    blocks = unlabelled.blocks_of(store)
    assert sorted(set(blocks)) == list(range(6))  # clips of a start up to 7.75 s, of b up to 2.75 s
    for block in range(6):
        rows = np.flatnonzero(blocks == block)
        train = unlabelled.apart(store, rows)
        assert len(train) and not set(train) & set(rows)
        for one in rows:
            for other in train:
                same = store.clips[one]["video"] == store.clips[other]["video"]
                assert not same or abs(store.clips[one]["start"] - store.clips[other]["start"]) >= CLIP_SECONDS
    other_video = [row for row, clip in enumerate(store.clips) if clip["video"] == "b"]
    assert set(other_video) <= set(unlabelled.apart(store, np.flatnonzero(blocks == 0)))


def test_half_a_second_later_is_two_clips_on_and_never_another_recording(unlabelled):
    store = store_of(a=3.0, b=3.0)  # four clips each
    assert unlabelled.later(store).tolist() == [2, 3, -1, -1, 6, 7, -1, -1]


def test_measures(unlabelled):
    feature = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    mean = torch.tensor([1.0, 1.0])
    assert unlabelled.measures((feature, shares), (feature, shares), mean) == pytest.approx((1, 100, 0))
    said = (mean.expand(3, -1), shares[[0, 0, 2]])
    r2, same, kl = unlabelled.measures(said, (feature, shares), mean)
    wanted = float((shares[1] * (shares[1] / shares[0]).log()).sum() / 3)
    assert (r2, same, kl) == pytest.approx((0, 200 / 3, wanted))


def test_the_nearest_frame_is_one_of_the_training_clips(unlabelled):
    pixels = np.zeros((4, 1, 3, 2, 2), np.uint8)
    pixels[:, 0, 0, 0, 0] = [10, 200, 190, 12]
    store = type("Store", (), {"read": lambda self, name, rows: pixels, "__len__": lambda self: 4})()
    taught = torch.arange(4.0)[:, None], torch.eye(4)
    said = unlabelled.guesses(store, taught, np.array([1, 3]), np.array([0, 2]))
    assert said["nearest frame"][0].flatten().tolist() == [3, 1]
    assert said["training mean"][0].flatten().tolist() == [2, 2]
    assert said["training mean"][1][0].tolist() == [0, 0.5, 0, 0.5]


class Recorded(toys.Store):
    """Two recordings of a block each, with the outputs of a teacher that tells the four classes."""

    def __init__(self, rows=range(32)):
        super().__init__(clips=32)
        self.rows = np.arange(32)[rows]
        self.labels, self.segments = self.labels[self.rows], self.segments[self.rows]
        for name in ("feature", "logits"):
            self.arrays[f"i3d.{name}"] = self.arrays.pop(f"t.{name}")

    @property
    def clips(self):
        return [{"video": f"{row // 16}.mp4", "start": row % 16 * 0.125, "id": str(row)} for row in self.rows]

    def __len__(self):
        return len(self.rows)

    def read(self, name, index):
        return super().read(name, self.rows[index])

    def select(self, rows):
        return Recorded(self.rows[rows])


def test_students_learn_from_the_clips_apart_and_are_compared_on_the_block(unlabelled, monkeypatch):
    store, seen, right = Recorded(), [], []

    def students(store, train, images, epochs, seed):
        seen.append(train.tolist())
        return {"EgoDistill": True, "VisOnly-Distill": False}

    def answer(knows, store, rows):
        right.append(rows.tolist())
        feature, logits = (torch.from_numpy(store.read(f"i3d.{name}", rows)) for name in ("feature", "logits"))
        return (feature if knows else -feature), logits.softmax(1) if knows else logits.softmax(1).flip(1)

    with monkeypatch.context() as patch:
        patch.setattr(unlabelled, "students", students)
        patch.setattr(unlabelled, "answer", answer)
        found = unlabelled.compare(store, None, epochs=1, seeds=2)
    halves = [list(range(16)), list(range(16, 32))]
    assert seen == [halves[1], halves[1], halves[0], halves[0]] and right[0] == halves[0] and right[-1] == halves[1]
    assert {values.shape for values in found.values()} == {(2, 3)}
    r2, same, kl = (dict(zip(found, column, strict=True)) for column in np.stack([x.mean(0) for x in found.values()]).T)
    assert (r2["EgoDistill"], same["EgoDistill"]) == (1, 100) and kl["EgoDistill"] == pytest.approx(0, abs=1e-6)
    assert r2["VisOnly-Distill"] < 0 and same["VisOnly-Distill"] == 0 and kl["VisOnly-Distill"] > 1
    assert r2["training mean"] == pytest.approx(0, abs=1e-6) and same["training mean"] < 50
    assert same["teacher, 0.5 s later"] == 100  # classes repeat each four clips, which is 0.5 s here
    rows = unlabelled.table_of(found).rows
    assert [row[0] for row in rows] == list(found) and {row[-1] for row in rows} == {"2"}


def test_stage_1_is_part_of_the_student_with_head_motion(unlabelled, monkeypatch):
    stages, train = [], np.arange(8)
    for stage in (unlabelled.pretrain_imu, unlabelled.distill):

        def spy(model, store, _stage=stage, **options):
            stages.append((_stage.__name__, "imu" in model.inputs, len(store)))
            return _stage(model, store, **options)

        monkeypatch.setattr(unlabelled, stage.__name__, spy)
    found = unlabelled.students(Recorded(), train, None, epochs=1, seed=0)
    assert stages == [("pretrain_imu", True, 8), ("distill", True, 8), ("distill", False, 8)]
    for student in found.values():
        feature, shares = unlabelled.answer(student, Recorded(), np.array([3, 9]))
        assert feature.shape == (2, 12) and shares.sum(1).tolist() == pytest.approx([1, 1])


def test_intervals_stay_within_what_a_measure_can_be(unlabelled):
    far = np.array([[0.9, 0.0, 0.1], [1.0, 100.0, 3.0]])  # R2 is at most 1, a share 0 to 100 %, and KL at least 0
    (row,) = unlabelled.table_of({"x": far}).rows
    assert row[1].endswith(" to 1.00)") and row[2] == "50 (0 to 100)" and row[3].startswith("1.55 (0.00 to ")
