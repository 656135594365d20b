"""Files of version 0.4.1 are read as 0.4.1 read them: models, a store, a training that was interrupted, programs.

tests/written_by_041/make.py wrote them, run with 0.4.1, and expected.json says what 0.4.1 computed from them.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from egodistill import EgoDistill, data, distill, export, teachers, training
from egodistill.engine import checkpoints
from egodistill.engine.teacher import fingerprint

FOLDER = Path(__file__).parent / "written_by_041"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.fixture
def old(tmp_path) -> Path:
    with tarfile.open(FOLDER / "files.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def frames(count, number=1, size=32):
    values = torch.arange(count * number * 3 * size * size, dtype=torch.int64)
    return (
        (values * 7 % 251 * (values // (3 * size * size) + 1) % 256).to(torch.uint8).view(count, number, 3, size, size)
    )


def imu(count, samples=422):
    values = torch.arange(count * samples * 6, dtype=torch.float64)
    motion = (torch.sin(values * 0.013) + 0.5 * torch.sin(values * 0.37)).view(count, samples, 6)
    return (motion + torch.tensor([0.3, -0.5, 9.8, 0.1, -0.2, 0.05], dtype=torch.float64)).float()  # gravity and bias


def audio(count):
    return torch.sin(torch.arange(count * 201 * 40, dtype=torch.float64) * 0.11).float().view(count, 201, 40)


def example(model, count=2):
    if isinstance(model, teachers.Teacher):
        return [frames(count, model.clip_spec.frames, model.clip_spec.size)]
    made = {
        "frames": lambda: frames(count, model.num_frames, model.frame_size),
        "imu": lambda: imu(count),
        "audio": lambda: audio(count),
    }
    return [made[name]() for name in model.inputs]


def close(one, other):
    np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-4, atol=2e-5)


def same(one, other):
    assert json.loads(json.dumps(one)) == json.loads(json.dumps(other)), (one, other)


def test_models(old):
    for name, wanted in EXPECTED["models"].items():
        model = checkpoints.load_model(old / name)
        same(
            [type(model).__name__, model.class_names, list(model.inputs)],
            [wanted[k] for k in ("class", "class_names", "inputs")],
        )
        encoder = "cnn" if "imu" in wanted["inputs"] else None
        later = {"aggregator": "gru", "imu_encoder": encoder, "optional_inputs": False}
        later = later if type(model) is EgoDistill else {}
        kept = {name: value for name, value in wanted["arguments"].items() if name != "use_imu"}
        same(model.arguments, kept | later)
        assert checkpoints.weights_fingerprint(model) == wanted["fingerprint"], name
        if isinstance(model, teachers.Teacher):
            same([model.name, model.clip_spec.record()], [wanted["name"], wanted["clip_spec"]])
            assert fingerprint(model) == wanted["fingerprint of the teacher"], name
        with torch.no_grad():
            feature, logits = model(*example(model))
        close(feature, wanted["feature"])
        close(logits, wanted["logits"])


def test_programs(old):
    wanted = EXPECTED["programs"]
    with pytest.warns(UserWarning, match="before version 0.5") as caught:
        program, pair = export.load_exported(old / "student.pt2"), export.load_pair(old / "device.pt2")
    assert len(caught) == 2
    with torch.no_grad():
        found = {
            "student.pt2": program(frames(2), imu(2)),
            "device.pt2": pair.fuse(pair.encode_frames(frames(2)), imu(2)),
        }
    for name, (feature, logits) in found.items():
        close(feature, wanted[name]["feature"])
        close(logits, wanted[name]["logits"])


def test_store(old):
    wanted, store = EXPECTED["store"], data.ClipStore(old / "store")
    for name in ("clips", "class_names", "splits", "counts", "names", "settings", "fingerprint", "failures"):
        same(getattr(store, name), wanted[name])
    same([store.labels.tolist(), list(store.wearers)], [wanted["labels"], wanted["wearers"]])
    same({name: spec.record() for name, spec in store.specs.items()}, wanted["specs"])
    same([len(store.split("train")), len(store.split("test"))], [wanted["train"], wanted["test"]])
    for name, about in wanted["arrays"].items():
        values = store.read(name, slice(0, len(store)))
        same([str(values.dtype), list(values.shape)], [about["dtype"], about["shape"]])
        flat = values.reshape(len(store), -1).astype(np.float64)
        for key, one in (("first", flat[:, 0]), ("last", flat[:, -1]), ("mean", flat.mean(1))):
            close(one, about[key])
    for name, times in wanted["times"].items():
        close(store.read(f"{name}.times", slice(0, len(store))), times)


def test_outputs_of_the_same_teacher_are_not_computed_again(old):
    store = data.ClipStore(old / "store")
    before = store.read("x3d.feature", slice(0, len(store)))
    teacher = teachers.Teacher.load(old / "x3d.pt")
    teachers.extract(teacher, store, device="cpu", progress=False)  # raises DataError for another fingerprint
    assert np.array_equal(before, store.read("x3d.feature", slice(0, len(store))))


def test_a_training_continues(old, monkeypatch):
    monkeypatch.setattr(training.TrainingLoop, "settle_statistics", lambda self: None)  # 0.4.1 had not
    wanted = EXPECTED["begun.training"]
    train = data.ClipStore(old / "store").split(wanted["split"])
    model = EgoDistill.load(old / wanted["start"])
    history = distill(model, train, teacher=wanted["teacher"], checkpoint=old / "begun.training", **wanted["settings"])
    assert len(history) == wanted["settings"]["epochs"]
    with torch.no_grad():
        logits = model.eval()(*example(model)).logits
    close(logits, wanted["logits"])
