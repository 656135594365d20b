"""The paper on one page computes what the library computes, and trains a student that the library loads."""

import copy
import inspect

import numpy as np
import one_page
import pytest
import torch
from torch import nn
from toys import Store, small

from egodistill import (
    EPIC_KITCHENS,
    DistillationSettings,
    EgoDistill,
    IMUPredictor,
    Output,
    PretrainingSettings,
    data,
)
from egodistill.distillation import Distill, PretrainIMU


def test_it_is_one_page():
    with open(one_page.__file__, encoding="utf-8") as file:
        assert len(file.readlines()) <= 110


def test_defaults_are_those_of_the_library():
    """They are the paper's for EPIC-KITCHENS."""
    for settings in (EPIC_KITCHENS.pretraining, EPIC_KITCHENS.distillation):
        for name in ("epochs", "batch_size", "learning_rate"):
            assert default(one_page.train, name) == getattr(settings, name)
    for name in ("alpha", "beta", "tau"):
        assert default(one_page.stage_2_loss, name) == getattr(EPIC_KITCHENS.distillation, name)
    assert default(one_page.pretraining_loss, "tau") == EPIC_KITCHENS.pretraining.nce_tau


def default(function, name):
    """Return the default of an argument."""
    return inspect.signature(function).parameters[name].default


def settled(student):
    """Give all batch norms statistics and weights as after a training."""
    for layer in student.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for value in (layer.running_mean, layer.bias):
                nn.init.normal_(value, std=0.1)
            for value in (layer.running_var, layer.weight):
                nn.init.uniform_(value, 0.5, 1.5)
    return student.eval()


def gap(found, wanted):
    """Return the length of the difference of two tensors, relative to that of the second."""
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("from_library", [True, False])
def test_both_students_are_one_network(from_library):
    """The weights of either fit the other, which then gives its feature and logits."""
    torch.manual_seed(0)
    students = [one_page.Student(62), EgoDistill(num_classes=62, image_weights=None)]
    first, second = map(settled, students[::-1] if from_library else students)
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (first, second)]
    assert shapes[0] == shapes[1] and len(shapes[0]) == 158
    assert [sum(value.numel() for value in one.parameters()) for one in (first, second)] == [20_579_070] * 2
    second.load_state_dict(first.state_dict())
    frames, imu = torch.randint(0, 256, (3, 1, 3, 224, 224), dtype=torch.uint8), 3 * torch.randn(3, 422, 6) + 5
    with torch.no_grad():
        for one, other in zip(second(frames, imu), first(frames, imu), strict=True):
            assert len(one) == 3 and gap(one, other) < 1e-6


@pytest.mark.parametrize(
    ("alpha", "beta", "tau"), [(0.95, 1.0, 1.0), (0.5, 0.0, 10.0), (0.0, 2.0, 4.0), (1.0, 1.0, 0.5)]
)
def test_the_loss_of_stage_2_is_the_librarys(alpha, beta, tau):
    torch.manual_seed(0)
    store = Store(16)
    objective = Distill(small(), store, DistillationSettings(alpha=alpha, beta=beta, tau=tau), "t")
    feature, teacher_feature = torch.randn(2, 16, 12)
    logits, teacher_logits = 3 * torch.randn(2, 16, 4)
    labels = torch.from_numpy(store.labels)
    batch = {"t.feature": teacher_feature, "t.logits": teacher_logits, "label": labels}
    wanted = objective.values(Output(feature, logits), batch)["loss"].mean()
    options = {"alpha": alpha, "beta": beta, "tau": tau}
    found = one_page.stage_2_loss(feature, logits, teacher_feature, teacher_logits, labels, **options)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_the_loss_of_stage_1_is_the_librarys(tau):
    torch.manual_seed(0)
    model, student, predictor = EgoDistill(4, image_weights=None), one_page.Student(4), IMUPredictor(512, 6752)
    student.load_state_dict(settled(model).state_dict())
    objective = PretrainIMU(model, predictor, "frames_1", PretrainingSettings(nce_tau=tau), "t")
    images, imu, feature = torch.randn(5, 3, 512).abs(), 3 * torch.randn(5, 422, 6) + 5, torch.randn(5, 768)
    objective.features = images
    batch = {"row": torch.arange(5), "weight": torch.ones(5), "imu": imu, "t.feature": feature}
    with torch.no_grad():
        wanted = objective.eval()(batch)["loss"].mean()
        found = one_page.pretraining_loss(student.eval(), predictor.layers, images, imu, feature, tau)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


@pytest.fixture
def lesson(kitchen, tmp_path):
    """The labelled clips of the kitchen, with the outputs of a teacher that knows all labels."""
    labelled = [segment for segment in kitchen if segment.label]
    store = data.prepare(labelled, tmp_path / "store", frame_size=40, workers=1, progress=False)
    feature = np.random.default_rng(0).normal(size=(len(store.class_names), 20))
    for name, values in (("t.feature", feature), ("t.logits", 5 * np.eye(len(feature)))):
        store.add(name, values.shape[1:], "float32")
        store.write(name, range(len(store)), values[store.labels].astype(np.float32))
    return store


def test_both_stages_learn_and_the_library_loads_the_student(lesson, tmp_path, monkeypatch, capsys):
    """Each stage lowers its loss; stage 1 sees first, middle and last frame, and leaves the image encoder as it is."""
    build, train, loss = one_page.Student, one_page.train, one_page.pretraining_loss
    students, calls, encoders = [], [], []

    def built(*sizes):
        students.append(build(*sizes))
        return students[0]

    def shortened(*given):
        encoders.append(copy.deepcopy(students[0].image_encoder))
        train(*given, epochs=6, learning_rate=3e-4)

    def seen(student, predictor, images, imu, feature):
        calls.append((images, imu))
        return loss(student, predictor, images, imu, feature)

    monkeypatch.chdir(tmp_path)
    for name, spy in (("Student", built), ("train", shortened), ("pretraining_loss", seen)):
        monkeypatch.setattr(one_page, name, spy)
    torch.manual_seed(0)
    one_page.main(lesson.path, "t")
    start, pretrained = (encoder.state_dict().values() for encoder in encoders)
    assert all(map(torch.equal, start, pretrained))
    images, imu = calls[0]
    clips = lesson.split("train")
    frames, ends, motion = (torch.from_numpy(clips.read(name, slice(None))) for name in ("frames_1", "ends", "imu"))
    rows = [next(row for row, one in enumerate(motion) if torch.equal(one, own)) for own in imu]
    whole = torch.cat([ends[:, :1], frames, ends[:, 1:]], 1)[rows]
    with torch.no_grad():
        students[0].image_encoder = encoders[0].eval()
        assert not images.requires_grad and gap(images, students[0].encode_frames(whole)) < 1e-5
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 12 and losses[5] < losses[0] - 0.1 and losses[11] < losses[6] - 0.1, losses
    student = EgoDistill(len(clips.class_names), feature_dim=20, image_weights=None)
    student.load_state_dict(torch.load("student.pth", weights_only=True))


def test_the_learning_rate_drops_at_the_librarys_epochs(monkeypatch):
    model, build, built, rates = nn.Linear(12, 1), torch.optim.AdamW, [], []

    def optimizer(*given):
        built.append(build(*given))
        return built[0]

    def loss(arrays, labels):
        rates.append(built[0].param_groups[0]["lr"])
        return model(arrays[0]).mean()

    monkeypatch.setattr(torch.optim, "AdamW", optimizer)
    one_page.train([model], Store(4), ["t.feature"], loss)
    assert rates == pytest.approx([1e-4] * 30 + [1e-5] * 10 + [1e-6] * 10)
    assert EPIC_KITCHENS.distillation.decay_epochs == (30, 40)
    assert built[0].defaults["weight_decay"] == EPIC_KITCHENS.distillation.weight_decay
