"""Write the files by which later versions are compared with version 0.4.1: files.tar.xz and expected.json.

    PYTHONPATH=/path/to/0.4.1 OMP_NUM_THREADS=1 python make_041.py OUT

Everything in files.tar.xz was written by 0.4.1: a rendered world of three recordings is prepared, a teacher finetuned,
both stages trained, as the commands do it. Weights are rounded to 9 values per tensor (3 in networks that are not
trained, of which most are 0 in large tensors) before a file is written: the IMU encoder has 78 thousand of them
whatever the options, 0.3 MB, and such ones compress to a tenth. Batch norms
get statistics and scales away from their start, so that a model which ignores them has other outputs.
"""

import dataclasses
import json
import lzma
import math
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import egodistill
from egodistill import (
    EgoDistill,
    baselines,
    checkpoints,
    data,
    distill,
    export,
    extraction,
    finetune,
    pretrain_imu,
    synthetic,
    teachers,
)

assert egodistill.__version__.startswith("0.4.1"), egodistill.__version__
torch.set_num_threads(1)
SIZE, FRAMES = 32, 4
FAST = {"batch_size": 2, "precision": "fp32", "device": "cpu", "progress": False}
THINGS = ("cupboard", "carrot", "jug")


def frames(count: int, number: int = 1, size: int = SIZE) -> torch.Tensor:
    """Made frames, uint8 [count, number, 3, size, size]; a test makes the same ones."""
    values = torch.arange(count * number * 3 * size * size, dtype=torch.int64)
    return (
        (values * 7 % 251 * (values // (3 * size * size) + 1) % 256).to(torch.uint8).view(count, number, 3, size, size)
    )


def imu(count: int, samples: int = 422) -> torch.Tensor:
    """Made head motion, float32 [count, samples, 6]."""
    values = torch.arange(count * samples * 6, dtype=torch.float64)
    motion = (torch.sin(values * 0.013) + 0.5 * torch.sin(values * 0.37)).view(count, samples, 6)
    return (motion + torch.tensor([0.3, -0.5, 9.8, 0.1, -0.2, 0.05], dtype=torch.float64)).float()  # gravity and bias


def audio(count: int) -> torch.Tensor:
    """A made log-mel spectrogram, float32 [count, 201, 40]."""
    return torch.sin(torch.arange(count * 201 * 40, dtype=torch.float64) * 0.11).float().view(count, 201, 40)


def example(model: nn.Module, count: int = 2) -> list[torch.Tensor]:
    made = {
        "frames": lambda: frames(count, model.num_frames, model.frame_size),
        "imu": lambda: imu(count),
        "audio": lambda: audio(count),
    }
    if isinstance(model, teachers.Teacher):
        return [frames(count, model.clip_spec.frames, model.clip_spec.size)]
    return [made[name]() for name in model.inputs]


def simplify(model: nn.Module, *, fresh: float = 0.0) -> nn.Module:
    """Round the weights, with `fresh` new ones of this scale, and give all norms statistics and scales of their own."""
    with torch.no_grad():
        for seed in range(100):
            draw(model, torch.Generator().manual_seed(seed), fresh * (0.6 + 0.02 * seed))
            _, logits = model.eval()(*example(model))
            if not fresh or (0.2 < float((logits[0] - logits[1]).abs().max()) and float(logits.abs().max()) < 30):
                return model
    raise SystemExit(f"{type(model).__name__}: no seed gives outputs that differ, such as {logits}")


def draw(model: nn.Module, random: torch.Generator, fresh: float) -> None:
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=random)
        noise = (2 * noise).round() / 2 if value.ndim < 2 else noise
        if name.endswith("running_var"):
            value.copy_(0.5 + noise.abs() if fresh else value * (1 + 0.2 * noise.abs()))
        elif value.ndim > 1 and fresh:
            scale = fresh / math.sqrt(math.prod(value.shape[1:]))
            limit, size = (1.534, 2.828) if value.numel() > 1500 else (0.5, 1.27)
            value.copy_((noise.abs() > limit) * noise.sign() * size * scale)  # -1, 0 or 1; large ones mostly 0
        elif value.ndim > 1:
            step = value.abs().max() / 4
            value.copy_((value / step).round() * step)
        elif fresh:
            value.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
        else:
            value.add_(0.1 * noise)


def outputs(model: nn.Module, name: str) -> dict:
    with torch.no_grad():
        feature, logits = model(*example(model))
    spread = float((logits[0] - logits[1]).abs().max())  # a comparison of constants would say nothing
    assert spread > 1e-2 and logits.isfinite().all() and logits.abs().max() < 100, (name, logits)
    return {"feature": rounded(feature), "logits": rounded(logits)}


def rounded(values) -> list:
    return np.round(np.asarray(values, np.float64), 6).tolist()


def describe(path: str) -> dict:
    model = checkpoints.load_model(path)
    about = {"class": type(model).__name__, "class_names": model.class_names}
    about["arguments"] = json.loads(json.dumps(model.arguments))
    about["inputs"] = list(model.inputs)
    about["parameters"] = sum(p.numel() for p in model.parameters())
    about["fingerprint"] = checkpoints.weights_fingerprint(model)
    if isinstance(model, teachers.Teacher):
        about["name"], about["clip_spec"], about["fingerprint of the teacher"] = (
            model.name,
            model.clip_spec.record(),
            extraction.fingerprint(model),
        )
    return about | outputs(model, path)


def make_store() -> data.ClipStore:
    """Four clips of two wearers, one of them without a label, and one that failed."""
    world = synthetic.render(
        "world",
        train_acts=3,
        test_acts=1,
        train_wearers=1,
        test_wearers=1,
        seed=2,
        size=(SIZE, SIZE),
        things=THINGS,
        workers=1,
        progress=False,
    )
    segments = list(data.read_epic_kitchens(world.annotations, world.root))
    segments[1] = dataclasses.replace(segments[1], label=None)
    last = segments[-1]
    segments.append(dataclasses.replace(last, id="beyond", start=900.0, stop=902.0))
    options = {"num_frames": 1, "frame_size": SIZE, "clip_frames": FRAMES, "clip_size": SIZE}
    return data.prepare(segments, "store", **options, max_bad=0.5, workers=1, progress=False)


def describe_store(path: str) -> dict:
    store = data.ClipStore(path)
    arrays = {}
    for name in store.names:
        values = store.read(name, slice(0, len(store)))
        flat = values.reshape(len(store), -1).astype(np.float64)
        arrays[name] = {
            "dtype": str(values.dtype),
            "shape": list(values.shape),
            "first": rounded(flat[:, 0]),
            "last": rounded(flat[:, -1]),
            "mean": rounded(flat.mean(1)),
        }
    times = {name: rounded(store.read(f"{name}.times", slice(0, len(store)))) for name in ("frames_1", "clip", "ends")}
    return {
        "clips": store.clips,
        "labels": store.labels.tolist(),
        "wearers": list(store.wearers),
        "class_names": store.class_names,
        "splits": store.splits,
        "counts": store.counts,
        "names": store.names,
        "settings": store.settings,
        "specs": {name: spec.record() for name, spec in store.specs.items()},
        "fingerprint": store.fingerprint,
        "failures": store.failures,
        "arrays": arrays,
        "times": times,
        "train": len(store.split("train")),
        "test": len(store.split("test")),
    }


class Cut:
    """A store whose process dies in the second epoch."""

    def __init__(self, store, reads: int) -> None:
        self.store, self.left = store, reads

    def __getattr__(self, name):
        return getattr(self.store, name)

    def __len__(self):
        return len(self.store)

    def read(self, *arguments):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.store.read(*arguments)


def main(out: Path) -> None:
    store = make_store()
    classes = store.class_names
    train = store.split("train")
    labelled = train.select(train.labels >= 0)
    expected: dict = {"version": egodistill.__version__, "torch": torch.__version__}

    # A teacher, written by finetune(), and its outputs in the store.
    torch.manual_seed(0)
    options = {
        "frames": FRAMES,
        "size": SIZE,
        "width": 4,
        "depth_factor": 0.5,
        "feature_dim": 12,
        "pool": 1,
        "dropout": 0.0,
        "seconds": egodistill.CLIP_SECONDS,
    }
    teacher = teachers.load("x3d_m", None, class_names=classes, progress=False, **options)
    teacher.name = "x3d"
    finetune(simplify(teacher, fresh=1.5), labelled, epochs=2, learning_rate=2e-3, **FAST)
    simplify(teacher).save("x3d.pt")
    teachers.extract(teachers.Teacher.load("x3d.pt"), store, batch_size=2, device="cpu", progress=False)

    # The two stages of an EgoDistill.
    torch.manual_seed(0)
    small = {
        "feature_dim": 12,
        "image_encoder": "resnet10x2",
        "image_weights": None,
        "frame_size": SIZE,
        "hidden": 16,
        "fusion_layers": 1,
        "imu_width": 2,
    }
    student = simplify(EgoDistill(len(classes), class_names=classes, **small), fresh=0.7)
    pretrain_imu(student, train, teacher="x3d", epochs=2, learning_rate=3e-3, **FAST)
    simplify(student).save("imu.pt")
    student = EgoDistill.load("imu.pt")
    distill(student, train, teacher="x3d", epochs=2, learning_rate=3e-3, **FAST)
    simplify(student).save("student.pt")

    # VisOnly with the other choices of the constructor, except several frames: their GRU has 0.8 million weights.
    torch.manual_seed(0)
    visonly = EgoDistill(
        len(classes),
        class_names=classes,
        **(small | {"use_imu": False, "image_encoder": "resnet10x2", "sampling": "centre", "tolerance": 0.25}),
    )
    simplify(visonly, fresh=1.3).save("visonly.pt")

    # A training that was interrupted after the first of two epochs, and what becomes of it.
    settings = {"epochs": 2, "learning_rate": 2e-3, **FAST}
    torch.manual_seed(0)
    tiny = small | {"use_imu": False, "image_encoder": "resnet10x1"}
    simplify(EgoDistill(len(classes), class_names=classes, **tiny), fresh=1.3).save(
        "start.pt"
    )  # the checkpoint names it
    whole = EgoDistill.load("start.pt")
    distill(whole, train, teacher="x3d", checkpoint="whole.training", **settings)
    for reads in range(1, 40):  # until the end of the first epoch is behind
        Path("begun.training").unlink(missing_ok=True)
        model = EgoDistill.load("start.pt")
        try:
            distill(model, Cut(train, reads), teacher="x3d", checkpoint="begun.training", **settings)
        except KeyboardInterrupt:
            pass
        if Path("begun.training").exists() and torch.load("begun.training", weights_only=True)["state"]["epoch"] == 1:
            break
    else:
        raise SystemExit("no checkpoint of one epoch")
    expected["begun.training"] = {
        "stage": "distill",
        "teacher": "x3d",
        "split": "train",
        "settings": settings,
        "start": "start.pt",
        "epoch": 1,
        "weights when finished": checkpoints.weights_fingerprint(whole.eval()),
        **outputs(whole, "whole"),
    }

    # Other networks of teachers (except I3D, whose narrowest has 0.2 million weights), and the baselines: the names and layout of their weights.
    others = {
        "motionformer": (
            "motionformer_16x4",
            {"frames": 4, "size": SIZE, "patch": 16, "width": 12, "depth": 1, "heads": 3},
        ),
        "mvit": ("mvit_b_16x4", {"frames": 4, "size": SIZE, "width": 4, "depths": (1, 1, 1, 1), "kv_stride": 4}),
        "slowfast": (
            "slowfast_8x8_r50",
            {"frames": 8, "size": SIZE, "width": 8, "beta": 8, "depths": (1, 1, 1, 1), "stem_size": 3},
        ),
    }
    for name, (architecture, arguments) in others.items():
        torch.manual_seed(0)
        other = teachers.load(architecture, None, class_names=classes, progress=False, **arguments)
        other.name = name
        simplify(other, fresh=1.5).save(f"{name}.pt")
    torch.manual_seed(0)
    four = {"num_frames": 4, "frame_size": SIZE, "weights": None, "class_names": classes}
    simplify(baselines.AdaFuse(len(classes), width=2, depths=(1, 1, 1, 1), policy_hidden=4, **four), fresh=1.0).save(
        "adafuse.pt"
    )
    stts = baselines.STTS(
        len(classes),
        width=4,
        depths=(1, 1, 2, 1),
        samples=4,
        **baselines.STTS_VARIANTS["T0.5-S0.7"],
        **(four | {"frame_size": 64}),
    )
    simplify(stts, fresh=1.0).save("stts.pt")
    listen = baselines.ListenToLook(
        len(classes), feature_dim=12, width=2, depths=(1, 1, 1, 1), hidden=8, **(four | {"num_frames": 1})
    )
    simplify(listen, fresh=1.0).save("listentolook.pt")

    # Programs: of the student, and of its two parts.
    student = EgoDistill.load("student.pt")
    export.export(student, "student.pt2")
    export.export_pair(student, "device.pt2")

    expected["store"] = describe_store("store")
    names = sorted(path.name for path in Path().glob("*.pt"))
    expected["models"] = {name: describe(name) for name in names}
    with torch.no_grad():
        program, pair = export.load("student.pt2"), export.load_pair("device.pt2")
        image = pair.encode_frames(frames(2))
        results = {"student.pt2": program(*example(student)), "device.pt2": pair.fuse(image, imu(2))}
    expected["programs"] = {
        name: {"feature": rounded(feature), "logits": rounded(logits)} for name, (feature, logits) in results.items()
    }

    # One archive: equal weights in several files are stored once.
    shutil.rmtree("world")
    Path("whole.training").unlink()
    Path("whole.jsonl").unlink(missing_ok=True)
    Path("store/store.lock").unlink(missing_ok=True)
    found = sorted(path for path in Path().rglob("*") if path.is_file())
    kind = {".pt": 1, ".training": 1, ".pt2": 2}
    found.sort(key=lambda path: (kind.get(path.suffix, 0), path.as_posix()))
    out.mkdir(parents=True, exist_ok=True)
    with (
        lzma.open(out / "files.tar.xz", "wb", preset=9 | lzma.PRESET_EXTREME) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in found:
            info = tar.gettarinfo(path, path.as_posix())
            info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode = 0, 0, 0, "", "", 0o644
            with open(path, "rb") as file:
                tar.addfile(info, file)
    text = "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in expected.items()) + "\n}"
    (out / "expected.json").write_text(text + "\n")
    for path in found:
        if "store/" not in path.as_posix():
            print(f"{path.stat().st_size:9,}  {path}")
    print(f"{sum(p.stat().st_size for p in found if 'store/' in p.as_posix()):9,}  store/")
    print(f"{(out / 'files.tar.xz').stat().st_size:9,}  files.tar.xz\n{len(text):9,}  expected.json")


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # paths in the store are relative
        main(target)
        os.chdir("/")
