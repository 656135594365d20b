"""What a type checker, and so an editor, knows of a user's program."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from inspect import signature
from pathlib import Path
from typing import get_type_hints

import pytest

import egodistill
from egodistill import Training, distillation, training

ROOT = Path(egodistill.__file__).parent

SCRIPT = textwrap.dedent(
    """
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor, nn

    from egodistill import EGO4D, DistillationSettings, EgoDistill, Output, Recipe, Stream, StudentSettings, Training
    from egodistill import batches, data, distill, distillation, evaluate, export, finetune, measure
    from egodistill import predict, pretrain_imu, recordings, retrieve, teachers, training


    class Small(nn.Module):
        inputs: tuple[str, ...] = ("frames", "imu")

        def __init__(self, classes: int) -> None:
            super().__init__()
            self.layer = nn.Linear(6, classes)

        def forward(self, frames: Tensor, imu: Tensor) -> Output:
            return Output(imu.mean(1), self.layer(imu.mean(1)))


    class Memory:
        class_names = ["open", "close"]

        @property
        def names(self) -> list[str]:
            return ["frames_1", "imu"]

        @property
        def labels(self) -> np.ndarray:
            return np.zeros(4, np.int64)

        @property
        def segments(self) -> np.ndarray:
            return np.arange(4)

        def __len__(self) -> int:
            return 4

        def read(self, name: str, index: object) -> np.ndarray:
            return np.zeros((4, 422, 6), np.float32)


    class Squares(training.Objective):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": distillation.action_loss(self.model(batch["imu"]), batch["label"])}


    def report(model: batches.Model, store: batches.Store) -> float:
        return evaluate(model, store, precision="auto", compile=False).top1


    def main(folder: Path) -> None:
        store = data.prepare(data.read_csv(folder / "segments.csv"), folder / "store", num_frames=(1, 2), workers=2)
        train_clips, test = store.split("train"), store.split("test")
        teacher = teachers.Teacher.load(folder / "teacher.safetensors")
        teachers.extract(teacher, store)
        seen: Output = teacher(torch.zeros(1, 16, 3, 224, 224, dtype=torch.uint8))
        model = EgoDistill(len(store.class_names), feature_dim=seen.feature.shape[1], imu_vector="flatten")
        pretrain_imu(model, train_clips, teacher=teacher.name, epochs=5, schedule="cosine", precision="fp32")
        history = distill(model, train_clips, teacher="t", epochs=5, checkpoint=folder / "run", decay_epochs=(3, 4))
        distill(model, train_clips, EGO4D.distillation, teacher="t", tau=4.0)
        pretrain_imu(model, train_clips, EGO4D.pretraining, teacher="t", nce_tau=0.2)
        recipe = Recipe(StudentSettings(num_frames=2), distillation=DistillationSettings(beta=2.0))
        finetune(recipe.student.build(2, feature_dim=12), train_clips, recipe.with_training(seed=1).finetuning)
        loss: float = history[-1]["loss"]
        frames, imu = batches.example_inputs(model, 2)
        output = model(frames, imu)
        scores: Tensor = output.logits.softmax(1)
        finetune(Small(2), Memory(), epochs=1, device="cpu")
        exported: Output = export.load_exported(folder / "student.onnx")(frames, imu)
        nearest: Tensor = retrieve(model, test, frames, imu, metric="l1").rows
        training.train(Squares(Small(2), ["imu"], {"stage": "squares"}), Memory(), Training(epochs=1))
        print(report(model, test), report(Small(2), Memory()), measure(model).gmacs, loss, scores, exported, nearest)
        for clip in predict(model, "walk.mp4"):
            print(clip.start, clip.classes)
        with Stream(model, every=0.5, frames="newest") as stream:
            stream.accept_frame(1.0, np.zeros((8, 8, 3), np.uint8))
            print([answer.frame_age for answer in stream.results()])
        print(recordings.check("walk.mp4").row())
    """
).lstrip()
# What stands in the script, what a user writes in its place, and what mypy says of it.
MISTAKES = {
    "a misspelt argument": ('teacher="t", epochs=5', 'teacher="t", epoch=5', "epoch"),
    "swapped arguments": ("evaluate(model, store, precision", "evaluate(store, model, precision", "Model"),
    "a choice that is none": ('schedule="cosine"', 'schedule="linear"', "linear"),
    "a misspelt setting of a loss": ("nce_tau=0.2", "nce_tua=0.2", "nce_tua"),
    "a misspelt setting of a student": ("StudentSettings(num_frames=2)", "StudentSettings(frames=2)", "frames"),
    "a recipe in place of a stage's settings": ("train_clips, EGO4D.distillation", "train_clips, EGO4D", "Recipe"),
    "a misspelt argument of prepare()": ("workers=2", "worker=2", "worker"),
    "a choice that Stream lacks": ('frames="newest"', 'frames="next"', "next"),
    "a misspelt name of a room": ("recordings.check(", "recordings.chek(", "chek"),
    "a name that an output lacks": ("output.logits", "output.logit", "logit"),
}


def lay_out(package: Path, put) -> None:
    """Lay the library out as a wheel holds it; an editable install in strict mode has links."""
    for path in [*ROOT.glob("*.py"), *(one for sign in ROOT.glob("*/__init__.py") for one in sign.parent.glob("*.py"))]:
        name = Path("__init__.py") if path.name == "egodistill.py" else path.relative_to(ROOT)
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        put(path, package / name)
    (package / "py.typed").touch()


def mypy(folder: Path, library: Path) -> str:
    words = ["mypy", "--follow-imports=silent", "--strict", "right.py", "wrong.py"]
    env = os.environ | {"MYPYPATH": str(library), "MYPY_CACHE_DIR": str(folder / "cache")}
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, env=env, capture_output=True, text=True).stdout


def pyright(folder: Path, library: Path) -> str:
    settings = {"typeCheckingMode": "basic", "include": ["right.py", "wrong.py"], "extraPaths": [str(library)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    words = ["basedpyright", "--level", "error", "--pythonpath", sys.executable]
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True).stdout


CHECKERS = {"mypy": mypy, "basedpyright": pyright}


@pytest.mark.slow("type checkers from nothing")
@pytest.mark.parametrize(
    ("checker", "road"),
    [("mypy", "links"), ("mypy", "wheel"), *(("basedpyright", road) for road in ("checkout", "links", "wheel"))],
)
def test_a_type_checker_finds_planted_mistakes(checker, road, tmp_path):
    """And nothing else in a user's program. In a checkout, mypy stops at the door, which is a file."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed: the extra `test` has it")
    folder, library = tmp_path / "program", ROOT
    folder.mkdir()
    if road != "checkout":
        library = tmp_path / "library"
        lay_out(library / "egodistill", shutil.copy if road == "wheel" else lambda path, link: link.symlink_to(path))
    spoilt = SCRIPT
    for right, wrong, _ in MISTAKES.values():
        assert SCRIPT.count(right) == 1
        spoilt = spoilt.replace(right, wrong)
    (folder / "right.py").write_text(SCRIPT)
    (folder / "wrong.py").write_text(spoilt)
    printed = CHECKERS[checker](folder, library)
    found = re.findall(r"(right|wrong)\.py:(\d+)(?::\d+)?(?: -)?:? error: (.*(?:\n    .*)*)", printed)
    assert [one for one in found if one[0] == "right"] == [], printed
    for mistake, (_, wrong, word) in MISTAKES.items():
        number = str(spoilt[: spoilt.index(wrong)].count("\n") + 1)
        assert [text for _, line, text in found if line == number and word in text], f"{mistake}: not found\n{printed}"
    assert len({line for name, line, _ in found}) == len(MISTAKES), printed


def test_an_editor_knows_all_that_predict_takes():
    """Without an argument, `PathLike` is `PathLike[Unknown]`."""
    assert not re.search(r"PathLike(?!\[str\])", str(signature(egodistill.predict)))


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (training.TrainingOptions, Training),
        (distillation.PretrainingOptions, distillation.PretrainingSettings),
        (distillation.DistillationOptions, distillation.DistillationSettings),
    ],
)
def test_options_of_a_stage_are_the_fields_of_its_settings(options, settings):
    """Names and types: `distill(..., **options)` changes `DistillationSettings` by them."""
    assert get_type_hints(options) == get_type_hints(settings)
