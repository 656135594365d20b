"""What a type checker, and so an editor, knows of a user's program."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
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

    from egodistill import EGO4D, DistillationSettings, EgoDistill, Output, Recipe, StudentSettings, Training
    from egodistill import data, distill, evaluate, export, finetune, measure
    from egodistill import predict, pretrain_imu, retrieve, teachers
    from egodistill.batches import Model, Store, example_inputs
    from egodistill.distillation import action_loss
    from egodistill.training import Objective, train


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


    class Squares(Objective):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": action_loss(self.model(batch["imu"]), batch["label"])}


    def report(model: Model, store: Store) -> float:
        return evaluate(model, store, precision="auto", compile=False).top1


    def main(folder: Path) -> None:
        store = data.ClipStore(folder)
        train_clips, test = store.split("train"), store.split("test")
        teacher = teachers.Teacher.load(folder / "teacher.pt")
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
        frames, imu = example_inputs(model, 2)
        output = model(frames, imu)
        scores: Tensor = output.logits.softmax(1)
        finetune(Small(2), Memory(), epochs=1, device="cpu")
        exported: Output = export.load(folder / "student.onnx")(frames, imu)
        nearest: Tensor = retrieve(model, test, frames, imu, metric="l1").rows
        train(Squares(Small(2), ["imu"], {"stage": "squares"}), Memory(), Training(epochs=1))
        print(report(model, test), report(Small(2), Memory()), measure(model).gmacs, loss, scores, exported, nearest)
        for clip in predict(model, "walk.mp4"):
            print(clip.start, clip.classes)
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
    "a name that an output lacks": ("output.logits", "output.logit", "logit"),
}


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed: the extra `test` has it")
def test_mypy_finds_planted_mistakes(tmp_path):
    """And nothing else in a user's program; the package is laid out as it is installed."""
    package = tmp_path / "egodistill"
    package.mkdir()
    for path in ROOT.glob("*.py"):
        name = "__init__.py" if path.name == "egodistill.py" else path.name
        (package / name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (package / "py.typed").touch()
    spoilt = SCRIPT
    for right, wrong, _ in MISTAKES.values():
        assert SCRIPT.count(right) == 1
        spoilt = spoilt.replace(right, wrong)
    (tmp_path / "right.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text(spoilt)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "--strict", "right.py", "wrong.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(tmp_path), "MYPY_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line for line in errors if line.startswith("right.py")] == [], done.stdout + done.stderr
    for mistake, (_, wrong, word) in MISTAKES.items():
        number = spoilt[: spoilt.index(wrong)].count("\n") + 1
        found = [line for line in errors if line.startswith(f"wrong.py:{number}:") and word in line]
        assert found, f"{mistake} is not found\n{done.stdout}"
    numbers = {int(re.match(r"wrong.py:(\d+)", line)[1]) for line in errors}
    assert len(numbers) == len(MISTAKES), done.stdout


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
