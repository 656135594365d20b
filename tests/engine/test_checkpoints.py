"""Files of models, and published weights: strict loading, layouts, no code that runs."""

import functools
import io
import math
import os
import pickle
import re
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import model_files
import numpy as np
import pytest
import torch
from small_teachers import (
    SMALL,
    SMALL_MOTIONFORMER,
    SMALL_MVIT,
    SMALL_SLOWFAST,
    SMALL_X3D,
    narrow,
    random_clips,
    settle,
    small,
)
from toys import FAST, Store as StudentStore, small as small_student

from egodistill import (
    EgoDistill,
    EgoDistillError,
    EgoDistillOSError,
    distill,
    finetune,
    pretrain_imu,
    teachers,
    training,
)
from egodistill.commands import cli
from egodistill.engine import batches, checkpoints, models, safetensors
from egodistill.engine.calibration import Calibration, calibration_of
from egodistill.engine.teacher import channels_last

# --- model files -----------------------------------------------------------------------------


def test_a_file_holds_everything(tmp_path):
    teacher = narrow(mean=(0.1, 0.2, 0.3), channels="BGR", seconds=1.5, name="mine", stem_size=5)
    channels_last(teacher)  # as a loaded one is, for the same bits
    clip = torch.from_numpy(random_clips(2))
    teacher.save(tmp_path / "teacher.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.safetensors"]

    state = torch.get_rng_state()
    copy = teachers.Teacher.load(tmp_path / "teacher.safetensors")
    assert torch.equal(state, torch.get_rng_state())  # loading is not a random event
    assert not copy.training
    for one, other in zip(teacher(clip), copy(clip), strict=True):
        assert torch.equal(one, other)
    for field in ("clip_spec", "pixels", "class_names", "name", "feature_dim"):
        assert getattr(copy, field) == getattr(teacher, field)
    copy.train()(clip).logits.sum().backward()  # and it can be trained on
    assert copy.net.head.projection.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_could_not_be_loaded_again_are_not_written(tmp_path, dtype):
    path = tmp_path / "teacher.safetensors"
    with pytest.raises(
        EgoDistillError, match=rf"teacher.safetensors: not written: .* is {dtype}; call model.float\(\)"
    ):
        narrow().to(dtype).save(path)
    assert not path.exists()


def test_arrays_as_arguments_can_be_read_again(tmp_path):
    """They were written as objects of numpy, which load() refuses."""
    made = small("mvit_b_16x4", depths=np.array([1, 1, 1, 1]))
    made.save(tmp_path / "t.safetensors")
    assert teachers.Teacher.load(tmp_path / "t.safetensors").net.arguments["depths"] == (1, 1, 1, 1)


class Gains(EgoDistill):
    """A class with an argument of its own."""

    def __init__(self, num_classes, gains=None, **options):
        super().__init__(num_classes, **options)
        self.arguments["gains"] = self.gains = gains


@pytest.mark.parametrize(
    ("given", "found"), [([1, 2], (1, 2)), ((1, 2), (1, 2)), ({"a": [0.1]}, {"a": (0.1,)}), (None, None)]
)
def test_an_argument_of_a_class_of_ones_own_comes_back(given, found, tmp_path):
    """With tuples for lists."""
    Gains(3, given, image_encoder="resnet10x4", image_weights=None, hidden=8).save(tmp_path / "s.safetensors")
    assert Gains.load(tmp_path / "s.safetensors").gains == found


def test_a_buffer_may_be_infinite_until_it_is_written(tmp_path):
    """Such as a smallest value that the training will find."""
    model = small_student()
    model.register_buffer("least", torch.tensor(math.inf))
    assert checkpoints.file_content(model, tmp_path / "s.safetensors")[1]["least"] == math.inf
    with pytest.raises(EgoDistillError, match="these weights are not finite: least"):
        model.save(tmp_path / "s.safetensors")


@pytest.mark.parametrize("value", [{0: 3.0}, [{(1, 2): 0.5}], float("nan")])
def test_an_argument_that_json_changes_is_not_written(value, tmp_path):
    model = small_student()
    model.arguments["gains"] = value
    with pytest.raises(EgoDistillError, match=r"s.safetensors: not written, because (JSON|its arguments are no JSON)"):
        model.save(tmp_path / "s.safetensors")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16])
def test_a_buffer_that_a_file_cannot_have_is_told_before_the_training(dtype, tmp_path):
    model = small_student()
    model.register_buffer("odd", torch.zeros(2, dtype=dtype))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(EgoDistillError, match=f"s.safetensors: not written: odd is {dtype}, which a model file cannot"):
        finetune(model, StudentStore(8), out=tmp_path / "s.safetensors", **FAST)
    assert all(map(torch.equal, before.values(), model.state_dict().values())) and not any(tmp_path.iterdir())


def test_numpy_numbers_anywhere_in_a_file_can_be_read_again(tmp_path):
    """Such as the frame size of a teacher's clips."""
    spec = {"size": np.int64(16), "labels": [np.str_("a"), (np.float64(0.5),)], "weights": {"a": torch.ones(2)}}
    checkpoints.write_checkpoint(tmp_path / "a.pt", {"format": "mine 1", **spec})
    found = checkpoints.read_checkpoint(tmp_path / "a.pt", "mine 1")
    assert found["size"] == 16 and found["labels"] == ["a", (0.5,)] and found["weights"]["a"].tolist() == [1, 1]
    teacher = narrow()
    teacher.clip_spec = replace(teacher.clip_spec, size=np.int64(teacher.clip_spec.size))
    teacher.save(tmp_path / "t.safetensors")
    assert teachers.Teacher.load(tmp_path / "t.safetensors").clip_spec == teacher.clip_spec


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "teacher.safetensors"
    narrow(seed=1).save(path)
    before = path.read_bytes()

    def killed(target, content):
        target.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        narrow(seed=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "teacher.safetensors"
    narrow(seed=1).save(path)
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(EgoDistillOSError) as error:
        narrow(seed=2).save(path)
    assert f"{path}: cannot be written (" in str(error.value) and "MB are free there" in str(error.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def without_weight(record, weights):
    del weights["net.s2_fuse.bn.bias"]


def with_bias(value):
    return lambda record, weights: weights.update({"net.head.projection.bias": value})


def with_entry(*place, **values):
    """A change of the record, or of a dict that lies in it at these keys."""
    return lambda record, weights: functools.reduce(dict.__getitem__, place, record).update(values)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (without_weight, ["1 missing (net.s2_fuse.bn.bias)"]),
        (lambda record, weights: weights.update({"net.s9.weight": torch.zeros(2)}), ["1 unexpected (net.s9.weight)"]),
        (with_bias(torch.zeros(7)), ["head.projection.bias", "[7]", "[3]"]),
        (with_bias(torch.zeros(3, dtype=torch.int64)), ["head.projection.bias", "int64"]),
        (with_bias(torch.zeros(3, dtype=torch.float16)), ["head.projection.bias", "float16"]),
        (with_bias(torch.full((3,), math.nan)), ["1 not finite (net.head.projection.bias)"]),
        (with_entry(format="other"), ["no model of this library: its format is 'other'"]),
        (with_entry(**{"class": "Nothing"}), ["of the class Nothing, not Teacher"]),
        (with_entry(**{"class": "EgoDistill"}), ["of the class EgoDistill, not Teacher; read it with EgoDistill.load"]),
        (with_entry("arguments", network="Nothing"), ["do not build", "Nothing"]),
        (with_entry("arguments", "options", colour="red"), ["colour"]),
        (with_entry("arguments", "options", width=-8), ["do not build"]),
        (with_entry("arguments", clip_spec=None), ["do not build"]),
        (with_entry("arguments", "pixels", channels="GBR"), ["do not build", "GBR"]),
        (lambda record, weights: record.pop("class_names"), ["does not describe a model", "class_names"]),
        (with_entry(arguments=[1, 2]), ["does not describe a model"]),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, edit, words):
    path = tmp_path / "teacher.safetensors"
    narrow().save(path)
    model_files.change(path, edit)
    with pytest.raises(EgoDistillError) as caught:
        teachers.Teacher.load(path)
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_foreign_and_truncated_files_are_named(tmp_path):
    whole = tmp_path / "whole.safetensors"
    narrow().save(whole)
    weights = safetensors.pack({"a": torch.zeros(2)}, {})
    contents = {
        "cut": (whole.read_bytes()[:-4000], "cannot be read: it is damaged"),
        "text": (b"not a checkpoint\n" * 100, "cannot be read: it is damaged"),
        "empty": (b"", "cannot be read: it is damaged"),
        "weights": (weights, "no model of this library: its format is None"),
        "words": (safetensors.pack({}, {"egodistill": "words"}), "does not describe a model"),
        "list": (safetensors.pack({}, {"egodistill": "[]"}), "does not describe a model"),
    }
    for name, (content, words) in contents.items():
        (path := tmp_path / f"{name}.safetensors").write_bytes(content)
        with pytest.raises(EgoDistillError, match=f"{name}.safetensors {words}|{name}.safetensors is {words}"):
            teachers.Teacher.load(path)
    with pytest.raises(EgoDistillOSError, match=r"absent\.safetensors: no such file"):
        teachers.Teacher.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("name", ["student.pt", "student", "student.safetensors.training", "student.SAFETENSORS"])
def test_a_model_file_has_one_suffix(tmp_path, name):
    """Another is refused in a sentence, by who writes and by who reads."""
    said = rf"{re.escape(name)}: the name of a model file must end in \.safetensors"
    with pytest.raises(EgoDistillError, match=said):
        small_student().save(tmp_path / name)
    torch.save({"format": "egodistill model 1"}, tmp_path / name)  # what no release ever wrote
    with pytest.raises(EgoDistillError, match=said):
        EgoDistill.load(tmp_path / name)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("writer", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, 2))])
def test_code_in_a_file_does_not_run(tmp_path, writer):
    writer({"model_state": {"class": Malicious(tmp_path / "ran")}}, tmp_path / "x.safetensors")
    for read in (teachers.Teacher.load, checkpoints.read_weights):
        with pytest.raises(EgoDistillError, match=r"x\.safetensors cannot be read"):
            read(tmp_path / "x.safetensors")
    assert not (tmp_path / "ran").exists()


def test_a_missing_right_is_no_damage(tmp_path, monkeypatch):
    def refuse(name, mode):
        raise PermissionError(13, "Permission denied", str(name))

    small_student().save(tmp_path / "a.safetensors")
    monkeypatch.setattr(checkpoints, "open", refuse, raising=False)
    with pytest.raises(EgoDistillOSError, match=r"a\.safetensors: cannot be read: Permission denied"):
        EgoDistill.load(tmp_path / "a.safetensors")


def test_code_in_a_file_does_not_run_whoever_reads_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    path = tmp_path / "evil.pt"
    torch.save({"format": training.TRAINING_FORMAT, "about": Evil()}, path)
    for read in (
        checkpoints.read_weights,
        lambda path: small_student(image_weights=path),
        lambda path: distill(small_student(), StudentStore(16), teacher="t", **FAST | {"checkpoint": path}),
    ):
        with pytest.raises(ValueError, match=r"evil\.pt cannot be read.*contains code"):
            read(path)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, full_disk):
    path, model = tmp_path / "student.safetensors", small_student(image_encoder="squeezenet1_1")
    model.save(path)
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(OSError) as error:
        model.save(path)
    assert isinstance(error.value, EgoDistillError) and str(path) in str(error.value)
    assert f"needs {len(before) / 1e6:.0f}" in str(error.value) and "too large" in str(error.value).lower()
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["student.safetensors"]


def transpose_square(record, weights):
    """Transpose the first square matrix, which then has the same shape."""
    name = next(name for name, x in weights.items() if x.ndim >= 2 and x.shape[0] == x.shape[1] > 1)
    weights[name] = weights[name].transpose(0, 1)


def exchange_layers(record, weights):
    """Exchange two tensors of one shape and other values."""
    known = {}
    for name, x in weights.items():
        other = known.setdefault((x.shape, x.dtype), name)
        if not torch.equal(weights[other], x):
            weights[name], weights[other] = weights[other], x
            return
    raise AssertionError("no two layers have the same shape")


def turn_classes(record, weights):
    record["class_names"].reverse()


def change_setting(**values):
    return with_entry("arguments", **values)


STUDENT_FAULTS = {
    "frame size": change_setting(frame_size=48),
    "rate": change_setting(imu_rate=100.0),
    "sampling": change_setting(sampling="first"),
    "axes": change_setting(imu_axes="mine"),
    "clip length": change_setting(clip_seconds=1.0),
    "key frames": change_setting(exact=False),
    "stage": with_entry(trained_by="distill"),
    "settings": with_entry(trained_with={"about": {"epochs": 1}, "history": []}),
    "temperature": with_entry(calibration={"temperature": 1.6}),
}
FAULTS = {"transposed": transpose_square, "exchanged": exchange_layers, "class order": turn_classes}
MADE = {
    "student": (lambda: small_student(class_names=list("abcd"), hidden=8, fusion_layers=2), FAULTS | STUDENT_FAULTS),
    "teacher": (
        lambda: settle(small("mvit_b_16x4")),
        FAULTS | {"clip length": with_entry("arguments", "clip_spec", seconds=9.0)},
    ),
}


@pytest.mark.parametrize(("kind", "fault"), [(kind, fault) for kind, (_, faults) in MADE.items() for fault in faults])
def test_weights_and_settings_that_were_changed_in_the_file_are_refused(tmp_path, kind, fault):
    build, faults = MADE[kind]
    build().save(path := tmp_path / "model.safetensors")
    model_files.change(path, faults[fault], tmp_path / "changed.safetensors", seal=False)
    said = "changed.safetensors does not have the weights and settings that were saved"
    with pytest.raises(EgoDistillError, match=said):
        models.load_any(tmp_path / "changed.safetensors")
    model_files.change(path, lambda record, weights: record.pop("sha256"), tmp_path / "changed.safetensors", seal=False)
    with pytest.raises(EgoDistillError, match=said):
        models.load_any(tmp_path / "changed.safetensors")
    models.load_any(path)


def test_a_file_keeps_the_stage_that_trained_it_last(tmp_path):
    model, store = small_student(), StudentStore(8)
    for stage, name in ((None, None), (pretrain_imu, "pretrain_imu"), (distill, "distill"), (finetune, "finetune")):
        if stage is not None:
            stage(model, store, **FAST | {"epochs": 1} | ({} if stage is finetune else {"teacher": "t"}))
        model.save(tmp_path / "model.safetensors")
        model = EgoDistill.load(tmp_path / "model.safetensors")
        assert model.trained_by == name


@pytest.mark.parametrize("moment", [1, 5, 40])
def test_ctrl_c_while_a_file_is_written_is_no_error_of_the_disk(moment, tmp_path, monkeypatch):
    """torch ends the archive all the same, and complains about that."""

    class Interrupted(io.FileIO):
        written = 0

        def write(self, content):
            self.written += 1
            if self.written == moment:
                raise KeyboardInterrupt
            return super().write(content)

    path = tmp_path / "x.pt"
    content = {f"{number}": torch.zeros(1000) for number in range(30)}
    checkpoints.write_checkpoint(path, content)
    before = path.read_bytes()
    monkeypatch.setattr(checkpoints, "open", lambda part, mode: Interrupted(part, mode), raising=False)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.write_checkpoint(path, content | {"more": torch.ones(3)})
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def test_a_class_of_ones_own_loads_what_it_saved(tmp_path):
    class Mine(EgoDistill):
        pass

    torch.manual_seed(0)
    model = Mine(2, image_encoder="resnet10x4", image_weights=None, hidden=8)
    model.save(tmp_path / "mine.safetensors")
    with pytest.raises(EgoDistillError, match=r"its class is \S+Mine, which is not of this library"):
        EgoDistill.load(tmp_path / "mine.safetensors")
    with pytest.raises(EgoDistillError, match="is a model of this library, not published weights"):
        checkpoints.read_weights(tmp_path / "mine.safetensors")
    again = Mine.load(tmp_path / "mine.safetensors")
    assert type(again) is Mine and again.arguments == model.arguments
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


# --- published weights -----------------------------------------------------------------------


def as_pytorchvideo(state, network):
    """Keys as pytorchvideo has them, from ours (= PySlowFast's)."""
    renamed = {}
    for key, value in state.items():
        stage = re.match(r"s(\d)\.pathway(\d)_res(\d+)\.(.*)", key)
        fusion = re.match(r"s(\d)_fuse\.(conv_f2s|bn)\.(.*)", key)
        if stage:
            number, pathway, block, rest = stage.groups()
            path = "" if network == "x3d_m" else f"multipathway_blocks.{pathway}."
            rest = re.sub(r"^branch1\.", "branch1_conv.", rest).replace("branch1_bn", "branch1_norm")
            rest = rest.replace("branch2.se.fc1", "branch2.norm_b.1.block.0")
            rest = rest.replace("branch2.se.fc2", "branch2.norm_b.1.block.2")
            norm_b = "norm_b.0" if network == "x3d_m" else "norm_b"
            rest = re.sub(r"branch2\.b_bn", f"branch2.{norm_b}", rest)
            rest = re.sub(r"branch2\.([ac])_bn", r"branch2.norm_\1", rest)
            rest = re.sub(r"branch2\.([abc])\.", r"branch2.conv_\1.", rest)
            key = f"blocks.{int(number) - 1}.{path}res_blocks.{block}.{rest}"
        elif fusion:
            number, part, rest = fusion.groups()
            part = {"conv_f2s": "conv_fast_to_slow", "bn": "norm"}[part]
            key = f"blocks.{int(number) - 1}.multipathway_fusion.{part}.{rest}"
        elif network == "x3d_m":
            key = key.replace("s1.pathway0_stem.conv_xy", "blocks.0.conv.conv_t")
            key = key.replace("s1.pathway0_stem.conv", "blocks.0.conv.conv_xy")
            key = key.replace("s1.pathway0_stem.bn", "blocks.0.norm")
            key = key.replace("head.conv_5_bn", "blocks.5.pool.pre_norm")
            key = key.replace("head.conv_5", "blocks.5.pool.pre_conv")
            key = key.replace("head.lin_5", "blocks.5.pool.post_conv")
            key = key.replace("head.projection", "blocks.5.proj")
        else:
            key = re.sub(r"s1\.pathway(\d)_stem", r"blocks.0.multipathway_blocks.\1", key)
            key = key.replace(".bn.", ".norm.").replace("head.projection", "blocks.6.proj")
        renamed[key] = value
    return renamed


def as_caffe2(state):
    """Blobs of a SlowFast as Caffe2 names them, which counts no batches and knows momentum."""
    norm = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    fused = {"1": "t_pool1_subsample"}
    fused |= {k: f"t_res{k}_0_branch2c_bn_subsample" for k in "234"}  # depth 1: the last is 0
    blobs = {"lr": np.float32(0.1), "model_iter": np.int64(3)}
    for key, value in state.items():
        *path, last = key.split(".")
        if last == "num_batches_tracked":
            continue
        t = "t_" if "pathway1" in key else ""
        letter = norm[last] if "bn" in path[-1] else {"weight": "w", "bias": "b"}[last]
        if path[0] == "head":
            blob = f"pred_{letter}"
        elif path[0].endswith("_fuse"):
            blob = fused[path[0][1]] + ("_bn_" if path[1] == "bn" else "_") + letter
        elif path[0] == "s1":
            blob = t + (f"res_conv1_bn_{letter}" if path[2] == "bn" else f"conv1_{letter}")
        else:
            blob = f"{t}res{path[0][1]}_{path[1][-1]}_" + "".join(path[2:]) + f"_{letter}"
        blobs[blob] = value.numpy()
        blobs[f"{blob}_momentum"] = value.numpy()
    return blobs


def as_published(name, layout):
    """(the teacher that a file was made from, what lies in the file)."""
    shortcut = {"first_shortcut_norm": False} if (name, layout) == ("x3d_m", "pytorchvideo") else {}
    if name == "mvit_b_16x4" and layout == "pytorchvideo":
        shortcut = {"pool_eps": 1e-5}
    teacher = small(name, **shortcut)
    state = dict(teacher.net.state_dict())
    if layout == "pytorchvideo" and name != "mvit_b_16x4":
        state = as_pytorchvideo(state, name)
    elif layout == "Caffe2":
        state = as_caffe2(state)
    elif layout == "pytorchvideo":
        places = {"patch_embed.proj": "patch_embed.patch_model", "norm.": "norm_embed."}
        places["head.projection"] = "head.proj"
        for key in list(state):
            new = key if key.startswith("blocks") else f"cls_positional_encoding.{key}"
            for ours, theirs in places.items():
                new = key.replace(ours, theirs) if key.startswith(ours) else new
            state[new] = state.pop(key)
            if ".attn.qkv." in key:
                for letter, part in zip("qkv", state.pop(key).chunk(3), strict=True):
                    state[key.replace("qkv", letter)] = part
            if ".attn.pool_k." in key:  # a second name for the same tensor
                alias = key.replace("pool_k.", "_attention_pool_k.pool.")
                state[alias] = state[key]
    return teacher, state


LAYOUTS = [
    ("motionformer_16x4", "Motionformer"),
    ("epic_motionformer_16x4", "Motionformer"),
    ("mvit_b_16x4", "PySlowFast"),
    ("mvit_b_16x4", "pytorchvideo"),
    ("x3d_m", "PySlowFast"),
    ("x3d_m", "pytorchvideo"),
    ("slowfast_8x8_r50", "PySlowFast"),
    ("slowfast_8x8_r50", "pytorchvideo"),
    ("slowfast_8x8_r50", "Caffe2"),
]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_every_layout_is_recognised(name, layout, tmp_path, capsys):
    wanted, state = as_published(name, layout)
    path = tmp_path / ("file.pkl" if layout == "Caffe2" else "file.pyth")
    if layout == "Caffe2":
        path.write_bytes(pickle.dumps({"blobs": state}, 2))
    else:
        torch.save({"epoch": 3, "model_state": state, "optimizer_state": {}, "cfg": "A: 1"}, path)
    unsafe = layout == "Caffe2"
    found = teachers.load(name, path, unsafe_pickle=unsafe, **SMALL[name])
    clip = torch.from_numpy(random_clips(2, frames=found.clip_spec.frames))
    with torch.no_grad():
        for one, other in zip(found(clip), wanted(clip), strict=True):
            assert torch.equal(one, other)
    said = capsys.readouterr().err
    ignored = [key for key in state if re.search("_attention_pool|momentum|^lr$|^model_iter", key)]
    for word in (name, str(path), layout, f"{len(state) - len(ignored)} tensors"):
        assert word in said
    assert (f"ignoring {len(ignored)}" in said) == bool(ignored)
    assert found.net.arguments == wanted.net.arguments


@pytest.mark.parametrize("container", ["state_dict", "bare", "module.", "half", "mapping"])
def test_containers(container, tmp_path):
    wanted = small("x3d_m")
    state = wanted.net.state_dict()
    if container == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    if container == "half":
        state = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    content = {"state_dict": state} if container == "state_dict" else state
    if container != "mapping":
        torch.save(content, tmp_path / "x.pth")
        content = tmp_path / "x.pth"
    found = teachers.load("x3d_m", content, progress=False, **SMALL_X3D)
    for key, value in found.net.state_dict().items():
        assert torch.equal(value, wanted.net.state_dict()[key])
    assert found.net.head.projection.weight.dtype == torch.float32
    with torch.no_grad():  # the caller's own tensors are not the teacher's
        found.net.head.projection.weight.zero_()
    assert wanted.net.head.projection.weight.abs().min() > 0


def test_x3d_with_and_without_the_first_shortcut_norm():
    state = as_published("x3d_m", "pytorchvideo")[1]
    found = teachers.load("x3d_m", state, progress=False, **SMALL_X3D)
    assert found.net.s2.pathway0_res0.branch1_bn is None
    state = as_published("x3d_m", "PySlowFast")[1]
    found = teachers.load("x3d_m", state, progress=False, **SMALL_X3D)
    assert found.net.s2.pathway0_res0.branch1_bn is not None


def test_the_oldest_mvit_pools_nothing_where_there_is_no_stride():
    options = {**SMALL_MVIT, "kv_stride": 2}  # strides of 2, 1 and 1
    old = teachers.load("mvit_b_16x4", None, 3, pool_unstrided=False, progress=False, **options)
    assert "blocks.3.attn.pool_k.weight" not in old.net.state_dict()
    found = teachers.load("mvit_b_16x4", settle(old.net).state_dict(), progress=False, **options)
    assert found.net.arguments["pool_unstrided"] is False


def test_learnt_positions_come_from_the_checkpoint():
    """A larger crop resizes them; it does not ask for a checkpoint of its own."""
    state = small("motionformer_16x4").net.state_dict()
    options = {**SMALL_MOTIONFORMER, "size": 64}
    found = teachers.load("motionformer_16x4", state, progress=False, **options)
    assert (found.clip_spec.size, found.net.grid) == (64, 4)
    assert found(*batches.example_inputs(found)).feature.shape == (1, 24)


def test_classes_of_a_checkpoint(capsys):
    state = small("x3d_m", 7).net.state_dict()
    assert teachers.load("x3d_m", state, **SMALL_X3D).class_names == list("0123456")
    labels = [f"verb {i}" for i in range(7)]
    assert teachers.load("x3d_m", state, class_names=labels, **SMALL_X3D).class_names == labels
    for wrong in ({"num_classes": 3}, {"class_names": ["a", "b", "c"]}):
        with pytest.raises(EgoDistillError, match=r"\b7 classes.*new_head=True"):
            teachers.load("x3d_m", state, **wrong, **SMALL_X3D)

    capsys.readouterr()
    torch.manual_seed(0)
    new = teachers.load("x3d_m", state, class_names=["a", "b"], new_head=True, **SMALL_X3D)
    assert "new classifier for 2 classes instead of its 7" in capsys.readouterr().err
    assert new.net.head.projection.weight.shape == (2, 20)
    assert 0.001 < new.net.head.projection.weight.std() < 0.1
    assert not new.net.head.projection.bias.any()
    assert torch.equal(new.net.head.lin_5.weight, state["head.lin_5.weight"])

    del state["head.projection.weight"], state["head.projection.bias"]
    with pytest.raises(EgoDistillError, match="no classifier"):
        teachers.load("x3d_m", state, **SMALL_X3D)
    assert len(teachers.load("x3d_m", state, 4, new_head=True, **SMALL_X3D).class_names) == 4
    with pytest.raises(EgoDistillError, match="num_classes or class_names"):
        teachers.load("x3d_m", state, new_head=True, **SMALL_X3D)


def test_two_heads_mean_another_order_of_channels():
    """The weights of EPIC-KITCHENS fit Kinetics' network all too well: only colours would differ."""
    two = small("epic_motionformer_16x4").net.state_dict()
    one = small("motionformer_16x4").net.state_dict()
    for name, state in (("motionformer_16x4", two), ("epic_motionformer_16x4", one)):
        with pytest.raises(EgoDistillError, match=r"epic_.*BGR"):
            teachers.load(name, state, progress=False, **SMALL_MOTIONFORMER)
    options = {"progress": False, **SMALL_MOTIONFORMER}
    meant = teachers.load("motionformer_16x4", two, (3, 5), **options)
    assert meant.pixels.channels == "RGB"
    start = teachers.load("epic_motionformer_16x4", two, 4, new_head=True, **options)
    assert start.net.head.weight.shape == (4, 24) and start.pixels.channels == "BGR"
    assert "head0.weight" not in start.net.state_dict()


def drop(key):
    return lambda state: state.pop(key)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (drop("blocks.1.norm1.bias"), ["1 missing (blocks.1.norm1.bias)"]),
        (lambda s: s.update(extra=torch.zeros(2)), ["1 unexpected (extra)"]),
        (
            lambda s: s.update({"temp_embed": torch.zeros(1, 4, 24)}),
            ["temp_embed: torch.float32 [1, 4, 24] for torch.float32 [1, 3, 24]"],
        ),
        (lambda s: s.update({"norm.bias": torch.zeros(24, dtype=torch.int64)}), ["int64"]),
        (lambda s: s.update({"norm.bias": "text"}), ["1 not tensors (norm.bias: str)"]),
        (lambda s: s["norm.bias"].fill_(math.nan), ["1 not finite (norm.bias)"]),
        (
            lambda s: [s.pop(k) for k in list(s) if "blocks" in k],
            ["32 missing (blocks.0", "and 27 more"],
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, edit, words):
    state = {k: v.clone() for k, v in small("motionformer_16x4").net.state_dict().items()}
    edit(state)
    torch.save({"model_state": state}, tmp_path / "bad.pyth")
    with pytest.raises(EgoDistillError) as caught:
        teachers.load("motionformer_16x4", tmp_path / "bad.pyth", **SMALL_MOTIONFORMER)
    assert all(word in str(caught.value) for word in [str(tmp_path / "bad.pyth"), *words])


def test_problems_are_told_in_the_words_of_the_file():
    state = as_published("x3d_m", "pytorchvideo")[1]
    state["blocks.5.pool.pre_conv.weight"] = torch.zeros(3)
    with pytest.raises(EgoDistillError, match=r"blocks\.5\.pool\.pre_conv\.weight: .*\[3\]"):
        teachers.load("x3d_m", state, **SMALL_X3D)


def test_weights_of_another_model_are_named():
    state = as_published("x3d_m", "pytorchvideo")[1]
    with pytest.raises(EgoDistillError, match=r"X3D weights.*pytorchvideo.*SlowFast.*asked for.*x3d_m"):
        teachers.load("slowfast_8x8_r50", state, **SMALL_SLOWFAST)
    with pytest.raises(EgoDistillError, match=r"missing \(s2\.pathway0_res1"):  # another size
        teachers.load("x3d_m", small("x3d_m").net.state_dict(), **{**SMALL_X3D, "depth_factor": 2})
    for strange in ({"fc.weight": torch.zeros(2)}, {}):
        with pytest.raises(EgoDistillError, match="none of the known layouts"):
            teachers.load("x3d_m", strange)
    with pytest.raises(EgoDistillError, match="not contain named weights"):
        teachers.load("x3d_m", {1: torch.zeros(2)})


def test_damaged_and_foreign_checkpoints_are_named(tmp_path):
    whole = tmp_path / "whole.pyth"
    torch.save({"model_state": small("x3d_m").net.state_dict()}, whole)
    files = {
        "cut.pyth": whole.read_bytes()[:-3000],
        "text.pth": b"<html>404 not found</html>\n" * 30,
        "empty.pyth": b"",
        "text.safetensors": b"no header",
        "text.pkl": b"not a pickle",
        "empty.pkl": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    torch.save([1, 2], tmp_path / "list.pyth")
    small("x3d_m").save(tmp_path / "ours.safetensors")
    for name, words in [
        *((name, "cannot be read") for name in files),
        ("list.pyth", "a list"),
        ("ours.safetensors", "a model of this library, not published weights"),
    ]:
        with pytest.raises(EgoDistillError, match=rf"{re.escape(name)} .*{words}") as error:
            teachers.load("x3d_m", tmp_path / name, unsafe_pickle=True)
        assert "weights_only" not in str(error.value)  # torch's advice is to switch the guard off
    for name in ("absent.pyth", "absent.pkl"):
        with pytest.raises(EgoDistillOSError, match=name):
            teachers.load("x3d_m", tmp_path / name, unsafe_pickle=True)


@pytest.mark.parametrize("name", ["x.pyth", "x.pkl", "zip.pyth"])
@pytest.mark.parametrize("unsafe", [False, True])
def test_code_in_a_checkpoint_does_not_run(tmp_path, name, unsafe):
    """Not even with unsafe_pickle: of a pickle, only arrays are taken."""
    content = {"model_state": {"x": Malicious(tmp_path / "ran")}, "blobs": {}}
    if name.startswith("zip"):
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    with pytest.raises(EgoDistillError, match=name):
        teachers.load("slowfast_8x8_r50", tmp_path / name, unsafe_pickle=unsafe)
    assert not (tmp_path / "ran").exists()


def test_caffe2_files_ask_for_trust(tmp_path):
    blobs = as_published("slowfast_8x8_r50", "Caffe2")[1]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    with pytest.raises(EgoDistillError, match=r"x\.pkl.*run any code.*unsafe_pickle=True"):
        teachers.load("slowfast_8x8_r50", tmp_path / "x.pkl", **SMALL_SLOWFAST)


def test_a_changed_bit_of_the_weights_is_noticed(tmp_path):
    """torch itself reads it without a word."""
    file = tmp_path / "weights.pt"
    torch.save({"format": "x", "w": torch.arange(1000.0)}, file)
    content = bytearray(file.read_bytes())
    place = content.index(torch.tensor([500.0, 501.0]).numpy().tobytes())
    content[place + 2] ^= 1
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)["w"][500] != 500
    with pytest.raises(EgoDistillError, match=r"weights.pt is damaged: the checksum of its part \S+ is wrong"):
        checkpoints.read_tensors(file)


def test_weights_come_from_a_regular_file(tmp_path):
    with pytest.raises(EgoDistillError, match="a folder, not a file of weights"):
        checkpoints.read_tensors(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
        with pytest.raises(EgoDistillError, match="a pipe, not a file of weights"):
            checkpoints.read_tensors(tmp_path / "pipe")


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    model = small_student()
    model.classifier.bias.data[1] = math.inf
    with pytest.raises(EgoDistillError, match=r"m.safetensors: not written.*not finite: classifier.bias"):
        model.save(tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_a_loop_of_links_is_refused(tmp_path):
    os.symlink(loop := tmp_path / "loop.safetensors", loop)
    with pytest.raises(EgoDistillOSError, match=r"loop.safetensors: cannot be read: Too many levels"):
        EgoDistill.load(loop)


def test_a_fingerprint_covers_names_types_shapes_values_and_settings():
    def fingerprint(name="weight", value=(1.0, 2.0, 3.0, 4.0), shape=(4,), dtype=torch.float32, settings=None):
        module = torch.nn.Module()
        module.register_buffer(name, torch.tensor(value).view(shape).to(dtype))
        return checkpoints.weights_fingerprint(module, settings)

    others = [
        {"name": "bias"},
        {"value": (1.0, 2.0, 4.0, 3.0)},
        {"shape": (2, 2)},
        {"dtype": torch.float64},
        {"settings": {"size": 1}},
        {"settings": {"size": 2}},
    ]
    assert fingerprint() == fingerprint() and len({fingerprint(), *(fingerprint(**one) for one in others)}) == 7


def test_the_prefix_of_data_parallel_is_removed_from_all_keys_or_from_none():
    keys = ("module.a", "module.b")
    assert list(checkpoints.read_weights({key: torch.zeros(1) for key in keys})) == ["a", "b"]
    keys = ("module.a", "head.b")  # a network with a part called "module"
    assert list(checkpoints.read_weights({key: torch.zeros(1) for key in keys})) == list(keys)


def test_the_size_of_tensors_is_in_bytes_of_their_own_type():
    content = {"a": torch.zeros(3, 2, dtype=torch.float64), "b": [torch.zeros(5, dtype=torch.bfloat16), {"c": 1}]}
    assert checkpoints.tensor_bytes(content | {"d": (torch.zeros(7, dtype=torch.uint8),)}) == 48 + 10 + 7


def test_one_value_that_is_not_finite_spoils_a_tensor():
    module = torch.nn.Linear(3, 2)
    for value in (float("nan"), float("inf"), -float("inf")):
        weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        weights["weight"][1, 2] = value
        with pytest.raises(EgoDistillError, match=r"1 not finite \(weight\)"):
            checkpoints.load_strictly(module, weights, "a file")
    before = module.weight.detach().clone()
    weights = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    checkpoints.load_strictly(module, weights, "a file")
    assert torch.equal(module.weight, before + 1)


def test_a_layout_renames_joins_and_adds_leading_dimensions():
    layout = checkpoints.Layout(
        torch.nn.Linear,
        "elsewhere",
        "x",
        rules=((r"^old\.", "new."), (r"\.w$", ".weight")),
        ignored=r"skip.*",
        joined={".qkv.": (".q.", ".k.", ".v.")},
        dimensions={"new.token.weight": 3},
    )
    state = {f"old.{name}.w": torch.full((2, 3), float(k)) for k, name in enumerate("qkv")}
    state |= {"old.token.w": torch.arange(4.0), "skip.me": torch.zeros(1)}
    weights, names, ignored = checkpoints.rename(state, layout)
    assert ignored == ["skip.me"] and set(weights) == {"new.qkv.weight", "new.token.weight"}
    assert weights["new.token.weight"].tolist() == [[[0.0, 1.0, 2.0, 3.0]]]
    assert weights["new.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert names["new.token.weight"] == "old.token.w" and names["new.qkv.weight"] == "old.q.w"
    twice = {"old.token.w": torch.zeros(4), "new.token.weight": torch.ones(4)}
    with pytest.raises(EgoDistillError, match=r"'old.token.w' and 'new.token.weight' of a checkpoint are the same"):
        checkpoints.rename(twice, layout)


@pytest.mark.parametrize(
    ("found", "wanted", "exact", "fits"),
    [
        (torch.float32, torch.float32, True, True),
        (torch.float16, torch.float32, True, False),
        (torch.float16, torch.float32, False, True),
        (torch.int64, torch.float32, False, False),
        (torch.int32, torch.int64, False, True),
        (torch.int32, torch.int64, True, False),
    ],
)
def test_types_of_weights_are_the_same_or_of_one_kind(found, wanted, exact, fits):
    assert checkpoints.dtype_fits(found, wanted, exact) == fits


def test_weights_that_overflow_when_they_are_converted_are_not_finite():
    layer = torch.nn.Linear(2, 1)
    weights = {"weight": torch.tensor([[1e300, 0.0]], dtype=torch.float64), "bias": torch.zeros(1)}
    with pytest.raises(EgoDistillError, match=r"1 not finite \(weight\)"):
        checkpoints.load_strictly(layer, weights, "x.pt")
    checkpoints.load_strictly(layer.double(), weights, "x.pt")
    assert layer.weight.tolist() == [[1e300, 0.0]]


@pytest.mark.parametrize("version", [0, 2, 10])
def test_a_file_of_an_earlier_or_later_version_says_so(tmp_path, version):
    path = tmp_path / "x.pt"
    checkpoints.write_checkpoint(path, {"format": f"mine {version}"})
    with pytest.raises(EgoDistillError, match=f"its format is 'mine {version}', of another version"):
        checkpoints.read_checkpoint(path, "mine 1")
    checkpoints.write_checkpoint(path, {"format": f"yours {version}"})
    with pytest.raises(EgoDistillError, match="is not an 'mine 1' file"):
        checkpoints.read_checkpoint(path, "mine 1")


def test_an_archive_whose_names_are_not_text_is_damaged(tmp_path):
    path = tmp_path / "m.pt"
    checkpoints.write_checkpoint(path, {"format": "x", "w": torch.zeros(3)})
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")  # the last entry of the directory
    content[place + 8 : place + 10] = (1 << 11).to_bytes(2, "little")  # its name is UTF-8 ...
    content[place + 46] = 0x81
    path.write_bytes(content)
    with pytest.raises(EgoDistillError, match=r"m\.pt cannot be read as a checkpoint: a damaged archive"):
        checkpoints.read_checkpoint(path, "x")


def archived(path, name, link=False):
    """Write an archive of torch with one more part."""
    torch.save({"w": torch.zeros(2)}, path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
        more = zipfile.ZipInfo(name)
        more.external_attr = (stat.S_IFLNK | 0o777) << 16 if link else 0
        target.writestr(more, "/etc")


def test_weights_may_share_memory(tmp_path):
    weight = torch.randn(100, 1000)
    content = {"a": weight, "tied": weight, "again": [weight.T], "few": torch.ones(1).expand(1000)}
    for old in (True, False):
        torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=old)
        assert checkpoints.read_tensors(tmp_path / "w.pt").keys() == content.keys()


@pytest.mark.parametrize("name", ["../w", "w/../../x", "/etc/w", "C:\\w", "w\\..\\..\\x", "link"])
def test_an_archive_stays_in_its_folder(name, tmp_path):
    archived(tmp_path / "w.pt", name, link=name == "link")
    with pytest.raises(EgoDistillError, match=r"w.pt: its part .* leads out of the folder in which it is unpacked"):
        checkpoints.read_tensors(tmp_path / "w.pt")


def test_weights_of_an_image_encoder_are_read_like_others(tmp_path):
    path = tmp_path / "image.pt"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"the image weights \S+image.pt cannot be read: .*a pipe, not a file"):
        small_student(image_weights=path)


def test_the_student_that_ships_is_read_by_its_name(tmp_path, monkeypatch, capsys):
    """In any folder, for any mounting."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glasses").mkdir()  # a folder is no student
    model = EgoDistill.load("glasses")
    assert model.inputs == ("imu",) and model.class_names[-1] == "unsure" and model.imu_axes == "any"
    times = np.arange(0, 30, 0.01)
    nods = 0.02 * np.sin(5 * times)  # a wearer who reads: nearly still
    log = np.zeros((len(times), 6))
    log[:, 1], log[:, 2], log[:, 3] = 9.81 * np.sin(nods), 9.81 * np.cos(nods), 0.1 * np.cos(5 * times)
    log += np.random.default_rng(0).normal(0, [0.03] * 3 + [0.005] * 3, log.shape)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    for name, values in (("log", log), ("turned", (log.reshape(-1, 2, 3) @ turn).reshape(-1, 6))):
        table = np.column_stack([times, values])
        np.savetxt(f"{name}.csv", table, delimiter=",", header="time,ax,ay,az,gx,gy,gz", comments="")
        assert cli.main(["predict", "--imu", f"{name}.csv", "--student", "glasses", "--out", f"{name}.out.csv"]) == 0
    first, second = (Path(f"{name}.out.csv").read_text().splitlines() for name in ("log", "turned"))
    assert len(first) == 4 and all(",still or desk work," in row for row in first[1:])
    assert [row.split(",")[:3] for row in first] == [row.split(",")[:3] for row in second]
    with pytest.raises(EgoDistillOSError, match="no such file"):
        EgoDistill.load("goggles")
    assert cli.main(["predict", "--imu", "log.csv", "--student", "goggles"]) == 1
    assert "goggles: no such file" in capsys.readouterr().err


def test_a_file_keeps_the_temperature_and_refuses_one_that_no_fit_gives(tmp_path):
    """Files of which nothing was fitted have 1; teachers keep theirs, too."""
    events = {"start": 0.6, "end": 0.4, "min_seconds": 0.5, "max_pause": 1.0, "stride": 0.5}
    wanted, path = Calibration(1.5, 80, events), tmp_path / "model.safetensors"
    for build, _ in MADE.values():
        model = build()
        model.save(path)
        assert model_files.read(path)[0]["calibration"] == {}
        assert calibration_of(models.load_any(path)) == Calibration()
        model.calibration = wanted
        model.save(path)
        loaded = models.load_any(path)
        assert calibration_of(loaded) == wanted
        for key, value in model.state_dict().items():  # it is no weight
            assert torch.equal(value, loaded.state_dict()[key])
