"""Batches of a store."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from small_teachers import SMALL_I3D
from toys import CLASSES, FAST, QUIET, Store, small
from waiting import until

from egodistill import (
    Augment,
    DataError,
    DistillationSettings,
    EgoDistill,
    EgoDistillError,
    Output,
    PretrainingSettings,
    Stream,
    Training,
    data,
    distill,
    evaluate,
    finetune,
    measure,
    predict,
    retrieve,
    teachers,
)
from egodistill.engine import batches
from egodistill.recordings.spec import ClipSpec

NAN = float("nan")


def test_reading_ahead_hides_the_reading():
    """While a batch is used, the next one is read."""

    class Noted(Store):
        reads = 0

        def read(self, name, index):
            self.reads += 1
            return super().read(name, index)

    store, used = Noted(32), 0
    for _ in batches.read_batches(store, ["imu"], torch.arange(32), 4, torch.device("cpu")):
        used += 1
        until(lambda: store.reads == min(used + 1, 8))  # noqa: B023
    assert used == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"imu_rate": 100.0}, "'imu' of the store does not fit .* imu_rate is 198.0 in the store, 100.0 in the model"),
        ({"imu_samples": 300, "imu_vector": "mean"}, "imu_samples is 422 in the store, 300"),
        ({"clip_seconds": 1.0}, "'frames_1' of the store does not fit .* seconds is 2.13.* in the store, 1.0"),
        ({"frame_size": 32}, "size is 40 in the store, 32 in the model. Build the model with frame_size=40"),
        ({"exact": False}, "exact is True in the store, False"),
        (
            {"imu_axes": "glasses"},
            "axes is gopro in the store, glasses in the model. Build the model with imu_axes='gopro'",
        ),
        ({"sampling": "first"}, "no array 'frames_1_first'"),
        ({"num_frames": 2}, "no array 'frames_2'"),
    ],
)
def test_a_student_for_other_clips_than_the_stores_is_refused(store, options, words):
    arguments = {"image_weights": None, "image_encoder": "resnet10x8", "frame_size": 40, "hidden": 8} | options
    model = EgoDistill(3, **arguments)
    with pytest.raises(EgoDistillError, match=words):
        finetune(model, store.split("test"), epochs=1, **QUIET)


class Own(torch.nn.Module):
    """A model of a user: what it says about its clips are attributes."""

    def __init__(self, *inputs, **said):
        super().__init__()
        self.inputs, self.layer = inputs, torch.nn.Linear(1, 4)
        for name, value in said.items():
            setattr(self, name, value)

    def forward(self, *inputs):
        feature = sum(x.float().flatten(1).mean(1, keepdim=True) for x in inputs)
        return Output(feature, self.layer(feature))


def test_a_model_that_names_no_size_is_evaluated_on_any():
    assert evaluate(Own("frames", "imu"), Store(4), **QUIET).clips == 4
    with pytest.raises(EgoDistillError, match=r"40 in the model. Build the model with frame_size=32"):
        evaluate(Own("frames", frame_size=40), Store(4), **QUIET)
    with pytest.raises(EgoDistillError, match=r"40 in the model. Build the model with size=32"):
        evaluate(Own("frames", clip_spec=ClipSpec(frames=1, size=40)), Store(4), **QUIET)


@pytest.mark.parametrize("model", [small(), Own("frames")])
def test_frames_that_were_cut_out_are_not_those_that_were_squeezed(model):
    store = Store(4)
    for crop in (False, True):
        store.specs = {"frames_1": ClipSpec(frames=1, size=32, crop=crop)}
        with pytest.raises(EgoDistillError, match="crop is True in the store, False in") if crop else nullcontext():
            evaluate(model, store, **QUIET)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (small(num_frames=2, imu_samples=100), [(2, 3, 32, 32), (100, 6)]),
        (small(imu_encoder=None), [(1, 3, 32, 32)]),
        (Own("imu", "frames", frame_size=24), [(422, 6), (1, 3, 24, 24)]),
        (Own("clip", num_frames=5, frame_size=16), [(5, 3, 16, 16)]),
        (Own("clip", clip_spec=ClipSpec(frames=5, size=16)), [(5, 3, 16, 16)]),
        (Own("sound", input_shapes={"sound": (21, 33)}), [(21, 33)]),
        (Own("frames", "gaze", frame_size=24, input_shapes={"gaze": (7,)}), [(1, 3, 24, 24), (7,)]),
    ],
)
def test_example_inputs_are_what_a_model_reads(model, shapes):
    inputs = batches.example_inputs(model, 2)
    assert [tuple(x.shape) for x in inputs] == [(2, *shape) for shape in shapes]
    assert [x.dtype for x in inputs] == [torch.uint8 if len(shape) == 4 else torch.float32 for shape in shapes]
    for x in inputs:
        assert int(x.max()) > 250 if x.dtype == torch.uint8 else 0.5 < x.std() < 2
    assert measure(model, batch_size=2, repeats=1, device="cpu", precision="fp32").gmacs > 0


@pytest.mark.parametrize(("model", "word"), [(Own("gaze"), "'gaze'"), (Own("clip"), "'clip'.*num_frames")])
def test_inputs_of_unknown_shape_have_no_example(model, word):
    with pytest.raises(EgoDistillError, match=f"Own reads {word}"):
        batches.example_inputs(model)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, r"Own must have an attribute `inputs`, a tuple .*\('frames', 'imu'\); it is None"),
        ("frames", "`inputs`.*it is 'frames'"),
        ((), r"`inputs`.*it is \(\)"),
        (("frame", "imu"), "no array 'frame'.*`inputs` of Own may name 'frames', 'clip', 'imu', and arrays"),
    ],
)
def test_a_model_names_its_inputs(inputs, words):
    model = Own("frames")
    model.inputs = inputs
    for use in (lambda: evaluate(model, Store(4), **QUIET), lambda: finetune(model, Store(4), epochs=1, **QUIET)):
        with pytest.raises(EgoDistillError, match=words):
            use()


class Returns(Own):
    """Returns what a function makes of feature and logits."""

    def __init__(self, change, classes=4):
        super().__init__("frames")
        self.change, self.feature, self.layer = change, torch.nn.Linear(1, 12), torch.nn.Linear(12, classes)

    def forward(self, frames):
        feature = self.feature(frames.float().flatten(1).mean(1, keepdim=True) / 255)
        return self.change(feature, self.layer(feature))


def uses(model, store):
    """Every use of a model on a store."""
    options = {"epochs": 1, "batch_size": 8, **QUIET}
    return (
        lambda: finetune(model, store, **options),
        lambda: distill(model, store, teacher="t", **options),
        lambda: evaluate(model, store, **QUIET),
        lambda: retrieve(model, store, torch.from_numpy(store.read("frames_1", [0])), top=1, **QUIET),
    )


@pytest.mark.parametrize("change", [lambda *pair: pair, lambda *pair: list(pair)])
def test_a_model_returns_any_pair(change):
    for use in uses(Returns(change), Store(8)):
        use()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Returns(lambda feature, logits: logits), r"Returns returned a Tensor; .*\(feature, logits\), for example ego"),
        (Returns(lambda *pair: (*pair, None)), "Returns returned a tuple"),
        (Returns(lambda feature, logits: (feature[..., None], logits)), r"feature \w+ \[\d, 12, 1\]"),
        (Returns(Output, classes=5), "Returns returns 5 scores per clip for 4 class names"),
        (Returns(Output, classes=3), "Returns returns 3 scores per clip for 4 class names"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(model, words):
    for use in uses(model, Store(8))[:3]:
        with pytest.raises(EgoDistillError, match=words):
            use()


def test_a_path_is_not_a_store(tmp_path):
    for path in (tmp_path, str(tmp_path)):
        for use in (
            lambda path=path: finetune(small(), path, **QUIET),
            lambda path=path: distill(small(), path, teacher="t", **QUIET),
            lambda path=path: evaluate(small(), path, **QUIET),
            lambda path=path: retrieve(small(), path, **QUIET),
        ):
            with pytest.raises(EgoDistillError, match=r"the store is the path '.*'; open it with data.ClipStore\("):
                use()


def test_a_path_or_a_class_is_not_a_model(store):
    path = r"model is the path 'student.safetensors'; .* EgoDistill.load\('student.safetensors'"
    for given, words in (
        ("student.safetensors", path),
        (Path("student.safetensors"), path),
        ("student.pt2", r"load it, such as with export\.load_exported\('student.pt2'\)"),
        ("walk.mp4", "model is the path 'walk.mp4'; the model comes first"),
        (EgoDistill, "model is the class EgoDistill"),
        (None, "model is None; give a model"),
    ):
        for use in (
            lambda given=given: evaluate(given, store, **QUIET),
            lambda given=given: list(predict(given, "walk.mp4")),
            lambda given=given: measure(given),
            lambda given=given: Stream(given),
        ):
            with pytest.raises(EgoDistillError, match=words):
                use()


def test_a_teacher_is_named():
    teacher = torch.nn.Linear(1, 1)
    teacher.name = "small"
    with pytest.raises(EgoDistillError, match=r"^teacher is a Linear; give the name of its outputs .* such as 'small'"):
        distill(small(), Store(4), teacher=teacher, **QUIET)
    untaught = Store(4)
    untaught.path, untaught.arrays = "s", {name: untaught.arrays[name] for name in ("frames_1", "imu")}
    with pytest.raises(EgoDistillError, match=r"^s: has outputs of no teacher; .*`egodistill extract`\) writes them"):
        distill(small(), untaught, teacher="T", **QUIET)
    with pytest.raises(EgoDistillError, match=r"^the store has no array 'T.feature'; it has outputs of: t\. Give one"):
        evaluate(small(), Store(4), teacher="T", **QUIET)


def test_a_model_of_ones_own_is_measured_on_the_clips_of_its_store():
    """224 pixels were taken silently."""
    model = Own("frames", "imu")
    with pytest.raises(EgoDistillError, match="Own does not say the size of its frames; set `frame_size`, for example"):
        measure(model, device="cpu")
    finetune(model, Store(8), epochs=1, batch_size=8, **QUIET)
    assert batches.clip_spec_of(model).size == 32
    assert batches.example_inputs(model)[0].shape == (1, 1, 3, 32, 32)
    assert evaluate(model, Store(4, size=16), **QUIET).clips == 4  # it still reads any
    assert batches.clip_spec_of(model).size == 32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (lambda: Training(epochs=1.5), r"epochs .* must be a whole number, 1 <= epochs; got 1.5"),
        (lambda: Training(epochs=0), "epochs"),
        (lambda: Training(batch_size=1), "batch_size .* must be a whole number, 2 <= batch_size; got 1"),
        (lambda: Training(batch_size=8.0), "batch_size"),
        (lambda: Training(learning_rate=0), "learning_rate .* must be a number, 0 < learning_rate; got 0"),
        (lambda: Training(learning_rate="1e-3"), "learning_rate.*got '1e-3'"),
        (lambda: Training(decay=0), "decay .* must be a number, 0 < decay <= 1; got 0"),
        (lambda: Training(decay=1.1), "decay"),
        (lambda: Training(weight_decay=-0.1), "weight_decay"),
        (lambda: Augment(crop=1), "crop .* must be a number, 0 <= crop < 1; got 1"),
        (lambda: DistillationSettings(alpha=1.01), "alpha .* must be a number, 0 <= alpha <= 1; got 1.01"),
        (lambda: DistillationSettings(tau=0), "tau .* must be a number, 0 < tau; got 0"),
        (lambda: DistillationSettings(epochs=0), "epochs"),
        (lambda: PretrainingSettings(nce_tau=0), "nce_tau"),
        (lambda: PretrainingSettings(batch_size=1), "batch_size"),
        (lambda: predict(small(), "a.mp4", stride=0.01), "stride .* must be a number, 0.0213 <= stride; got 0.01"),
        (lambda: predict(small(), "a.mp4", top=0), "top .* must be a whole number, 1 <= top; got 0"),
        (lambda: predict(small(), "a.mp4", min_coverage=0), "min_coverage .* must be a number, 0 < min_coverage <= 1"),
    ],
)
def test_settings_have_ranges(settings, words):
    with pytest.raises(EgoDistillError, match=f"^{words}"):
        settings()


def test_settings_may_be_numbers_of_numpy():
    assert Training(epochs=np.int64(2), learning_rate=np.float32(1), warmup_epochs=0, decay=1).epochs == 2


def test_numbers_and_names_of_numpy_become_those_of_python(tmp_path):
    store, numbers = Store(8), {"num_frames": np.int64(1), "imu_rate": np.float64(198)}
    store.class_names = np.array(CLASSES)
    settings = FAST | {"epochs": np.int64(1), "seed": np.int64(2**40), "learning_rate": np.float32(1e-3)}
    settings |= {"augment": Augment(crop=np.float32(0.1)), "tau": np.logspace(0, 1, 3)[1]}
    settings |= {"checkpoint": tmp_path / "run.training"}
    history = distill(small(**numbers, class_names=np.array(CLASSES)), store, teacher="t", **settings)
    model = small(**numbers)
    assert distill(model, store, teacher="t", **settings) == history
    model.save(tmp_path / "student.safetensors")
    assert EgoDistill.load(tmp_path / "student.safetensors").class_names == CLASSES
    teachers.load("i3d", num_classes=np.int64(4), **SMALL_I3D, progress=False).save(tmp_path / "teacher.safetensors")
    assert len(teachers.Teacher.load(tmp_path / "teacher.safetensors").class_names) == 4


def test_a_student_reads_the_frames_that_it_is_for(kitchen, tmp_path):
    """Several choices of frames in one store."""
    options = {"num_frames": 2, "frame_size": 32, "ends": False, "workers": 1, "progress": False}
    store = data.prepare(kitchen[6:], tmp_path / "s", sampling=("uniform", "last", "random"), seed=3, **options)
    assert store.names == ["frames_2", "frames_2_last", "frames_2_random", "imu"]
    for rule, name in (("uniform", "frames_2"), ("last", "frames_2_last"), ("random", "frames_2_random")):
        arguments = {"image_weights": None, "image_encoder": "resnet10x8", "frame_size": 32, "hidden": 8}
        model = EgoDistill(3, num_frames=2, sampling=rule, **arguments)
        assert batches.arrays_of(model, store) == [name, "imu"]
    alone = data.prepare(kitchen[6:], tmp_path / "alone", sampling="random", seed=3, **options)
    assert (alone.read("frames_2_random", slice(None)) == store.read("frames_2_random", slice(None))).all()


def test_swapped_outputs_are_recognised():
    output = torch.zeros(2, 4), torch.zeros(2, 12)
    with pytest.raises(EgoDistillError, match=r"12 scores per clip for 4 class names; are feature and logits swapped"):
        batches.as_output(torch.nn.Identity(), output, 4)
    with pytest.raises(EgoDistillError, match=r"3 scores per clip for 4 class names; it must return one per class"):
        batches.as_output(torch.nn.Identity(), (torch.zeros(2, 12), torch.zeros(2, 3)), 4)


def test_a_value_that_is_not_finite_is_named_with_its_clip():
    memory = Store()
    memory.arrays["imu"][5, 3, 2] = np.nan
    with pytest.raises(DataError, match=r"the values 'imu' of the clips 5 are not finite"):
        evaluate(small(), memory, **QUIET)
    model = small()
    model.classifier.weight.data[:] = torch.inf
    with pytest.raises(
        DataError, match=r"the model's logits of the clips 0, 1, 2, 3, 4 and 27 more are .*the model's weights"
    ):
        evaluate(model, Store(), **QUIET)


def test_a_number_per_clip_that_is_not_finite_is_named_too():
    with pytest.raises(DataError, match="scores of the clips 5 are not finite"):
        batches.require_finite(Store(8), torch.tensor([4, 5]), "scores", torch.tensor([0.5, NAN]))


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_batches_have_a_size(size):
    with pytest.raises(EgoDistillError, match=r"batch_size .* must be a whole number, 1 <= batch_size"):
        evaluate(small(), Store(), batch_size=size, **QUIET)


@pytest.mark.parametrize(
    "field", [{"frames": 4}, {"sampling": "first"}, {"exact": False}, {"crop": False}, {"seconds": 1.5}, {"size": 16}]
)
def test_a_model_that_resizes_reads_frames_of_another_size_but_no_other_clips(store, field):
    class Video:
        inputs, resizes, class_names = ("clip",), True, None
        clip_spec = dataclasses.replace(store.specs["clip"], **field)

    if "size" in field:
        assert batches.arrays_of(Video(), store) == ["clip"]
    else:
        with pytest.raises(
            EgoDistillError, match=f"'clip' of the store does not fit the model: {next(iter(field))} is"
        ):
            batches.arrays_of(Video(), store)


@pytest.mark.parametrize(
    ("classes", "first"),
    [(["close", "open", "take", "put"], 2), (["open", "close", "put", "take"], 0), (["close", "open", "put"], 3)],
)
def test_classes_are_compared_with_their_order_and_number(classes, first):
    class Model:
        inputs, class_names = ("imu",), classes

    with pytest.raises(EgoDistillError, match=f"differ first at class {first}"):
        batches.arrays_of(Model(), Store(4))
    for labels, way_out in ((np.full(4, -1), "without labels.* teacher of its own classes"), (None, "with_classes")):
        store = Store(4)
        store.labels = store.labels if labels is None else labels
        with pytest.raises(EgoDistillError, match=way_out):
            batches.arrays_of(Model(), store)
    Model.class_names = list(Store(4).class_names)
    assert batches.arrays_of(Model(), Store(4)) == ["imu"]


def test_a_store_that_is_refused_names_no_classes():
    model, fewer, larger = small(), Store(4), Store(4, size=48)
    fewer.class_names, larger.class_names = ["x", "y"], list("wxyz")
    for store, words in ((fewer, "4 classes, but the store has 2"), (larger, "size is 48")):
        with pytest.raises(EgoDistillError, match=words):
            batches.arrays_of(model, store)
        assert model.class_names is None
    batches.arrays_of(model, Store(4))
    assert model.class_names == CLASSES


def test_limits_of_numbers_are_part_of_the_range_or_not_as_said():
    for options, fits, fails in (
        ({"least": 0, "most": 1}, (0, 0.5, 1), (-1e-9, 1.0001, NAN, "1", None)),
        ({"least": 0, "most": 1, "above": True}, (1e-9, 1), (0, 1.1)),
        ({"least": 0, "most": 1, "below": True}, (0, 0.999), (-0.1, 1)),
        ({"least": 2, "whole": True}, (2, 3, np.int64(4)), (1, 2.5, 2.0)),
        ({}, (-1e300, 0), (float("inf"), -float("inf"), NAN)),
    ):
        for value in fits:
            batches.require_number("x", value, **options)
        for value in fails:
            with pytest.raises(EgoDistillError, match="x must be a"):
                batches.require_number("x", value, **options)


def test_at_most_five_clips_are_named():
    store = Store(8)
    assert batches.clip_ids(store, torch.tensor([6, 2])) == "6, 2"
    assert batches.clip_ids(store, torch.arange(8)) == "0, 1, 2, 3, 4 and 3 more"


def test_a_batch_holds_the_rows_that_are_picked_with_their_labels():
    rows, store = torch.tensor([5, 1, 7, 2, 6]), Store(8)
    found = [
        b for b, _ in batches.read_batches(store, ["imu"], rows, 2, torch.device("cpu"), lambda part: part.flip(0)[:1])
    ]
    assert [batch["row"].tolist() for batch in found] == [[1], [2], [6]]
    for batch in found:
        np.testing.assert_array_equal(batch["imu"], store.arrays["imu"][batch["row"].numpy()])
        np.testing.assert_array_equal(batch["label"], store.labels[batch["row"].numpy()])


def test_what_a_model_says_of_its_clips_is_not_overwritten_by_the_first_store(store):
    """A model that resizes keeps its own size; what it does not say is noted, and a second store changes nothing."""

    class Model:
        inputs, resizes, class_names, frame_size, num_frames = ("frames",), True, None, 20, 4

    model = Model()
    assert batches.arrays_of(model, store) == ["frames_4"]
    spec = batches.clip_spec_of(model)
    assert (spec.size, spec.frames, spec.sampling, spec.exact) == (20, 4, "uniform", True)
    assert spec.seconds == store.specs["frames_4"].seconds and "size" not in model.noted_clips
    model.noted_clips = {"sampling": "last"}
    batches.arrays_of(model, store)
    assert batches.clip_spec_of(model).sampling == "last"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_neither_infinity_nor_nan_is_finite(value):
    values = torch.zeros(3, 2, 2)
    batches.require_finite(Store(), torch.tensor([4, 7, 5]), "scores", values)
    values[1, 0, 1] = value
    with pytest.raises(DataError, match="scores of the clips 7 are not finite"):
        batches.require_finite(Store(), torch.tensor([4, 7, 5]), "scores", values)


@pytest.mark.parametrize(("device", "pinned"), [("cuda", 2), ("cpu", 0)])
def test_batches_for_a_gpu_are_copied_from_pinned_memory(device, pinned, monkeypatch):
    """Imitated: the inputs and the labels, while the GPU computes; the rows stay."""
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: calls.append("pinned") or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *where, **how: calls.append((*where, how)) or x)
    next(batches.read_batches(Store(4), ["imu"], torch.arange(4), 4, torch.device(device)))
    assert calls.count("pinned") == pinned
    assert [call for call in calls if call != "pinned"] == 2 * [(torch.device(device), {"non_blocking": True})]


class Into(Store):
    """A store that reads into the memory of its caller, as data.ClipStore does."""

    def read(self, name, index, out=None):
        found = super().read(name, index)
        if out is None:
            return found
        assert (out.shape, out.dtype) == (found.shape, found.dtype)
        out[:] = found
        return out


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("kind", [Into, Store])
def test_batches_that_are_kept_stay_as_they_are(device, kind, monkeypatch):
    """Without a GPU, memory is not pinned, and what would be copied to the GPU is kept."""
    pinned, new_empty = [], torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *where, **how: x)
    monkeypatch.setattr(
        torch.Tensor,
        "new_empty",
        lambda x, shape, pin_memory=False: pinned.append(pin_memory) or new_empty(x, shape),
    )
    store, names, order = kind(22), ["imu", "frames_1", "t.feature"], torch.randperm(22)
    found = [batch for batch, _ in batches.read_batches(store, names, order, 4, torch.device(device))]
    for name in names:
        assert torch.equal(torch.cat([batch[name] for batch in found]), torch.from_numpy(store.arrays[name])[order])
    assert pinned == (18 * [True] if device == "cuda" and kind is Into else [])


COUNT = "it must be int64 \\[8\\], for each clip the index of its class in class_names, 0 to 3; -1 for none"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.arange(8) % 4.0, rf"the store: labels\[0\] is 0.0 \(float64\); {COUNT}"),
        (np.array([0, 1, NAN, 3] * 2), r"labels\[0\] is 0.0 \(float64\)"),
        (["put", "take"] * 4, r"labels\[0\] is 'put' \(<U4\)"),
        ([0, 1, None, 3] * 2, r"labels\[2\] is None \(object\)"),
        (np.arange(8) % 4 == 1, r"labels\[0\] is False \(bool\)"),
        (np.eye(4, dtype=np.int64)[np.arange(8) % 4], rf"labels is int64 \[8, 4\]; {COUNT}"),
        (np.arange(8) % 4 + 1, r"labels\[3\] is 4; it must be the index of its class in class_names, 0 to 3"),
        (np.arange(8) % 4 - 2, r"labels\[0\] is -2; it must be"),
        (np.arange(7) % 4, r"labels is int64 \[7\]; it must be int64 \[8\]"),
        (np.arange(9) % 4, r"labels is int64 \[9\]"),
        ([[0], [1, 2]] * 4, "labels: .*it must be int64"),
        (3, r"labels is int64 \[\]"),
    ],
)
def test_labels_that_are_none_are_refused_with_their_row(labels, words):
    store = Sized(8)
    store.labels = labels
    for use in uses(Returns(Output), store)[:3]:
        with pytest.raises(DataError, match=words):
            use()


class Sized(Store):
    """Its length does not depend on its labels."""

    def __len__(self):
        return len(self.arrays["imu"])


@pytest.mark.parametrize("labels", [[0, 1, 2, 3] * 2, np.arange(8, dtype=np.uint8) % 4, torch.arange(8) % 4])
def test_labels_are_any_whole_numbers(labels):
    store, like = Sized(8), Sized(8)
    store.labels, store.segments = labels, list(range(8))
    for use, other in zip(uses(Returns(Output), store), uses(Returns(Output), like), strict=True):
        use(), other()
    model = Returns(Output)
    assert torch.equal(evaluate(model, store, **QUIET).confusion, evaluate(model, like, **QUIET).confusion)


@pytest.mark.parametrize("segments", [np.arange(7), np.arange(9), np.arange(8.0), ["a"] * 8, np.zeros((8, 1), int)])
def test_segments_that_are_none_are_refused_before_the_first_batch(segments):
    store = Sized(8)
    store.segments = segments
    store.read = None
    with pytest.raises(DataError, match=r"segments.*it must be int64 \[8\], for each clip the number of its segment"):
        batches.segments_of(store)
    store.read = lambda name, index: pytest.fail("read")
    with pytest.raises(DataError, match="segments"):
        evaluate(Returns(Output), store, **QUIET)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("imu", list, r"read\('imu', ...\) of the rows \d to \d returned a list, but must return a numpy array"),
        ("imu", torch.from_numpy, "returned a Tensor"),
        ("imu", lambda x: x.astype(object), "returned a object array"),
        ("imu", lambda x: x.astype(">f4"), "returned a >f4 array"),
        ("imu", lambda x: x.astype(np.float64), r"returned float64 \[\d, 422, 6\], .* return float32 \[\d, any, 6\]"),
        ("imu", lambda x: x[..., :3], r"returned float32 \[\d, 422, 3\], but"),
        ("imu", lambda x: x[:1], r"returned float32 \[1, 422, 6\], but"),
        ("imu", lambda x: x[0], r"returned float32 \[422, 6\], but"),
        ("frames_1", lambda x: x / 255, r"returned float64 \[\d, 1, 3, 32, 32\], .* uint8 \[\d, any, 3, any, any\]"),
        ("frames_1", lambda x: x.transpose(0, 1, 3, 4, 2).copy(), r"returned uint8 \[\d, 1, 32, 32, 3\]"),
        ("t.logits", lambda x: x.argmax(1), r"returned int64 \[\d\], but must return float32 \[\d, any\]"),
        ("t.feature", lambda x: x[:, 0], r"returned float32 \[\d\], but"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_their_rows(name, change, words):
    class Odd(Sized):
        def read(self, array, index):
            found = super().read(array, index)
            return change(found) if array == name else found

    store, model = Odd(8), small(class_names=CLASSES)
    runs = {
        "imu": (lambda: evaluate(model, store, **QUIET), lambda: finetune(model, store, epochs=1, **QUIET)),
        "t.logits": (lambda: distill(model, store, teacher="t", epochs=1, **QUIET),),
    }
    for run in runs["t.logits" if name.startswith("t.") else "imu"]:
        with pytest.raises(DataError, match=words):
            run()


def test_an_array_without_a_row_for_each_clip_is_named():
    store = Sized(8)
    store.arrays["frames_1"] = store.arrays["frames_1"][:6]
    with pytest.raises(
        DataError, match=r"read\('frames_1', ...\) of the rows 0 to 7: .*one row for each of the 8 clips"
    ):
        evaluate(Returns(Output), store, **QUIET)


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("class_names", "abcd", "class_names is a str; it must be a list of names"),
        ("class_names", None, "class_names is missing"),
        ("names", lambda: [], "names is a method; it must be a list"),
        ("read", np.zeros(3), "read is a ndarray; it must be a method"),
    ],
)
def test_an_object_that_is_no_store_says_what_it_lacks(member, value, words):
    odd = type("Odd", (Store,), {member: value})
    store = odd.__new__(odd)
    vars(store).update({name: x for name, x in vars(Store(8)).items() if name != member})
    for use in uses(Returns(Output), store)[:3]:
        with pytest.raises(DataError, match=words):
            use()


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (
            "imu",
            (200, 6),
            "'imu' of the store does not fit the model: imu_samples is 200 in the store, 422",
        ),
        ("imu", (0, 6), r"read\('imu', ...\) of the rows 0 to 0 returned .* must return float32 \[1, any, 6\]"),
        ("frames_1", (1, 3, 16, 32), "'frames_1' has frames of 32 x 16 pixels; the model reads square ones"),
        ("frames_1", (1, 3, 32, 16), "'frames_1' has frames of 16 x 32 pixels; the model reads square ones"),
    ],
)
def test_shapes_of_a_store_of_ones_own_are_compared_with_the_model(name, shape, words):
    clips = Store(4)
    clips.arrays[name] = np.zeros((4, *shape), clips.arrays[name].dtype)
    with pytest.raises(EgoDistillError, match=words):
        batches.arrays_of(small(), clips)


def test_clips_of_a_segment_have_one_label():
    clips = Store(6)
    clips.segments = np.array([7, 3, 7, 3, 5, 5])
    clips.labels = np.array([1, -1, 1, -1, 2, 2])
    assert batches.segments_of(clips) is not None
    clips.labels[3] = 2
    with pytest.raises(DataError, match=r"labels\[3\] is 2, but labels\[1\] of the same segment 3 is -1"):
        batches.segments_of(clips)
