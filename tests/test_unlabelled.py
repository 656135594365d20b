"""benchmarks/unlabelled.py: its blocks and measures, without a teacher."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import egodistill
from egodistill import CLIP_SECONDS

FOLDER = Path(egodistill.__file__).parent / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="no benchmarks beside the package: not a checkout")


@pytest.fixture
def unlabelled(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("unlabelled")
    sys.modules.pop("unlabelled", None)


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
