"""Evaluation, search, costs, prediction."""

import contextlib
import dataclasses
import itertools
import math
import os
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from heads import write_log
from painted import STEADY, break_packets, number_of, ramp, with_zeros, write_video
from torch import nn
from torch.nn import functional as F
from toys import CLASSES, FAST, QUIET, Store, small
from waiting import LIMIT

import egodistill
from egodistill import (
    EgoDistillError,
    Output,
    agreement,
    data,
    evaluate,
    finetune,
    imu,
    inference,
    measure,
    predict,
    retrieve,
)
from egodistill.engine import batches
from egodistill.engine.calibration import Calibration
from egodistill.recordings import checks, read_clip
from egodistill.recordings.recording import Recording
from egodistill.recordings.spec import ClipSpec, spec_of


def test_evaluation_averages_scores_over_the_clips_of_a_segment():
    class Fixed(nn.Module):
        """Scores are what the store's array says."""

        inputs, class_names = ("scores",), CLASSES

        def forward(self, scores):
            return Output(scores, scores.log())

    store = Store(5)
    store.labels = np.array([0, 0, 1, 1, 1])
    store.segments = np.array([7, 7, 3, 3, 3])  # any numbers, in any order
    store.wearers = ["P02", "P02", None, None, None]
    scores = [[0.9, 0.0999, 0.0001, 0], [0.001, 0.3, 0.699, 0], [0.55, 0.45, 0, 0], [0.6, 0.4, 0, 0], [0.0, 0.0, 1, 0]]
    store.arrays["scores"] = np.array(scores, dtype=np.float32) + 1e-9
    store.arrays["t.feature"] = store.arrays["scores"] + 0.25
    result = evaluate(Fixed(), store, teacher="t", **QUIET)
    # Segment 7: mean scores (0.45, 0.2, 0.35), class 0, right; mean logits would say class 1.
    # Segment 3: mean scores (0.383, 0.283, 0.333), class 0, wrong.
    assert result.top1 == 0.5 and result.per_class == {"close": 1.0, "open": 0.0}
    assert result.confusion.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert result.scores.shape == (2, 4) and result.clips == 5
    assert result.feature_distance == pytest.approx(0.25, abs=1e-5)
    assert result.correct.tolist() == [False, True] and result.wearers == ["", "P02"]  # segments 3 and 7
    for wearers in (np.array(["a", "a", "b", "b", "b"]), ["a", "a", "b", "b", "b"]):
        store.wearers = wearers
        assert evaluate(Fixed(), store, **QUIET).wearers == ["b", "a"]
    for other in (None, 3, "five!", {"P02": 5}, ["too", "few"]):  # a stranger's own attribute
        store.wearers = other
        assert evaluate(Fixed(), store, **QUIET).wearers == ["", ""]
    del store.wearers
    assert evaluate(Fixed(), store, **QUIET).wearers == ["", ""]


def log_softmax(x):
    return x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)


def test_threads_share_a_model_in_training_mode():
    """Each has the answers that one alone has: no dropout, and no moment between two modes."""
    model, store = small().train(), Store(12)
    wanted = evaluate(model, store, batch_size=2, **QUIET).scores
    found = [[] for _ in range(4)]

    def work(mine):
        for _ in range(5):
            mine.append(evaluate(model, store, batch_size=2, **QUIET).scores)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        all(torch.equal(scores, wanted) for mine in found for scores in mine)
        and [len(mine) for mine in found] == [5] * 4
    )
    assert model.training


def test_agreement_with_a_teacher():
    class Fixed(nn.Module):
        inputs, class_names = ("own.feature", "own.logits"), [*"abcdefg"]

        def forward(self, feature, logits):
            return Output(feature, logits)

    rng, store, train = np.random.default_rng(3), Store(50), Store(30)
    store.class_names, store.labels = [], np.full(50, -1)
    for one, count in ((store, 50), (train, 30)):
        for name, width in (("feature", 12), ("logits", 7)):
            one.arrays[f"t.{name}"] = rng.normal(1.0, 2.0, (count, width)).astype(np.float32)
            one.arrays[f"own.{name}"] = one.arrays[f"t.{name}"] + rng.normal(0, 2.0, (count, width)).astype(np.float32)
    teacher, own = (store.arrays[f"{name}.logits"].astype(np.float64) for name in ("t", "own"))
    best = np.argsort(-own, axis=1)
    kl = (np.exp(log_softmax(teacher)) * (log_softmax(teacher) - log_softmax(own))).sum(1).mean()
    features = [store.arrays[f"{name}.feature"].astype(np.float64) for name in ("t", "own")]
    mean = train.arrays["t.feature"].astype(np.float64).mean(0)
    r2 = 1 - ((features[1] - features[0]) ** 2).sum() / ((mean - features[0]) ** 2).sum()
    for batch_size in (50, 7):
        found = agreement(Fixed(), store, teacher="t", train=train, batch_size=batch_size, **QUIET)
        assert found.top1 == (best[:, 0] == teacher.argmax(1)).mean() and 0.2 < found.top1 < 0.8
        assert found.top5 == (best[:, :5] == teacher.argmax(1)[:, None]).any(1).mean() and found.top5 < 1
        assert (found.kl, found.r2) == (pytest.approx(kl), pytest.approx(r2)) and found.clips == 50
    text = str(found)
    assert text.startswith("agreement with the teacher: top-1 ") and f"R2 of the feature {r2:.3f} (50 clips" in text
    assert "accuracy" not in text
    alone = agreement(Fixed(), store, teacher="t", **QUIET)
    assert alone.r2 is None and "R2" not in str(alone) and alone.kl == found.kl
    store.arrays["own.feature"][:] = mean
    assert agreement(Fixed(), store, teacher="t", train=train, **QUIET).r2 == pytest.approx(0, abs=1e-5)
    store.arrays |= {f"own.{name}": store.arrays[f"t.{name}"] for name in ("feature", "logits")}
    same = agreement(Fixed(), store, teacher="t", train=train, **QUIET)
    assert (same.top1, same.top5, same.r2) == (1, 1, 1) and same.kl == pytest.approx(0, abs=1e-6)
    store.arrays["t.logits"] = np.zeros((50, 4), np.float32)
    with pytest.raises(EgoDistillError, match="the model has 7 classes, but the teacher 't' has 4"):
        agreement(Fixed(), store, teacher="t", **QUIET)
    with pytest.raises(EgoDistillError, match=r"no array 'other\.feature'"):
        agreement(Fixed(), store, teacher="other", **QUIET)
    with pytest.raises(EgoDistillError, match="no clips to compare"):
        agreement(Fixed(), Store(0), teacher="t", **QUIET)


class Mirror(nn.Module):
    """The feature of a clip is what is given."""

    inputs, class_names = ("place",), CLASSES

    def forward(self, place):
        return Output(place, torch.zeros(len(place), 4))


def mirrored(places):
    store = Store(len(places))
    store.arrays["place"] = np.array(places, dtype=np.float32)
    return store


def test_retrieval_finds_the_nearest_clips_by_the_metric_asked_for():
    store = mirrored([[10.0, 0.0], [0.0, 1.0], [0.6, 0.6]])
    query = torch.tensor([[1.0, 0.1], [0.1, 2.0]])
    found = retrieve(Mirror(), store, query, top=2, **QUIET)
    assert found.rows.tolist() == [[0, 2], [1, 2]]  # By direction; lengths say nothing.
    assert found.distance[0, 0] == pytest.approx(1 - 1 / math.hypot(1, 0.1), abs=1e-6)
    found = retrieve(Mirror(), store, query.numpy(), top=3, metric="l1", **QUIET)
    assert found.rows.tolist() == [[2, 1, 0], [1, 2, 0]]
    assert found.distance[0].tolist() == pytest.approx([0.45, 0.95, 4.55], abs=1e-6)
    with pytest.raises(EgoDistillError, match="'cosine' or 'l1'"):
        retrieve(Mirror(), store, query, metric="l2", **QUIET)


def test_retrieval_from_what_a_teacher_saw():
    store = mirrored([[1.0, 0.0], [0.0, 1.0]])
    store.arrays["t.feature"] = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)  # the other way round
    query = torch.tensor([[1.0, 0.0]] * 3)
    found = retrieve(Mirror(), store, query, teacher="t", top=1, batch_size=2, **QUIET)
    assert found.rows.tolist() == [[1]] * 3
    store.arrays["t.feature"] = np.zeros((2, 5), dtype=np.float32)
    for options, words in (
        ({"teacher": "t"}, "size 2, but .* teacher 't' has the size 5"),
        ({"teacher": "u"}, "extract"),
        ({}, "from 1 to 2, .*got 5"),
    ):
        with pytest.raises(EgoDistillError, match=words):
            retrieve(Mirror(), store, query, top=1 if options else 5, **options, **QUIET)
    with pytest.raises(EgoDistillError, match="reads place; got 2 inputs"):
        retrieve(Mirror(), store, query, query, top=1, **QUIET)


def test_one_frame_with_other_head_motion_finds_other_clips():
    """Figure 6: the student with head motion answers by the motion, that of frames alone gives one answer."""
    store = Store(32)
    both, frames = small(), small(imu_encoder=None)
    finetune(both, store, **FAST)
    frame = torch.from_numpy(store.read("frames_1", [0])).expand(2, -1, -1, -1, -1)
    imu = torch.from_numpy(store.read("imu", [0, 1]))
    both.train()  # Dropout would make the answer one of chance.
    found = retrieve(both, store, frame, imu, top=1, **QUIET)
    assert found.rows[0] == 0 and found.distance[0] == pytest.approx(0, abs=1e-5) and both.training
    assert store.labels[found.rows[1]] == store.labels[1]
    alone = retrieve(frames, store, frame, top=3, **QUIET).rows
    assert alone[0].tolist() == alone[1].tolist()


def test_measure():
    cost = measure(small(), batch_size=2, repeats=2, device="cpu")
    assert cost.params == sum(p.numel() for p in small().parameters())
    assert cost.ms_per_clip > 0 and cost.device == "cpu"
    linear = nn.Linear(6, 5)
    linear.inputs, linear.imu_samples = ("imu",), 2
    for precision in ("fp32", "bf16"):  # A model that gives one tensor will do.
        cost = measure(linear, batch_size=1, repeats=1, device="cpu", precision=precision)
        assert cost.gmacs == pytest.approx(60e-9)
        assert 1e-5 < cost.feature_error < 0.01 if precision == "bf16" else cost.feature_error == 0


@pytest.mark.parametrize("built_inside", [False, True])
def test_operations_are_counted_in_inference_mode(built_inside):
    """torch 2.4 sees no operation there and counts 0."""
    torch.manual_seed(0)
    model, cpu = small(), torch.device("cpu")
    wanted = inference.count_macs(model, cpu)
    assert wanted > 1e6
    with torch.inference_mode():
        model = small() if built_inside else model
        assert inference.count_macs(model, cpu) == wanted
        assert measure(model, batch_size=1, repeats=1, device="cpu", precision="fp32").gmacs == wanted / 1e9
        assert torch.is_inference_mode_enabled()


@torch.library.custom_op("egodistill_tests::hidden_linear", mutates_args=())
def hidden_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.T


def test_a_count_of_zero_is_an_error():
    """Operations that the counter cannot see are not free. A model without weights has none."""

    class Hidden(nn.Linear):
        inputs = ("imu",)

        def forward(self, x):
            return hidden_linear(x, self.weight)

    class Mean(nn.Module):
        inputs = ("imu",)

        def forward(self, x):
            return x.mean(1, keepdim=True)

    model, cpu = Hidden(6, 2).train(), torch.device("cpu")
    with pytest.raises(EgoDistillError, match=r"Hidden has weights.* no multiply-adds .*custom operators"):
        inference.count_macs(model, cpu)
    assert model.training and inference.count_macs(Mean(), cpu) == 0
    linear = nn.Linear(6, 2)
    linear.inputs, linear.precision = ("imu",), "fp32"  # like that of an exported file, but its weights can be seen
    assert inference.count_macs(linear, cpu) == 422 * 6 * 2


def test_measure_keeps_to_its_time():
    """The model is run once to count, then to warm up and for the clock."""

    class Slow(nn.Linear):
        runs, inputs = 0, ("imu",)

        def forward(self, x):
            self.runs += 1
            time.sleep(0.02)
            return super().forward(x)

    for options, runs, repeats in (
        ({"repeats": 4}, 1 + 2 + 4, 4),
        ({"repeats": 4, "seconds": 60}, 1 + 2 + 4, 4),
        ({"repeats": 4, "seconds": 0.001}, 1 + 2, 2),
        ({"repeats": 1, "seconds": 0.001}, 1 + 1, 1),
    ):
        model = Slow(6, 3)
        cost = measure(model, batch_size=2, device="cpu", precision="fp32", **options)
        assert (model.runs, cost.repeats) == (runs, repeats), options
        assert cost.ms_per_clip >= 9.9
    cost = measure(Slow(6, 3), batch_size=1, device="cpu", precision="fp32", repeats=99, seconds=0.2)
    assert 2 <= cost.repeats <= 10
    with pytest.raises(EgoDistillError, match=r"batch_size=0 .* and repeats=10 .* must be at least 1"):
        measure(small(), batch_size=0)


def test_agreement_with_fp32():
    exact = Output(torch.tensor([[1.0, -4.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    fast = Output(torch.tensor([[1.0, -3.0], [2.5, 0.0]]), torch.tensor([[0.0, 9.0], [0.0, 1.0]]))
    assert inference.output_error(fast, exact) == {"same_top1": 0.5, "feature_error": 0.25}
    cost = measure(small(), batch_size=4, repeats=1, device="cpu", precision="fp32")
    assert (cost.precision, cost.same_top1, cost.feature_error) == ("fp32", 1.0, 0.0)
    cost = measure(small(), batch_size=4, repeats=1, device="cpu", precision="bf16")
    assert cost.precision == "bf16" and 0 < cost.feature_error < 0.05


def test_attention_is_counted_on_a_cpu():
    """Two products of 6 x 5 scores with 4 channels, in 3 heads: torch's counter itself says nothing there."""

    class Attention(torch.nn.Module):
        inputs, imu_samples = ("imu",), 6

        def forward(self, imu):
            q = imu[:, None, :, :4].expand(-1, 3, -1, -1)
            return torch.nn.functional.scaled_dot_product_attention(q, q[:, :, :5], q[:, :, :5])

    for device in ("cpu", "meta"):
        assert inference.count_macs(Attention(), torch.device(device)) == 2 * 3 * 6 * 5 * 4


def test_predict_on_a_real_recording(sample_data):
    """The GoPro walk: clips one after another, head motion out of the MP4 itself."""
    model = small(class_names=CLASSES)
    video = sample_data / "gopro" / "max-heromode.mp4"
    exactly = {"precision": "fp32", "device": "cpu"}
    rows = list(predict(model, video, batch_size=2, **exactly))
    assert [round(row.start, 3) for row in rows] == [0.0, 2.133, 4.267, 6.4, 8.377]  # to the end
    assert all(row.stop - row.start == pytest.approx(64 / 30) for row in rows)
    for row in rows:
        assert row.problem is None and len(row.classes) == 4
        assert sum(score for _, score in row.classes) == pytest.approx(1, abs=1e-4)
        assert [s for _, s in row.classes] == sorted((s for _, s in row.classes), reverse=True)
    again = list(predict(model, video, batch_size=16, **exactly))
    for a, b in zip(rows, again, strict=True):
        assert dict(a.classes) == pytest.approx(dict(b.classes), abs=1e-4)
    cheap = next(predict(model, video, exact=False, **exactly))
    frames = torch.from_numpy(data.read_frames(video, [32 / 30], size=model.frame_size, exact=False))[None]
    window = torch.from_numpy(data.read_imu(video).window(0.0))[None]
    assert model.training  # the mode that it was in
    scores = model.eval()(frames, window).logits.softmax(1)[0].tolist()
    assert dict(cheap.classes) == pytest.approx(dict(zip(CLASSES, scores, strict=True)), abs=2e-6)
    assert dict(cheap.classes) != pytest.approx(dict(rows[0].classes), abs=5e-6)


def test_predict_takes_the_frames_that_the_student_or_the_caller_chooses(kitchen):
    walk = kitchen[0].recording
    model = Seen(clip_seconds=64 / 30, tolerance=0.3)
    ways = [
        ({}, {"tolerance": 0.3}),
        ({"tolerance": 0.1}, {"tolerance": 0.1}),
        ({"tolerance": 0.0}, {}),
        ({"exact": True}, {}),
        ({"exact": False}, {"exact": False}),
    ]
    for given, expected in ways:
        model.shown.clear()
        rows = list(predict(model, walk, device="cpu", **given))
        spec = dataclasses.replace(spec_of(model), **{"exact": True, "tolerance": 0.0} | expected)
        wanted = [read_clip(walk, row.start, spec)["frames"] for row in rows]
        np.testing.assert_array_equal(model.frames, wanted)
    keys = Seen(clip_seconds=64 / 30, exact=False)
    list(predict(keys, walk, device="cpu", tolerance=0.3))
    model.shown.clear()
    list(predict(model, walk, device="cpu"))
    np.testing.assert_array_equal(keys.frames, model.frames)
    with pytest.raises(EgoDistillError, match="tolerance"):
        predict(model, walk, tolerance=0.3, exact=False)


@pytest.mark.parametrize("name", ["evaluate", "retrieve", "measure", "predict", "predict, left early"])
def test_the_model_is_left_as_it_was(name, sample_data):
    """Each layer in its mode: those that a caller froze, too."""
    model, store = small(class_names=CLASSES), Store(8)
    model.train()
    model.image_encoder.eval()
    model.imu_encoder.cnn[2].eval()
    modes = [layer.training for layer in model.modules()]
    options = {"device": "cpu"}
    if name == "evaluate":
        evaluate(model, store, progress=False, **options)
    elif name == "retrieve":
        retrieve(model, store, *batches.example_inputs(model, 1), progress=False, **options)
    elif name == "measure":
        measure(model, batch_size=2, repeats=1, **options)
    else:
        rows = predict(model, sample_data / "gopro" / "max-heromode.mp4", batch_size=1, **options)
        assert next(rows).classes
        rows.close() if "early" in name else list(rows)
    assert [layer.training for layer in model.modules()] == modes


def test_predict_reads_the_next_clips_while_the_model_works(monkeypatch):
    """Not more than one group ahead, so that memory does not grow; and each clip gets its own frames."""
    begun = [threading.Event() for _ in range(6)]
    reads, runs, priorities = [], [], set()

    def decode_clips(recording, starts, specs, **limits):
        for row, start in starts.items():
            if row % 2 == 0:
                if sys.platform == "linux":
                    priorities.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
                begun[len(reads)].set()
                reads.append(row)
            times = specs["frames"].times(start)
            yield row, {"frames": np.stack([np.full((3, 4, 4), round(10 * time), np.uint8) for time in times])}

    class Eyes(nn.Module):
        inputs, num_frames, num_classes, frame_size, clip_seconds, class_names = ("frames",), 1, 2, 4, 2.0, None

        def forward(self, frames):
            assert len(reads) <= len(runs) + 2  # these, and the next
            runs.append(len(frames))
            assert len(runs) == 5 or begun[len(runs)].wait(LIMIT)  # the next ones are being read by now
            seen = frames[:, 0, 0, 0, 0].float()
            return Output(seen[:, None], torch.stack([seen, 0 * seen], 1) / 100)

    monkeypatch.setattr(Recording, "probe", lambda self: data.VideoInfo(20.0, 30.0, 8, 8))
    monkeypatch.setattr(inference, "decode_clips", decode_clips)
    monkeypatch.setattr(inference.ClipReader, "groups", lambda self, size: [[[k, k + 1]] for k in range(0, 10, size)])
    rows = list(predict(Eyes(), "walk.mp4", batch_size=2, device="cpu"))
    assert [row.start for row in rows] == [2.0 * k for k in range(10)] and runs == 5 * [2]
    for row in rows:  # the middle of the clip, in tenths of a second
        score = torch.tensor([10 * (row.start + 1.0) / 100, 0.0]).softmax(0)[0]
        assert row.classes[0] == ("0", pytest.approx(float(score)))
    if sys.platform == "linux":  # What reads gives way to the model.
        assert priorities == {os.getpriority(os.PRIO_PROCESS, 0) + 5}


def test_cores_share_a_group_and_no_frame_is_decoded_twice(steady, monkeypatch):
    """Between two parts there is a key frame."""
    with av.open(str(steady)) as container:
        keys = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.pts is not None and p.is_keyframe]
    starts = np.arange(0, 3.8, 0.2).tolist()
    spec = ClipSpec(frames=2, size=40)
    results = []
    for cores in (1, 3):
        monkeypatch.setattr(inference.files, "available_cores", lambda cores=cores: cores)
        reader = inference.ClipReader(Recording(steady), {"frames": spec}, starts)
        groups = reader.groups(8)
        assert [row for group in groups for part in group for row in part] == list(range(19))
        assert [sum(map(len, group)) for group in groups] == [8, 8, 3]
        results.append([reader.read(group)[1][0].inputs["frames"] for group in groups])
    assert max(map(len, groups)) > 1
    for group in groups:
        for before, after in itertools.pairwise(group):
            assert any(starts[before[-1]] < key <= starts[after[0]] for key in keys)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("how", [{}, {"exact": False}, {"tolerance": 0.25}])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_recording_is_opened_once_for_each_decoder(name, how, tmp_path, monkeypatch):
    """Only a transport stream, which has no index, is opened for each part; the answers are those of one by one."""
    video = write_video(tmp_path / name, STEADY, bf=2, g=20, crf=10)
    model, opened = small(imu_encoder=None, num_frames=2), []
    open_media = av.open

    def counted(*given, **options):
        opened.append(open_media(*given, **options))
        return opened[-1]

    wanted = list(predict(model, video, device="cpu", precision="fp32", stride=0.5, batch_size=99, **how))
    monkeypatch.setattr(inference.files, "available_cores", lambda: 2)
    monkeypatch.setattr(av, "open", counted)
    found = list(predict(model, video, device="cpu", precision="fp32", stride=0.5, batch_size=2, **how))
    assert [row.start for row in found] == [row.start for row in wanted] and not any(row.problem for row in found)
    for row, one in zip(found, wanted, strict=True):
        assert dict(row.classes) == pytest.approx(dict(one.classes), abs=1e-6)
    assert len(opened) > 6 if name == "a.ts" else len(opened) <= 5  # the header, the parts, and two decoders or one


@pytest.mark.parametrize("error", [KeyboardInterrupt, data.VideoError, None])
def test_predict_closes_what_it_opened(error, tmp_path, monkeypatch):
    """Also if the model or a decoder fails, or the caller stops early."""
    video = write_video(tmp_path / "a.mp4", STEADY, bf=0, g=5, crf=10)

    class Model(nn.Module):
        inputs, num_frames, frame_size, calls = ("frames",), 2, 16, 0

        def forward(self, frames):
            self.calls += 1
            if self.calls == 2 and error is KeyboardInterrupt:
                raise error
            return torch.zeros(len(frames), 2), torch.zeros(len(frames), 3)

    def broken(self, *given, **options):
        if error is data.VideoError and self.calls > 1:
            raise error("broken")
        self.calls += 1
        return decode(self, *given, **options)

    decode = inference.ClipReader.decode
    monkeypatch.setattr(inference.ClipReader, "calls", 0, raising=False)
    monkeypatch.setattr(inference.ClipReader, "decode", broken)
    rows = predict(Model(), video, device="cpu", stride=0.5, batch_size=2)
    next(rows)
    assert str(video) in open_files()
    if error is None:
        rows.close()
    else:
        with pytest.raises(error) as caught:
            list(rows)
        assert caught.tb  # it keeps alive what the frames of the calls hold
    assert str(video) not in open_files()


def open_files():
    """The files that this process has open."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return found


class Seen(nn.Module):
    """Keeps what it is shown."""

    inputs, class_names, num_classes, num_frames, frame_size = ("frames", "imu"), CLASSES, 4, 2, 40

    def __init__(self, **clip):
        super().__init__()
        self.shown = []
        for name, value in clip.items():
            setattr(self, name, value)

    def forward(self, frames, imu):
        self.shown.append((frames.numpy().copy(), imu.numpy().copy()))
        return Output(imu[:, 0], torch.zeros(len(imu), 4))

    @property
    def frames(self):
        return np.concatenate([frames for frames, _ in self.shown])

    @property
    def imu(self):
        return np.concatenate([imu for _, imu in self.shown])


CLOCK = {"imu_offset": 0.2, "imu_stretch": 1.001}


@pytest.mark.parametrize("how", [{}, {"sampling": "last"}, {"exact": False}, {"tolerance": 0.25}])
def test_prepared_predicted_and_checked_alike(kitchen, tmp_path, monkeypatch, how):
    """A recording whose IMU is 0.2 s off: on every road the same offset gives the same windows, to the bit."""
    walk = dataclasses.replace(kitchen[0].recording, **CLOCK)
    starts = [0.4, 2.0, 3.1]
    segments = [data.Segment(f"s{t}", walk.video, t, t + 64 / 30, "x", walk.imu, **CLOCK) for t in starts]
    store = data.prepare(segments, tmp_path / "s", num_frames=2, frame_size=40, workers=1, progress=False, **how)
    name = "frames_2_last" if "sampling" in how else "frames_2"
    kept = [store.read(array, slice(None)) for array in (name, "imu")]
    model = Seen(clip_seconds=64 / 30, **how)
    for row, start in enumerate(store.select([0, 1, 2]).clips):
        clip = read_clip(walk, start["start"], spec_of(model))
        np.testing.assert_array_equal(clip["frames"], kept[0][row])
        np.testing.assert_array_equal(clip["imu"], kept[1][row])
    monkeypatch.setattr(inference, "strided_starts", lambda *_: [clip["start"] for clip in store.clips])
    for given in ((walk.video, walk.imu, CLOCK), (walk, None, {})):
        model.shown.clear()
        rows = list(predict(model, *given[:2], **given[2], device="cpu"))
        assert [row.problem for row in rows] == [None] * 3
        np.testing.assert_array_equal(model.frames, kept[0])
        np.testing.assert_array_equal(model.imu, kept[1])
    motions = []
    inside = imu.Imu.inside
    monkeypatch.setattr(imu.Imu, "inside", lambda self, duration: (motions.append(self), inside(self, duration))[1])
    for given in ((walk.video, walk.imu, CLOCK), (walk, None, {})):
        checks.check(*given[:2], **given[2], offset=False)
        np.testing.assert_array_equal(motions.pop().window(store.clips[1]["start"]), kept[1][1])
    monkeypatch.undo()
    model.shown.clear()
    late = list(predict(model, walk.video, walk.imu, device="cpu"))  # without the clock it sees something else
    assert len(late) == 3 and not any((window == kept[1][0]).all() for window in model.imu)


def test_predict_shows_what_was_painted_and_measured(kitchen):
    """The numbers and ramps that the files were made of: no function of the library says what to expect."""
    walk, model = kitchen[3].recording, Seen(clip_seconds=64 / 30, sampling="last")
    options = {"imu_offset": 0.3, "imu_stretch": 1.02, "stride": 1.3, "batch_size": 3, "device": "cpu"}
    rows = list(predict(model, walk.video, walk.imu, **options))
    starts = [row.start for row in rows]
    assert starts == pytest.approx([0.0, 1.3, 2.6, 6 - 64 / 30], abs=0.01) and not any(row.problem for row in rows)
    for start, frames, window in zip(starts, model.frames, model.imu, strict=True):
        asked = [start + 62.5 / 30, start + 63.5 / 30]
        assert [number_of(picture) for picture in frames] == [int(25 * moment) for moment in asked]
        stamps = (start + np.arange(422) / 198 - 0.3) / 1.02
        np.testing.assert_allclose(window[:, :3], ramp(stamps, 2, 9.8), atol=1e-4)
        np.testing.assert_allclose(window[:, 3:], ramp(stamps, -2), atol=1e-4)


@pytest.mark.parametrize("sensor", ["accelerometer", "gyroscope"])
def test_a_sensor_that_ends_before_the_video_costs_the_clips_behind_its_end(kitchen, tmp_path, sensor):
    """The other one goes on. It is the same for predict() and prepare(), and check() says which one."""
    walk, place = kitchen[0], ["accelerometer", "gyroscope"].index(sensor)
    header, *lines = Path(walk.imu[place]).read_text().splitlines()
    cut = tmp_path / "cut.csv"
    cut.write_text("\n".join([header, *(line for line in lines if float(line.split(",")[0]) <= 4000)]) + "\n")
    pair = tuple(str(cut) if k == place else path for k, path in enumerate(walk.imu))
    rows = list(predict(Seen(clip_seconds=64 / 30), walk.video, pair, stride=0.25, device="cpu"))
    for row in rows:
        lost = row.start + 0.95 * 64 / 30 > 4
        assert (f"the {sensor} covers" in row.problem) if lost else row.problem is None
    segments = [data.Segment(f"{row.start}", walk.video, row.start, row.stop, "x", pair) for row in rows]
    with pytest.warns(UserWarning, match=f"could not be prepared; .*the {sensor} covers"):
        store = data.prepare(segments, tmp_path / "s", max_bad=1.0, frame_size=16, workers=1, progress=False)
    wanted = [row.start for row in rows if row.problem is None]
    assert [clip["start"] for clip in store.clips] == pytest.approx(wanted)
    assert all(f"the {sensor} covers" in failure["reason"] for failure in store.failures)
    found = checks.check(walk.video, pair, offset=False)
    coverage = [found.accel.coverage, found.gyro.coverage]
    assert coverage[place] == pytest.approx(4 / 6, abs=0.01) and coverage[1 - place] == pytest.approx(1.0, abs=0.01)
    assert any(note.startswith(f"{sensor}: covers 66.") for note in found.notes)


def test_predict_takes_the_limits_of_prepare(kitchen, tmp_path):
    table = tmp_path / "imu.csv"
    stamps = [t for t in np.arange(0, 6, 1 / 200) if not 0.5 < t < 0.8]
    table.write_text("time,ax,ay,az,gx,gy,gz\n" + "".join(f"{t:.4f},,,,1,2,3\n" for t in stamps))
    model = Seen(clip_seconds=64 / 30)
    with pytest.raises(data.IMUError, match="zero_accel"):
        predict(model, kitchen[0].video, table)
    options = {"zero_accel": True, "device": "cpu"}
    assert ["covers" in (row.problem or "") for row in predict(model, kitchen[0].video, table, **options)] == [
        True,
        False,
        False,
    ]
    for limit in ({"min_coverage": 0.8}, {"max_gap": 0.4}):
        rows = list(predict(model, kitchen[0].video, table, **limit, **options))
        assert [row.problem for row in rows] == [None, None, None]
    assert not model.imu[..., :3].any()


def test_predict_reads_the_clips_of_a_teacher(store):
    class Teacher(nn.Module):
        inputs, clip_spec = ("imu", "clip"), ClipSpec(frames=3, size=24, crop=True, imu_samples=422)

        def forward(self, imu, clip):
            scores = torch.cat([clip.float().mean((1, 2, 3, 4))[:, None] / 100, imu.mean(1)[:, :2] / 100], 1)
            return Output(scores, scores)

    teacher, first = Teacher(), store.clips[0]
    teacher.class_names = store.class_names
    video = next(one for one in store._files.segments if one.id == first["id"]).recording
    found = next(predict(teacher, video, device="cpu", precision="fp32"))
    row = next(k for k, clip in enumerate(store.clips) if clip["start"] == found.start == 0.0)
    (output, _), *_ = inference.outputs(teacher, store.select([row]), batch_size=1, device="cpu", progress=False)
    assert dict(found.classes) == pytest.approx(
        dict(zip(store.class_names, output.logits.softmax(1)[0].tolist(), strict=True))
    )


@pytest.mark.parametrize(
    ("inputs", "word"), [(("imu", "gaze"), "'gaze', which only a store has"), (("clip",), "'clip'")]
)
def test_predict_refuses_inputs_that_no_recording_has(kitchen, inputs, word):
    model = nn.Linear(1, 1)
    model.inputs = inputs
    with pytest.raises(EgoDistillError, match=f"Linear reads {word}"):
        predict(model, kitchen[0].recording)


def test_predict_needs_no_class_names(kitchen):
    """Of a model of one's own, which returns a plain pair."""

    class Plain(nn.Module):
        inputs, frame_size = ("frames",), 16

        def forward(self, frames):
            return torch.zeros(len(frames), 2), torch.zeros(len(frames), 3)

    rows = list(predict(Plain(), kitchen[0].video, device="cpu", top=3))
    assert sorted(name for name, _ in rows[0].classes) == ["0", "1", "2"]


def test_evaluation_beside_features_of_another_size_says_so():
    with pytest.raises(EgoDistillError, match="size 7, but that of the teacher 't' has the size 12; leave out"):
        evaluate(small(feature_dim=7), Store(4), teacher="t", **QUIET)


def test_predict_names_a_frame_that_is_lost_in_its_clip(tmp_path):
    source = write_video(tmp_path / "a.mp4", STEADY, bf=0, g=1, crf=10)
    video = break_packets(source, tmp_path / "b.mp4", set(range(70, 100)))
    rows = list(predict(small(imu_encoder=None), video, device="cpu"))
    assert [bool(row.classes) for row in rows] == [True, False, True] and "no frame at 3" in rows[1].problem


def test_predict_and_prepare_leave_out_what_is_damaged_and_say_when(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (150, 64, 96, 3), dtype=np.uint8)
    options = {"x264_params": "keyint=25:min-keyint=25:scenecut=0:bframes=0", "crf": 10}
    source = write_video(tmp_path / "a.mp4", STEADY, pictures=noise, **options)
    video = with_zeros(source, tmp_path / "b.mp4", 78, 500, 800)
    said = "b.mp4: no frame at 3.200 s: its data are damaged from 3.120 s to the next key frame"
    rows, sound = (list(predict(small(imu_encoder=None), one, device="cpu")) for one in (video, source))
    assert said in rows[1].problem and rows[::2] == sound[::2] and not any(row.problem for row in sound)
    segments = [data.Segment(str(k), video, row.start, row.stop, "x") for k, row in enumerate(rows)]
    with pytest.warns(UserWarning, match="1 of 3 clips"):
        store = data.prepare(segments, tmp_path / "s", imu=False, ends=False, frame_size=16, max_bad=0.5, workers=1)
    assert said in store.failures[0]["reason"] and store.segments.tolist() == [0, 2]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", ["hole.mp4", "hole.mkv", "hole.ts"])
def test_predict_classifies_nothing_in_a_hole_of_the_recording(name, exact, tmp_path):
    times = np.concatenate([np.arange(125), np.arange(625, 750)]) / 25  # none from 5 s to 25 s
    video = write_video(tmp_path / name, times, bf=2, g=10, crf=10)
    model = small(imu_encoder=None)
    rows = list(predict(model, video, device="cpu", exact=exact))
    middles = [(row.start + row.stop) / 2 for row in rows]
    assert len(rows) in (15, 16)  # a transport stream does not count the last frame
    assert [bool(row.problem) for row in rows] == [5.96 < middle < 25 for middle in middles]
    assert all("none begins between 4.960 and 25.000 s" in row.problem for row in rows if row.problem)
    patient = list(predict(model, video, device="cpu", exact=exact, max_hold=21))
    assert not any(row.problem for row in patient)


def test_predict_says_where_head_motion_is_missing(sample_data, tmp_path):
    table = (sample_data / "gopro-derived" / "walk_imu.csv").read_text().splitlines()
    kept = [line for k, line in enumerate(table) if k == 0 or not 2000 < float(line.split(",")[2]) < 4000]
    (tmp_path / "imu.csv").write_text("\n".join(kept) + "\n")
    rows = list(predict(small(), sample_data / "gopro-derived" / "walk_vp9_30fps.mp4", tmp_path / "imu.csv"))
    assert [bool(row.classes) for row in rows] == [False, False, True, True, True]
    assert "covers" in rows[0].problem


def test_a_student_of_optional_inputs_classifies_a_clip_from_what_it_has(tmp_path):
    """As `without()` the other input, with its temperature, and never silently."""
    shown = np.concatenate([np.arange(75), np.arange(163, 300)]) / 25  # none from 3 s to 6.5 s
    video, table = write_video(tmp_path / "walk.mp4", shown, g=10), write_log(tmp_path / "walk.csv", seconds=12.0)
    lines = table.read_text().splitlines(keepends=True)
    times = [line.split(",")[0] for line in lines]
    table.write_text("".join(one for k, one in enumerate(lines) if k == 0 or not 5.9 <= float(times[k]) < 8.1))
    model = small(optional_inputs=True, class_names=CLASSES).eval()
    torch.nn.init.normal_(model.no_frames)
    torch.nn.init.normal_(model.no_imu)
    model.calibration = Calibration(2.0, 100, None, {"frames": 4.0, "imu": 0.5})
    options = {"stride": 0.25, "device": "cpu", "precision": "fp32", "batch_size": 8}
    found = list(predict(model, video, table, **options))
    alone = {name: list(predict(model.without(name), video, table, **options)) for name in ("frames", "imu")}
    model.optional_inputs = False  # it needs both
    whole = list(predict(model, video, table, **options))
    kinds = set()
    for k, one in enumerate(found):
        middle = (one.start + one.stop) / 2
        blind, deaf = 3.96 < middle < 6.5, one.stop > 6.01 and one.start < 7.99  # `max_hold` 1 s, `min_coverage` 95 %
        kinds.add(one.inputs)
        assert one.inputs == (("frames",) * (not blind) + ("imu",) * (not deaf))
        source = alone["imu"] if deaf else alone["frames"] if blind else whole
        assert one.problem == (whole[k].problem if blind and deaf else None)
        assert one.classes == [(name, pytest.approx(value, abs=1e-6)) for name, value in source[k].classes]
    assert kinds == {(), ("frames",), ("imu",), ("frames", "imu")}


def test_a_clip_whose_scores_are_not_finite_costs_itself(kitchen):
    class Sick(nn.Module):
        inputs, frame_size, calls = ("frames",), 16, 0

        def forward(self, frames):
            scores = torch.zeros(len(frames), 3)
            scores[1, 2] = math.nan
            return torch.zeros(len(frames), 2), scores

    rows = list(predict(Sick(), kitchen[0].video, device="cpu"))
    assert [bool(row.classes) for row in rows] == [True, False, True] and "not finite" in rows[1].problem


def test_predict_says_at_once_what_does_not_fit(sample_data, tmp_path):
    """At the call, and not where the clips are asked for."""
    model, video = small(), sample_data / "gopro" / "max-heromode.mp4"
    with pytest.raises(egodistill.EgoDistillError, match=r"batch_size .* must be .* got 0"):
        predict(model, video, batch_size=0)
    with pytest.raises(egodistill.EgoDistillError, match=r"0.0213 <= stride; got -1"):
        predict(model, video, stride=-1)
    with pytest.raises(data.VideoError, match="nothing"):
        predict(model, tmp_path / "nothing.mp4")
    (tmp_path / "imu.csv").write_text("what,is,this\n1,2,3\n")
    with pytest.raises(data.IMUError, match="imu"):
        predict(model, video, tmp_path / "imu.csv")


def test_clips_cover_a_recording_to_its_end():
    length = 64 / 30
    assert inference.strided_starts(3 * length, length, length) == pytest.approx([0, length, 2 * length])
    assert inference.strided_starts(10.0, 2.0, 3.0) == [0, 3, 6, 8]  # the last one ends with the recording
    assert inference.strided_starts(10.0, 2.0, 4.0) == [0, 4, 8]
    assert inference.strided_starts(1.0, 2.0, 2.0) == [0]


# --- Values that are not the usual ones


def test_the_time_of_a_clip_is_the_median_pass_divided_by_the_batch(monkeypatch):
    """The first two passes are warm-up; one slow pass among the timed ones changes little."""
    passes = iter([900.0, 800.0, 1.0, 100.0, 2.0, 9.0])
    timed = inference.timed_pass
    monkeypatch.setattr(inference, "timed_pass", lambda *given: (timed(*given)[0], next(passes)))
    cost = measure(small(), batch_size=4, repeats=4, device="cpu", precision="fp32")
    assert (cost.ms_per_clip, cost.repeats, cost.batch_size) == ((2.0 + 9.0) / 2 / 4, 4, 4)


@pytest.mark.parametrize("stride", [0.7, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("duration", [0.5, 2.0, 2.3, 7.0, 7.6, 9.99])
def test_clips_start_at_each_stride_and_one_ends_with_the_recording(duration, stride):
    starts = np.array(inference.strided_starts(duration, 2.0, stride))
    last = max(duration - 2.0, 0.0)
    regular = [k * stride for k in range(1000) if k * stride <= last + 1e-6]
    expected = regular if last - regular[-1] <= 1e-3 else [*regular, last]
    np.testing.assert_allclose(starts, expected)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_everything_that_runs_a_model_runs_it_in_the_precision_asked_for(kitchen, precision, dtype):
    model, ran = small(class_names=CLASSES), []
    model.classifier.register_forward_hook(lambda layer, inputs, output: ran.append(output.dtype))
    evaluate(model, Store(8), precision=precision, **QUIET)
    list(predict(model, kitchen[0].recording, device="cpu", precision=precision))
    assert set(ran) == {dtype} and len(ran) == 2
    measure(model, batch_size=1, repeats=1, device="cpu", precision=precision)
    assert ran[3:6] == 3 * [dtype]  # after counting, in fp32: two to warm up and one timed
    ran.clear()
    retrieve(model, Store(8), *batches.example_inputs(model, 1), top=1, **QUIET)
    assert set(ran) == {torch.float32}


def test_the_feature_distance_counts_each_clip_once():
    """In batches of 5, 5 and 1."""
    store, model = Store(11), small()
    found = evaluate(model, store, teacher="t", batch_size=5, precision="fp32", **QUIET)
    with torch.no_grad():
        feature = model.eval()(*(torch.from_numpy(store.arrays[name]) for name in ("frames_1", "imu"))).feature
    assert found.feature_distance == pytest.approx(np.abs(feature.numpy() - store.arrays["t.feature"]).mean(), rel=1e-5)


def test_predictions_are_those_of_clips_cut_by_hand_with_every_setting(kitchen):
    """A clock of the IMU, key frames, a stride, few gaps allowed, and the best two classes, all at once."""
    model = small(class_names=CLASSES, num_frames=2, sampling="last", exact=True).eval()
    walk = dataclasses.replace(kitchen[3].recording, imu_offset=0.3, imu_stretch=1.02)
    options = {"imu_offset": 0.3, "imu_stretch": 1.02, "min_coverage": 0.5, "max_gap": 0.1, "exact": False}
    found = list(
        predict(model, walk.video, walk.imu, stride=1.3, top=2, device="cpu", precision="fp32", batch_size=2, **options)
    )
    spec = dataclasses.replace(spec_of(model), exact=False)
    assert [clip.start for clip in found] == pytest.approx(
        inference.strided_starts(walk.probe().duration, spec.seconds, 1.3)
    )
    for clip in found:
        arrays = read_clip(walk, clip.start, spec, min_coverage=0.5, max_gap=0.1)
        with torch.no_grad():
            scores = model(*(torch.from_numpy(arrays[name])[None] for name in ("frames", "imu"))).logits.softmax(1)[0]
        values, classes = scores.topk(2)
        assert [name for name, _ in clip.classes] == [CLASSES[k] for k in classes]
        assert [value for _, value in clip.classes] == pytest.approx(values.tolist(), abs=1e-5)
        assert clip.stop - clip.start == pytest.approx(spec.seconds) and clip.problem is None


def test_costs_count_all_parameters_and_name_what_was_measured():
    model = small()
    model.image_encoder.requires_grad_(False)
    cost = measure(model, batch_size=3, repeats=2, device="cpu", precision="bf16")
    assert cost.params == sum(value.numel() for value in model.parameters())
    assert (cost.batch_size, cost.device, cost.precision, cost.repeats) == (3, "cpu", "bf16", 2)
    assert cost.gmacs == inference.count_macs(model, torch.device("cpu")) / 1e9
    fast, exact = (
        Output(torch.tensor([[1.0, -3.5]]), torch.eye(1, 2)),
        Output(torch.tensor([[1.25, -4.0]]), -torch.eye(1, 2)),
    )
    assert inference.output_error(fast, exact) == {"same_top1": 0.0, "feature_error": 0.5 / 4.0}


@pytest.mark.parametrize("metric", ["cosine", "l1"])
def test_distances_of_retrieval_are_those_of_the_features(metric):
    """By numpy, with queries and clips of very different lengths."""
    store, model = Store(9), small().eval()
    features = np.random.default_rng(0).normal(size=(9, 12)) * np.arange(1, 10)[:, None] ** 2
    store.arrays["t.feature"] = features.astype(np.float32)
    queries = [torch.from_numpy(store.arrays[name][[4, 1, 7]]) for name in ("frames_1", "imu")]
    found = retrieve(model, store, *queries, teacher="t", top=4, metric=metric, batch_size=2, **QUIET)
    with torch.no_grad():
        ours = model(*queries).feature.numpy().astype(np.float64)
    theirs = store.arrays["t.feature"].astype(np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(ours, axis=1)[:, None] * np.linalg.norm(theirs, axis=1)
        distance = 1 - ours @ theirs.T / norms
    else:
        distance = np.abs(ours[:, None] - theirs[None]).mean(2)
    order = distance.argsort(1)[:, :4]
    np.testing.assert_allclose(found.distance, np.take_along_axis(distance, order, 1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.rows, order)


def test_a_confusion_has_true_classes_in_its_rows():
    class Fixed(nn.Module):
        inputs = ("t.feature",)

        def forward(self, feature):
            return Output(
                feature, torch.tensor([[0.0, 9, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0], [0, 0, 0, 9.0]])[: len(feature)]
            )

    store = Store(4)
    found = evaluate(Fixed(), store, device="cpu", precision="fp32", progress=False)
    assert found.confusion.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert found.per_class == {"close": 0.0, "open": 1.0, "put": 1.0, "take": 1.0} and found.top1 == 0.75


def test_scores_of_a_segment_are_means_over_its_clips():
    """Segments of 3, 1 and 2 clips, which do not stand together; by hand."""
    store = Store(6)
    store.segments = np.array([7, 3, 7, 9, 9, 7])
    store.labels = np.array([2, 0, 2, 1, 1, 2])
    scores = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    found, labels = inference.per_segment(store, scores)
    expected = [scores[[1]].mean(0), scores[[0, 2, 5]].mean(0), scores[[3, 4]].mean(0)]
    torch.testing.assert_close(found, torch.stack(expected))
    assert labels.tolist() == [0, 2, 1]
    whole = evaluate(small(), store, batch_size=4, precision="fp32", **QUIET)
    torch.testing.assert_close(whole.scores.sum(1), torch.ones(3))
    assert whole.top1 == pytest.approx(float((whole.scores.argmax(1) == labels).float().mean()))


def test_clips_of_another_length_are_predicted_from_start_to_stop(kitchen):
    model = small(class_names=CLASSES, clip_seconds=1.5, imu_samples=150, imu_rate=100.0, imu_vector="mean").eval()
    walk = kitchen[0].recording
    found = list(predict(model, walk.video, walk.imu, device="cpu", precision="fp32"))
    assert [clip.start for clip in found] == pytest.approx([0, 1.5, 3.0, walk.probe().duration - 1.5])
    for clip in found:
        assert clip.stop - clip.start == pytest.approx(1.5)
        arrays = read_clip(walk, clip.start, spec_of(model))
        with torch.no_grad():
            logits = model(*(torch.from_numpy(arrays[name])[None] for name in ("frames", "imu"))).logits
        assert clip.classes[0] == (CLASSES[logits.argmax()], pytest.approx(float(logits.softmax(1).max()), abs=1e-5))


def test_scores_that_are_not_finite_are_those_of_their_clip_if_others_are_lost():
    class Reader:
        starts, seconds, specs = [0.0, 2.0, 4.0, 6.0], 2.0, {"frames": ClipSpec(frames=1)}

        def close(self):
            pass

        def groups(self, size):
            return [[[0, 1], [2, 3]]]

        def read(self, group):
            frames = torch.zeros(3, 1, 3, 16, 16, dtype=torch.uint8)
            return {1: "lost"}, [inference.Batch([0, 2, 3], {"frames": frames})]

    class Sick(nn.Module):
        def forward(self, frames):
            scores = 9 * torch.eye(3)
            scores[1, 0] = math.inf
            return torch.zeros(3, 2), scores

    options = {"top": 1, "device": torch.device("cpu"), "precision": "fp32", "compile": False}
    rows = list(inference.classify_groups(Sick(), Reader(), 16, **options))
    assert [row.problem for row in rows] == [None, "lost", "the model's scores are not finite", None]
    assert [[name for name, _ in row.classes] for row in rows] == [["0"], [], [], ["2"]]
    assert [(row.start, row.stop) for row in rows] == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_predict_refuses_samples_in_other_axes(kitchen):
    """Before the first clip, unless it is told that they are the same, or the turn that makes them so."""
    walk = kitchen[0].recording
    model = small(class_names=CLASSES).eval()
    options = {"device": "cpu", "precision": "fp32"}
    right = list(predict(model, walk.video, walk.imu, **options))
    turned = list(predict(model, walk.video, walk.imu, imu_axes="yXZ", **options))
    assert [row.classes for row in right] != [row.classes for row in turned]
    with pytest.raises(egodistill.DataError, match="the axes of its samples are 'glasses', those of the clips 'gopro'"):
        predict(model, walk.video, walk.imu, imu_axes="glasses", **options)
    model.imu_axes = "glasses"
    with pytest.raises(egodistill.DataError, match="the axes of its samples are 'gopro', those of the clips 'glasses'"):
        predict(model, walk, **options)
    assert list(predict(model, walk.video, walk.imu, imu_axes="glasses", **options)) == right
    blind = small(class_names=CLASSES, imu_encoder=None).eval()
    assert list(predict(blind, walk.video, walk.imu, imu_axes="glasses", **options))


def test_a_student_after_stage_1_has_no_scores(tmp_path):
    model = small()
    model.trained_by = "pretrain_imu"
    for use in (
        lambda: evaluate(model, Store(4), **QUIET),
        lambda: agreement(model, Store(4), teacher="t", **QUIET),
        lambda: next(iter(predict(model, tmp_path / "walk.mp4", device="cpu"))),
        lambda: egodistill.Stream(model),
    ):
        with pytest.raises(EgoDistillError, match=r"the model holds the result of stage 1 .* distill STORE"):
            use()


def test_answers_are_those_of_the_logits_divided_by_the_temperature(kitchen):
    """Of `evaluate()` and `predict()`, which change no answer; measures of clips are with it and without."""
    store, model, exact = Store(240), small(class_names=CLASSES), QUIET | {"precision": "fp32"}
    store.segments = np.arange(240) // 3
    store.labels = np.repeat(np.arange(80) % 4, 3)
    plain = evaluate(model, store, **exact)
    assert plain.temperature == 1 and plain.without_temperature is None
    model.calibration = Calibration(0.25, 80)
    found = evaluate(model, store, **exact)
    with torch.no_grad():
        logits = model.eval()(*(torch.from_numpy(store.arrays[name]) for name in ("frames_1", "imu"))).logits
    wanted = (4 * logits).softmax(1)
    torch.testing.assert_close(found.scores, wanted.unflatten(0, (80, 3)).mean(1))
    assert found.temperature == 0.25 and found.without_temperature == plain.reliability
    assert found.reliability.log_loss == pytest.approx(float(F.cross_entropy(4 * logits, torch.tensor(store.labels))))
    assert plain.reliability.log_loss == pytest.approx(float(F.cross_entropy(logits, torch.tensor(store.labels))))
    assert found.reliability.clips == 240

    walk, about = kitchen[0].recording, {"top": 4, "stride": 2.0, "device": "cpu", "precision": "fp32"}
    scores = [
        [dict(clip.classes) for clip in predict(one, walk, **about)] for one in (small(class_names=CLASSES), model)
    ]
    for one, other in zip(*scores, strict=True):
        sharper = {name: value**4 for name, value in one.items()}
        total = sum(sharper.values())
        assert other == pytest.approx({name: value / total for name, value in sharper.items()}, rel=1e-3)
    assert len(scores[0]) > 1
