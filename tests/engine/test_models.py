"""The model in a file of any class, of the library or registered."""

import pytest
import small_students
import small_teachers
import torch
import toys
from torch import nn

from egodistill import EgoDistill, EgoDistillError, Output
from egodistill.engine import checkpoints, models
from egodistill.engine.teacher import Teacher


class Mean(nn.Module):
    """A model of one's own that can be saved."""

    file_class, inputs = "Mean", ("imu",)
    trained_by = trained_with = calibration = None

    def __init__(self, num_classes=3, class_names=None):
        super().__init__()
        self.arguments, self.class_names = {"num_classes": num_classes}, class_names
        self.layer = nn.Linear(6, num_classes)

    @classmethod
    def from_arguments(cls, arguments, class_names):
        return cls(**arguments, class_names=class_names)

    def forward(self, imu):
        return Output(imu.mean(1), self.layer(imu.mean(1)))


def test_a_file_says_of_which_class_its_model_is(tmp_path):
    made = {EgoDistill: small_students.student(image_encoder="resnet10x4"), Teacher: small_teachers.small("x3d_m")}
    for kind, model in made.items():
        path = tmp_path / f"{kind.__name__}.safetensors"
        model.save(path)
        found = models.load_any(path)
        assert type(found) is kind is type(kind.load(path)) and found.class_names == model.class_names
        for name, value in model.state_dict().items():
            assert torch.equal(value, found.state_dict()[name])


def test_networks_of_ones_own_are_given_as_parts(tmp_path):
    model = EgoDistill(3, image_encoder="resnet10x4", image_weights=None, hidden=8, imu_encoder=toys.Moved())
    model.save(tmp_path / "a.safetensors")
    with pytest.raises(EgoDistillError, match="Moved"):
        models.load_any(tmp_path / "a.safetensors")
    assert type(models.load_any(tmp_path / "a.safetensors", [toys.Moved]).imu_encoder) is toys.Moved


def test_a_subclass_does_not_take_the_files_of_the_class_it_inherits_from(monkeypatch):
    monkeypatch.setattr(models, "CLASSES", dict(models.CLASSES))
    with pytest.raises(EgoDistillError, match="Calm has no file_class of its own"):
        models.register(toys.Calm)
    assert models.CLASSES["EgoDistill"] is EgoDistill


def test_a_class_of_ones_own_is_read_from_when_it_is_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "CLASSES", dict(models.CLASSES))
    path, model = tmp_path / "mean.safetensors", Mean(2, ["walk", "run"])
    checkpoints.save_model(model, path)
    told = f"{path} contains a model of the class Mean, which is not of this library; import the module that has it"
    with pytest.raises(EgoDistillError) as refused:
        models.load_any(path)
    assert str(refused.value) == told
    models.register(Mean)
    found = models.load_any(path)
    assert type(found) is Mean and found.class_names == ["walk", "run"]
    assert torch.equal(found.layer.weight, model.layer.weight)
    with pytest.raises(EgoDistillError, match="contains a model of the class Mean, not EgoDistill"):
        EgoDistill.load(path)


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(EgoDistillError, match=r"a\.safetensors: no such file"):
        models.load_any(path)
    path.write_bytes(b"hello")
    with pytest.raises(EgoDistillError, match=r"a\.safetensors cannot be read"):
        models.load_any(path)
