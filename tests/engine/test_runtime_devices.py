"""A device that is not the CPU: every stage on a simulated accelerator (simulated.py) gives what the CPU gives.

All run in one process of their own, since the device stays registered; what it printed is judged here.
"""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import examples
import numpy as np
import pytest
import simulated
import torch
from toys import Store, small

import egodistill
from egodistill import Augment, EgoDistill, Stream, data, teachers, training
from egodistill.deploy import export
from egodistill.engine import runtime

TESTS = Path(__file__).parents[1]
EXACT = {"precision": "fp32", "progress": False}
BRIEF = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, **EXACT}


class Clips(Store):
    """... with one frame of each clip or two."""

    def __init__(self, clips, seed=0):
        super().__init__(clips, seed=seed)
        self.arrays["frames_2"] = self.arrays["ends"]


class Stop(Exception):
    """The end of an interrupted training."""


class Interrupted(Clips):
    """A store that ends a training in its second epoch."""

    def read(self, name, index):
        self.reads = getattr(self, "reads", 0) + 1
        if self.reads > 16:
            raise Stop
        return super().read(name, index)


def trained(stage, device, model, **options):
    history = getattr(egodistill, stage)(model, Clips(16), device=device, **BRIEF | options)
    return [*(epoch["loss"] for epoch in history), *outputs(model)]


def outputs(model):
    """What a model says on the CPU."""
    clips = Clips(4, seed=2)
    arrays = {"frames": clips.arrays[f"frames_{model.num_frames}"], "imu": clips.arrays["imu"]}
    with torch.no_grad(), runtime.evaluation(model, torch.device("cpu")):
        return model(*(torch.from_numpy(arrays[name]) for name in model.inputs)).logits.flatten().tolist()


def finetune_both(device):
    return trained("finetune", device, small(num_frames=2), augment=Augment(crop=0.3, jitter=0.2, shift=0.05))


def finetune_frames(device):
    # In one step: in the second, rounding puts a hidden number of these clips on the other side of a ReLU.
    return trained("finetune", device, small(imu_encoder=None), batch_size=16)


def pretrain(device):
    return trained("pretrain_imu", device, small(), teacher="t")


def distil(device):
    return trained("distill", device, small(num_frames=2), teacher="t")


def distil_spectrum(device):
    return trained("distill", device, small(imu_encoder="spectrum"), teacher="t")


def distil_filterbank(device):
    return trained("distill", device, small(imu_encoder="filterbank"), teacher="t")


def goes_on_on_the_cpu(device):
    return goes_on(device, "cpu", "from")


def goes_on_from_the_cpu(device):
    return goes_on("cpu", device, "to")


def goes_on(first, second, way):
    """A training that ends on one device in its second epoch, and goes on on another."""
    settings = {"teacher": "t", "checkpoint": f"{way}-{first}-{second}.pt", "checkpoint_seconds": 0.0, **BRIEF}
    settings["epochs"] = 2
    try:
        egodistill.distill(small(), Interrupted(16), device=first, **settings)
    except Stop:
        pass
    else:
        raise AssertionError("it was not interrupted")
    return trained("distill", second, small(), **settings)


def finetune_a_teacher(device):
    history = egodistill.finetune(teacher(device), data.ClipStore("store").split("train"), device=device, **BRIEF)
    return [epoch["loss"] for epoch in history]


def extract(device):
    store, model = data.ClipStore("store"), teacher(device)
    teachers.extract(model, store, device=device, **EXACT)
    found = [store.read(f"{model.name}.{name}", slice(None)) for name in ("feature", "logits")]
    return np.concatenate(found, axis=1).flatten().tolist()


def evaluate(device):
    test = data.ClipStore("store").split("test")
    return egodistill.evaluate(student(), test, device=device, **EXACT).scores.flatten().tolist()


def agreement(device):
    test = data.ClipStore("store").split("test")
    found = egodistill.inference.agreement(student(), test, teacher="x3d", device=device, **EXACT)
    return [found.kl]


def predict(device):
    found = egodistill.predict(student(), "walk.mp4", imu="walk.csv", device=device, precision="fp32")
    return [score for clip in found for _, score in sorted(clip.classes)]


def stream(device):
    model, walk = student().to(device), data.read_imu("walk.csv")
    with Stream(model, every=0.5, precision="fp32") as live:
        answers = []
        for step in range(30):
            rows = slice(20 * step, 20 * step + 20)
            live.accept_imu(walk.accel_time[rows], np.hstack([walk.accel[rows], walk.gyro[rows]]))
            moment = float(walk.accel_time[rows][-1])
            if live.wants_frame(moment):
                live.accept_frame(moment, np.full((64, 64, 3), 8 * step, np.uint8))
            answers += live.results()
    assert len(answers) > 1
    return [score for answer in answers for _, score in sorted(answer.classes)]


def exported(device):
    """A student on the device becomes a file for the CPU."""
    model, file = student().to(device), f"{device}.pt2"
    export.export(model, file)
    frames, imu = torch.full((2, 1, 3, 64, 64), 100, dtype=torch.uint8), torch.linspace(-1, 1, 2 * 422 * 6)
    return export.load_exported(file)(frames, imu.view(2, 422, 6)).logits.flatten().tolist()


def measure(device):
    found = egodistill.measure(student(), device=device, batch_size=2, repeats=1)
    return [found.gmacs, found.params]


def save_and_load(device):
    small().to(device).save(f"{device}-small.safetensors")
    return outputs(EgoDistill.load(f"{device}-small.safetensors"))


STAGES = [
    finetune_both,
    finetune_frames,
    pretrain,
    distil,
    distil_spectrum,
    distil_filterbank,
    goes_on_on_the_cpu,
    goes_on_from_the_cpu,
]
STAGES += [finetune_a_teacher, extract, evaluate, agreement, predict, stream, exported, measure, save_and_load]


def student():
    return EgoDistill.load("student.safetensors").eval()


def teacher(device):
    torch.manual_seed(0)
    model = teachers.load("x3d_m", class_names=data.ClipStore("store").class_names, **examples.TEACHER)
    model.name = f"on-{device}"
    return model


class Constant(EgoDistill):
    """A forward pass that makes a tensor where it happens to be."""

    def fuse(self, image, imu):
        return super().fuse(image + torch.zeros(image.shape[1]), imu)


class Numpy(EgoDistill):
    """A forward pass that reads numbers without taking them to the CPU."""

    def fuse(self, image, imu):
        return super().fuse(image * float(image.detach().numpy().any()), imu)


AUGMENT = Augment(crop=0.3, jitter=0.2, shift=0.05, motion=("walk.csv",))


def waits():
    """Of each step but the first of a stage, with the reading thread's; some clips have no label, others no teacher."""
    found, run_step, some = {}, training.TrainingLoop.run_step, Clips(88)

    def counted(*arguments):
        run_step(*arguments)
        found[stage].append(torch.ops.sim.issued()[1])

    some.labels[::3] = -1
    cases = {
        "finetune": {"store": some, "clip_norm": 1.0},
        "distill": {"store": some, "teacher": "t", "augment": AUGMENT},
        "pretrain_imu": {"store": some, "teacher": "t", "teacher_rows": np.arange(88) % 4 > 0},
    }
    with mock.patch.object(training.TrainingLoop, "run_step", counted):
        for stage, case in cases.items():
            found[stage] = []
            getattr(egodistill, stage)(small(), device="sim", **BRIEF | {"batch_size": 4} | case)
    return {stage: np.diff(counts).tolist() for stage, counts in found.items()}


def operations():
    """Of a training of four steps, with few clips in a step and with many."""
    found = []
    for size in (8, 64):
        before = torch.ops.sim.issued()[0]
        options = BRIEF | {"batch_size": size, "augment": AUGMENT}
        egodistill.finetune(small(num_frames=2), Clips(4 * size), device="sim", **options)
        found.append(torch.ops.sim.issued()[0] - before)
    return found


SPOILT = training.epoch_order(88, training.Training(), 0)[12:16].tolist()  # the clips of the fourth step


class Spoilt(Clips):
    """A store with a clip whose loss overflows, in the fourth step of a training."""

    def read(self, name, index):
        array = super().read(name, index)
        if name == "imu" and list(index) == SPOILT:
            array[1, ::2] = 1e38
        return array


class Mean(torch.nn.Module):
    """A network without batch norm: what is not finite stays in its clip."""

    inputs = ("imu",)

    def __init__(self):
        super().__init__()
        self.feature, self.classifier = torch.nn.Linear(6, 8), torch.nn.Linear(8, 4)

    def forward(self, imu):
        feature = self.feature(imu.mean(1))
        return egodistill.Output(feature, self.classifier(feature))


def spoilt_loss(seconds):
    """The error, how many steps were begun, whether the weights are finite, and the step of the checkpoint, if any."""
    model, path, begun, run_step = Mean(), Path(f"spoilt-{seconds}.pt"), [], training.TrainingLoop.run_step
    told = ""
    with mock.patch.object(training.TrainingLoop, "run_step", lambda *a: begun.append(a) or run_step(*a)):
        try:
            options = BRIEF | {"batch_size": 4, "checkpoint": path, "checkpoint_seconds": seconds}
            egodistill.finetune(model, Spoilt(88), device="sim", **options)
        except egodistill.EgoDistillError as error:
            told = str(error)
    saved = torch.load(path, "cpu", weights_only=True)["state"]["step"] if path.exists() else None
    return told, len(begun), all(bool(weight.isfinite().all()) for weight in model.parameters()), saved


ASKED = {
    "waits": waits,
    "operations": operations,
    "a spoilt loss": functools.partial(spoilt_loss, 300.0),
    "a spoilt loss before a checkpoint": functools.partial(spoilt_loss, 0.0),
}


def main(library):
    """Print a line of JSON for each stage: its name, and what it gave on both devices or the error."""
    simulated.register(library)
    # Its usual 1e-8 makes a whole step of a gradient that is nothing but rounding.
    torch.optim.AdamW = functools.partial(torch.optim.AdamW, eps=0.1)
    for stage in STAGES:
        found = {}
        for device in ("cpu", "sim"):
            before = torch.ops.sim.copies()
            try:
                found[device] = stage(device)
            except Exception as error:
                found[device] = f"{type(error).__name__}: {error}"
            found[f"copies of {device}"] = [b - a for a, b in zip(before, torch.ops.sim.copies(), strict=True)]
        print(json.dumps({"stage": stage.__name__} | found), flush=True)
    for name, asked in ASKED.items():
        print(json.dumps({"stage": name, "sim": asked()}), flush=True)
    for fault in (Constant, Numpy):
        torch.manual_seed(0)
        model = fault(4, feature_dim=12, image_weights=None, frame_size=32, hidden=32)
        try:
            said = trained("finetune", "sim", model)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        print(json.dumps({"stage": fault.__name__, "sim": said}), flush=True)


@pytest.fixture(scope="module")
def found(once, tmp_path_factory):
    """{stage: what it gave}"""
    if simulated.COMPILER is None:
        pytest.skip("needs a C++ compiler, c++ or g++, to build the simulated device")
    folder = tmp_path_factory.mktemp("devices")
    simulated.build(folder / "sim.so")
    made = once("examples", lambda folder: examples.make(folder / "made"))
    place = shutil.copytree(made, folder / "work")
    code = f"import sys; sys.path[:0] = {[str(TESTS.parent), str(TESTS), str(TESTS / 'engine')]!r}\n"
    code += f"import test_runtime_devices as tests; tests.main({str(folder / 'sim.so')!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {line["stage"]: line for line in map(json.loads, done.stdout.splitlines())}


pytestmark = pytest.mark.slow("compiles C++; in .ci/run by tools/lane.py")


@pytest.mark.parametrize("stage", [stage.__name__ for stage in STAGES])
def test_a_stage_gives_there_what_it_gives_on_the_cpu(found, stage):
    on = found[stage]
    assert isinstance(on["cpu"], list) and len(on["cpu"]) > 0, on["cpu"]
    assert isinstance(on["sim"], list), on["sim"]
    np.testing.assert_allclose(on["sim"], on["cpu"], rtol=1e-3, atol=1e-3)
    assert on["copies of sim"][0] > 0  # it was there


@pytest.mark.parametrize(
    ("fault", "told"),
    [("Constant", "RuntimeError: Expected all tensors to be on"), ("Numpy", "TypeError: can't convert")],
)
def test_what_only_works_on_the_cpu_fails_there(found, fault, told):
    assert str(found[fault]["sim"]).startswith(told)


def test_a_training_waits_for_the_device_once_in_ten_steps(found):
    for stage, waited in found["waits"]["sim"].items():
        assert waited == [*8 * [0], 1, *9 * [0], 1, 0, 0], stage


def test_a_batch_of_more_clips_takes_no_more_operations_of_the_device(found):
    few, many = found["operations"]["sim"]
    assert few == many > 1000


def test_a_loss_that_is_not_finite_is_told_within_ten_steps_and_reaches_neither_weights_nor_a_checkpoint(found):
    place = f"in epoch 0, step 3 (clips {', '.join(map(str, SPOILT))})"
    told, begun, finite, saved = found["a spoilt loss"]["sim"]
    assert place in told and begun == 10 and finite and saved is None
    told, begun, finite, saved = found["a spoilt loss before a checkpoint"]["sim"]
    assert place in told and begun == 4 and finite and saved == 3
