"""Exported files against their original: every format that is at hand here runs for real."""

import copy
import functools
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import model_files
import numpy as np
import pytest
import torch
import torchvision
from commandline import any_input
from small_students import CLASSES, Clips, assert_same, inputs, optional, original, pooled, student
from torch import nn
from waiting import LIMIT

import egodistill
from egodistill import EgoDistill, EgoDistillError, Output, data, evaluate, measure, teachers
from egodistill.commands import cli, models
from egodistill.deploy import export, exported
from egodistill.engine.calibration import Calibration
from egodistill.recordings.spec import ClipSpec, require_axes, spec_of
from egodistill.student import IMUEncoder, build_image_encoder

INT8_ERROR = 0.08  # of untrained students, relative to the largest output
MODERN = pytest.mark.skipif(export.torch_version() < (2, 6), reason="needs torch 2.6 or later")
SETTINGS = export.Settings("export", "fp32", None, 256, None, False)
COMPILER = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")


# --- The formats


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"image_encoder": "resnet18"}, marks=pytest.mark.slow("its blocks are in the others")),
        {"image_encoder": "resnet10x4"},
        {"image_encoder": "squeezenet1_1"},
        {"num_frames": 3},
        {"imu_encoder": None},
        {"imu_vector": "mean"},
        {"image_encoder": None},
    ],
    ids=str,
)
def test_program_agrees(arguments, tmp_path):
    model = pooled(**arguments)
    export.export(model, tmp_path / "student.pt2")
    assert_same(model, tmp_path / "student.pt2")


def test_program_runs_where_this_library_is_not(written, tmp_path):
    """By the line that its description gives, in a process that cannot import egodistill."""
    model, file = written
    clips = inputs(model, 2)
    torch.save(clips, tmp_path / "clips.pt")
    run = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))["run"]
    code = (
        "import sys; sys.modules['egodistill'] = None\n"
        f"import torch; frames, imu = torch.load(sys.argv[1], weights_only=True)\n{run}\n"
        "assert not (feature.requires_grad or logits.requires_grad)\n"
        "torch.save([feature, logits], sys.argv[2])"
    )
    words = [code, tmp_path / "clips.pt", tmp_path / "outputs.pt"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", *words], cwd=file.parent, check=True)
    for one, other in zip(torch.load(tmp_path / "outputs.pt", weights_only=True), original(model, *clips), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_bf16_is_near_and_half_as_large(tmp_path):
    model = pooled()
    export.export(model, tmp_path / "full.pt2")
    export.export(model, tmp_path / "half.pt2", precision="bf16")
    assert_same(model, tmp_path / "half.pt2", tolerance=0.05)
    full, half = ((tmp_path / f"{name}.pt2").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full


@MODERN
@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("fp32", {"num_frames": 2, "image_encoder": "resnet10x4"}),
        ("int8", {"image_encoder": "resnet10x4"}),
        ("fp32", {"image_encoder": None}),
    ],
)
def test_onnx_agrees(precision, options, tmp_path, monkeypatch):
    """Also a student with narrow shortcuts, which select pixels in a step of its own."""
    for package in ("onnx", "onnxscript", "onnxruntime", *["torchao"] * (precision == "int8")):
        pytest.importorskip(package, exc_type=ImportError)
    model, file = pooled(**options), tmp_path / "student.onnx"
    store = Clips(model) if precision == "int8" else None
    description = export.export(model, file, format="onnx", precision=precision, calibrate=store)
    assert_same(model, file, 1e-5 if precision == "fp32" else INT8_ERROR)
    graph = importlib.import_module("onnx").load(file).graph
    assert [value.name for value in graph.input] == [entry["name"] for entry in description["inputs"]]
    assert [value.name for value in graph.output] == [entry["name"] for entry in description["outputs"]]
    monkeypatch.chdir(tmp_path)
    clips = inputs(model, 2)
    found = dict(zip(model.inputs, (x.numpy() for x in clips), strict=True))
    exec(description["run"], found)  # it is Python
    np.testing.assert_allclose(found["logits"], export.load_exported(file)(*clips).logits)


@pytest.mark.slow("compiles C++")
@MODERN
@COMPILER
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_compiled_agrees(precision, tmp_path):
    if precision == "int8":
        pytest.importorskip("torchao", exc_type=ImportError)
    model, file = pooled(), tmp_path / "student.pt2"
    store = Clips(model) if precision == "int8" else None
    export.export(model, file, format="aoti", precision=precision, calibrate=store)
    assert_same(model, file, 1e-5 if precision == "fp32" else INT8_ERROR)


@pytest.mark.slow("compiles C++")
@MODERN
@COMPILER
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_compiled_for_one_clip_agrees(precision, tmp_path):
    """Also for more clips, which run one by one."""
    if precision == "int8":
        pytest.importorskip("torchao", exc_type=ImportError)
    model, file = pooled(image_encoder="resnet10x16"), tmp_path / "student.pt2"
    store = Clips(model) if precision == "int8" else None
    export.export(model, file, format="aoti", precision=precision, calibrate=store, batch_size=1)
    assert_same(model, file, 1e-5 if precision == "fp32" else INT8_ERROR)


@MODERN
@COMPILER
def test_fast_kernels_for_linear_layers_are_looked_for_if_the_batch_size_is_fixed(tmp_path, monkeypatch, capsys):
    """Silently, although torch prints what it measures."""
    seen = []

    def compile(program, package_path, inductor_configs):
        print("AUTOTUNE", file=sys.stderr)
        package_path.write(b"a program")
        seen.append(inductor_configs.get("max_autotune_gemm", False))

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compile)
    for batch_size in (None, 1):
        export.export(pooled(), tmp_path / f"{batch_size}.pt2", format="aoti", batch_size=batch_size)
    assert seen == [False, True] and not capsys.readouterr().err


@pytest.mark.parametrize("width", [4, 16])
def test_the_imu_encoder_for_export_is_equal(width):
    torch.manual_seed(0)
    ours = IMUEncoder(width).eval()
    for norm in ours.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    exported, imu = export.IMUEncoder2d(ours), torch.randn(3, 422, 6)
    with torch.no_grad():
        assert not ours(imu)[..., 0].allclose(ours(imu)[..., 100])  # the padding matters
        torch.testing.assert_close(exported(imu), ours(imu), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(layer, nn.Conv1d) for layer in exported.modules())


class Spectrum(nn.Module):
    """An IMU encoder of one's own whose layers have the names of ours."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv1d(6, 16, 5, padding=2), nn.Tanh(), nn.Conv1d(16, 16, 1))

    def forward(self, imu):
        return self.cnn(imu.transpose(1, 2)).abs()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_of_ones_own_is_exported_as_it_is(precision, tmp_path):
    model = pooled()
    model.imu_encoder = Spectrum().eval()
    export.export(model, tmp_path / "student.pt2", precision=precision)
    assert_same(model, tmp_path / "student.pt2", *([0.05] if precision == "bf16" else []))


@pytest.mark.parametrize("encoder", ["spectrum", "filterbank"])
def test_plain_numbers_in_bf16_have_the_mean_of_the_gyroscope(encoder, tmp_path):
    model = pooled(**SPECTRUM | {"imu_encoder": encoder})
    export.export(model, tmp_path / "student.pt2", precision="bf16")
    assert_same(model, tmp_path / "student.pt2", 0.05)


def test_a_network_that_decides_by_values_is_refused(tmp_path):
    class Picky(Spectrum):
        def forward(self, imu):
            return super().forward(imu if float(imu.sum()) > 0 else -imu)

    model = pooled()
    model.imu_encoder = Picky().eval()
    with pytest.raises(EgoDistillError, match=r"this EgoDistill cannot be written as a program \("):
        export.export(model, tmp_path / "student.pt2")
    assert not list(tmp_path.iterdir())


def test_another_network_than_the_student_is_not_written(tmp_path):
    class Louder(EgoDistill):
        def forward(self, frames, imu=None):
            feature, logits = super().forward(frames, imu)
            return Output(feature, logits.flip(1))

    changed, louder = pooled(), pooled()
    changed.imu_encoder.cnn[3] = nn.Tanh()
    louder.__class__ = Louder
    for write, model in ((export.export, changed), (export.export_pair, louder)):
        with pytest.raises(EgoDistillError, match=r"would not be this \w+: its \w+ differs by"):
            write(model, tmp_path / "student.pt2")
    assert not list(tmp_path.iterdir())
    export.export(louder, tmp_path / "student.pt2")
    assert_same(louder, tmp_path / "student.pt2")


def test_a_batch_size_below_one_is_refused(tmp_path):
    with pytest.raises(EgoDistillError, match=r"batch_size .* must be a whole number, 1 <= batch_size; got 0"):
        export.export(pooled(), tmp_path / "a.pt2", batch_size=0)


# --- int8


def test_residual_blocks_have_a_relu_for_each_place():
    """torchao's quantiser refuses a module that is called twice. Names, weights and outputs stay torchvision's."""
    for name, count in (("resnet18", 17), ("resnet50", 49)):
        torch.manual_seed(0)
        theirs = torchvision.models.get_model(name).eval()
        ours, _ = build_image_encoder(name, theirs.state_dict())
        theirs.fc = nn.Identity()
        theirs.to(memory_format=torch.channels_last)  # as ours, so that sums have the same order
        assert list(ours.state_dict()) == list(theirs.state_dict())
        calls = []
        for module in ours.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(lambda module, *_, calls=calls: calls.append(id(module)))
        pixels = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            assert torch.equal(ours.eval()(pixels), theirs(pixels))
        assert len(set(calls)) == len(calls) == count


@pytest.mark.parametrize(
    ("arguments", "layers"),
    [
        pytest.param({"image_encoder": "resnet18"}, 20, marks=pytest.mark.slow("a larger one of the same blocks")),
        ({"image_encoder": "resnet10x48", "imu_width": 4}, 12),
    ],
    ids=str,
)
def test_an_int8_student_is_near_and_a_quarter_as_large(arguments, layers, tmp_path):
    """Its narrow shortcuts select pixels in a step of its own; the convolution behind it is still quantised."""
    pytest.importorskip("torchao", exc_type=ImportError)
    model, file = pooled(**arguments), tmp_path / "student.pt2"
    description = export.export(model, file, precision="int8", calibrate=Clips(model))
    about = description["calibration"]
    assert (about["clips"], about["random"]) == (12, False)
    assert (
        len(about["ranges"]["imu"]) == 6 and 0 < about["ranges"]["pictures"][0] < about["ranges"]["pictures"][1] < 255
    )
    errors = {name: found["feature_error"] for name, found in about["compared"].items()}
    assert errors["calibration clips"] < INT8_ERROR and errors["strong head motion"] > 2 * errors["calibration clips"]
    assert_same(model, file, INT8_ERROR)
    assert file.stat().st_size < 0.3 * sum(x.nbytes for x in model.state_dict().values())
    program = torch.export.load(file)
    # The ResNet's convolutions, four of the IMU encoder's five, two hidden layers, the feature and the classifier.
    assert sum("dequantize_per_channel" in str(node.target) for node in program.graph.nodes) == layers + 8


@pytest.mark.parametrize("arguments", [{"imu_encoder": None}, {"image_encoder": None}], ids=str)
def test_a_student_with_one_input_is_quantised(arguments, tmp_path):
    pytest.importorskip("torchao", exc_type=ImportError)
    model, file = pooled(**arguments), tmp_path / "student.pt2"
    about = export.export(model, file, precision="int8", calibrate=Clips(model))["calibration"]
    assert {*about["ranges"]} == ({"imu"} if "imu" in model.inputs else {"pictures"})
    assert ("strong head motion" in about["compared"]) == ("imu" in model.inputs)
    assert ("dark pictures" in about["compared"]) == ("frames" in model.inputs)
    assert_same(model, file, INT8_ERROR)


def test_a_student_without_frames_is_one_program(tmp_path):
    with pytest.raises(export.ExportError, match="without frames is one program, and has no pair"):
        export.export_pair(pooled(image_encoder=None), tmp_path / "student.pt2")


def test_ranges_reach_to_the_extremes_and_small_weights_keep_their_steps():
    """With torchao's defaults the step of weights is 2**-12 at least, and rare values are cut off."""
    pytest.importorskip("torchao", exc_type=ImportError)
    model = pooled()
    with torch.no_grad():
        model.fusion[0].weight *= 1e-3
        store = Clips(model)
        converted = export.quantise(export.trace(export.Plain(model), model), export.store_clips(model, store))
        wanted = export.Plain(model).model.imu_encoder.cnn[:4](imu_maps(store))  # behind the first GELU
    weight_steps, largest = [], []
    for node in converted.graph.nodes:
        if "dequantize_per_channel" in str(node.target):
            weight_steps.append(float(getattr(converted, node.args[1].target).min()))
        elif "quantize_per_tensor" in str(node.target) and "dequantize" not in str(node.target):
            scale, zero = node.args[1:3]
            largest.append(scale * (255 - zero))
    assert min(weight_steps) < 2**-13
    assert any(value == pytest.approx(float(wanted.max()), rel=0.005) for value in largest)


def imu_maps(store) -> torch.Tensor:
    imu = torch.from_numpy(store.arrays["imu"])
    return (imu - imu.mean(dim=1, keepdim=True)).transpose(1, 2).unsqueeze(2)


class Clipped(nn.Module):
    """As int8, with the ranges of some clips: inputs beyond them become their limits."""

    def __init__(self, plain, frames, *imu):
        super().__init__()
        self.plain, self.darkest, self.most = plain, frames.min(), [x.abs().max() for x in imu]

    def forward(self, frames, *imu):
        imu = (x.clamp(-most, most) for x, most in zip(imu, self.most, strict=True))
        return self.plain(frames.maximum(self.darkest), *imu)


def test_int8_is_compared_with_fp32_on_what_its_clips_do_not_have():
    model = student()
    frames, imu = inputs(model, 12)
    frames, plain = frames.maximum(torch.tensor(100, dtype=torch.uint8)), export.Plain(model)
    with torch.no_grad():
        found = export.compare_int8(plain, Clipped(plain, frames, imu), model, (frames, imu))
        assert found["calibration clips"] == {"equal_labels": 1.0, "feature_error": 0.0}
        assert {name: one["feature_error"] > 0.01 for name, one in found.items()} == {
            "calibration clips": False,
            "dark pictures": True,
            "noise pictures": True,
            "strong head motion": True,
        }
        strong = imu.mean(1, keepdim=True) + 3 * (imu - imu.mean(1, keepdim=True))
        fp32, int8 = plain(frames, strong), Clipped(plain, frames, imu)(frames, strong)
        same = (fp32[1].argmax(1) == int8[1].argmax(1)).float().mean()
        error = (fp32[0] - int8[0]).abs().max() / fp32[0].abs().max()
        wanted = {"equal_labels": pytest.approx(float(same)), "feature_error": pytest.approx(float(error))}
        assert found["strong head motion"] == wanted
        still, frame = pooled(imu_encoder=None), export.FrameProgram(model)
        assert "strong head motion" not in export.compare_int8(
            export.Plain(still), export.Plain(still), still, (frames,)
        )
        found = export.compare_int8(frame, frame, model, (frames, imu))
        assert found == {
            name: {"feature_error": 0.0} for name in ("calibration clips", "dark pictures", "noise pictures")
        }


def test_the_ranges_of_a_calibration():
    frames = torch.full((2, 1, 3, 32, 32), 50, dtype=torch.uint8)
    frames[1] = 200
    imu = torch.zeros(2, 422, 6)
    imu[:, :, 2] = 9.8
    imu[1, :211, 5], imu[1, 211:, 5] = -2, 4  # 3 from its mean
    found = export.ranges_of([(frames[:1], imu[:1]), (frames[1:], imu[1:])])
    assert found == {"pictures": [50, 200], "imu": pytest.approx([0, 0, 0, 0, 0, 3], abs=1e-5)}
    assert export.ranges_of([(frames,)]) == {"pictures": [50, 200]}


def test_calibration_reads_clips_evenly_spread_and_warns_where_there_are_none(tmp_path):
    model = pooled()
    store = Clips(model, 40)
    chosen = torch.cat([imu for _, imu in export.store_clips(model, store, 20)])
    assert torch.equal(chosen, torch.from_numpy(store.arrays["imu"][np.linspace(0, 39, 20).round().astype(int)]))
    pytest.importorskip("torchao", exc_type=ImportError)
    with pytest.warns(UserWarning, match="random inputs"):
        description = export.export(model, tmp_path / "student.pt2", precision="int8")
    assert description["calibration"]["random"]


# --- The description


def test_description_says_what_the_file_does_not(tmp_path):
    model, file = pooled(num_frames=2, imu_rate=100.0, imu_samples=213), tmp_path / "student.pt2"
    returned = export.export(model, file)
    written = json.loads((tmp_path / "student.pt2.json").read_text(encoding="utf-8"))
    assert written == returned
    frames, imu = written["inputs"]
    assert (frames["name"], frames["dtype"], frames["colour"]) == ("frames", "uint8", "RGB")
    assert frames["shape"] == ["batch", 2, 3, 32, 32] and len(frames["axes"]) == 5
    assert frames["seconds_from_clip_start"] == pytest.approx(data.clip_times(0.0, 2).tolist())
    said = {"frames": 2, "size": 32, "crop": False, "imu_samples": 213, "imu_rate": 100.0}
    assert ClipSpec(**written["clip_spec"]) == ClipSpec(**said) == spec_of(export.load_exported(file))
    assert all(word in frames["resizing"] for word in ("without cropping", "area", "bilinear"))
    assert (imu["name"], imu["dtype"], imu["rate_hz"]) == ("imu", "float32", 100.0)
    assert imu["shape"] == ["batch", 213, 6] and imu["units"] == ["m/s2"] * 3 + ["rad/s"] * 3
    assert imu["channels"][0] == "accelerometer x" and imu["channels"][5] == "gyroscope z"
    assert [(x["name"], x["shape"]) for x in written["outputs"]] == [
        ("feature", ["batch", 12]),
        ("logits", ["batch", 4]),
    ]
    assert written["class_names"] == CLASSES
    assert len(written["inside"]) == 2 and written["precision"] == "fp32" and written["kind"] == "export"
    assert written["versions"] == {"egodistill": egodistill.__version__, "torch": torch.__version__}


def test_the_description_says_which_frames_the_student_was_trained_on():
    model = EgoDistill(3, image_weights=None, image_encoder="resnet10x8", num_frames=2, sampling="last", exact=False)
    description = export.describe(model, Path("m.pt2"), SETTINGS)
    frames, spec = description["inputs"][0], ClipSpec(**description["clip_spec"])
    assert (spec.sampling, spec.exact) == ("last", False) and "key frame" in frames["which"]
    assert frames["seconds_from_clip_start"] == data.clip_times(0.0, 2, sampling="last").tolist()
    model = EgoDistill(3, image_weights=None, image_encoder="resnet10x8", tolerance=0.25)
    description = export.describe(model, Path("m.pt2"), SETTINGS)
    assert ClipSpec(**description["clip_spec"]).tolerance == 0.25
    assert "at most 0.25 s before or after" in description["inputs"][0]["which"]


def test_description_of_a_student_without_head_motion(tmp_path):
    description = export.export(pooled(imu_encoder=None), tmp_path / "student.pt2")
    assert [entry["name"] for entry in description["inputs"]] == ["frames"]
    assert len(description["inside"]) == 1 and description["run"].endswith("(frames)")


def test_a_filterbank_without_frames_is_exported_for_any_mounting(tmp_path):
    """Its gravity is not removed before; a recording of other axes is read by the file as by the student."""
    model = pooled(image_encoder=None, imu_encoder="filterbank")
    description = export.export(model, tmp_path / "student.pt2")
    (imu,) = description["inputs"]
    assert imu["directions"] == "of a sensor that is mounted in any way" and description["inside"] == []
    assert_same(model, tmp_path / "student.pt2")
    for reader in (model, export.load_exported(tmp_path / "student.pt2")):
        require_axes("walk.csv", "glasses", spec_of(reader).complete())
    assert export.export(pooled(), tmp_path / "other.pt2")["inputs"][1]["directions"].endswith("of a GoPro")


# --- Files


@pytest.mark.slow("an export for each moment at which it may fail")
def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    model, file = pooled(), tmp_path / "student.pt2"

    def killed(program, model, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(export.FORMATS, "export", export.FORMATS["export"]._replace(write=killed))
        with pytest.raises(KeyboardInterrupt):
            export.export(model, file)
        assert not list(tmp_path.iterdir())

    export.export(model, file)
    before = file.read_bytes()
    with pytest.raises(export.ExportError, match=r"already exists.*--overwrite"):
        export.export(model, file)
    with monkeypatch.context() as patch:
        patch.setitem(export.FORMATS, "export", export.FORMATS["export"]._replace(write=killed))
        with pytest.raises(KeyboardInterrupt):
            export.export(model, file, overwrite=True)
    assert file.read_bytes() == before
    assert_same(model, file)

    other = pooled(seed=1)
    real, calls = os.replace, []

    def killed_between(*paths):
        calls.append(paths)
        if len(calls) > 1:
            raise KeyboardInterrupt
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed_between)
        with pytest.raises(KeyboardInterrupt):
            export.export(other, file, overwrite=True)
    with pytest.raises(export.ExportError, match=r"pt2\.json: the description is missing: the export was int"):
        export.load_exported(file)
    export.export(other, file, overwrite=True)
    assert_same(other, file)
    other.save(tmp_path / "student.safetensors")
    with pytest.raises(
        export.ExportError, match=r"student\.safetensors: a model, not an exported program; .*EgoDistill\.load"
    ):
        export.load_exported(tmp_path / "student.safetensors")


@pytest.fixture(scope="module")
def traced():
    """A student, and its program: tracing is what takes long."""
    model = pooled(imu_encoder=None)
    with torch.no_grad():
        return model, export.trace(export.Plain(model, "fp32"), model)


@pytest.fixture
def quick(traced, monkeypatch):
    monkeypatch.setattr(export, "trace", lambda *_: traced[1])
    return traced[0]


def killed_again_and_again(file):
    """export() killed with half of the file written, and just before either of its files gets its name."""
    torch.set_num_threads(1)
    model = pooled(imu_encoder=None)
    with torch.no_grad():
        program = export.trace(export.Plain(model, "fp32"), model)
    export.trace = lambda *_: program
    for k, name in enumerate((None, Path(file).name, f"{Path(file).name}.json")):
        child = os.fork()
        if child == 0:

            def half(path, content):
                with open(path, "wb") as part:
                    part.write(content[: len(content) // 2])
                    part.flush()
                    os.kill(os.getpid(), signal.SIGKILL)

            def hook(event, arguments, name=name):
                if event == "os.rename" and Path(arguments[1]).name == name:
                    os.kill(os.getpid(), signal.SIGKILL)

            if name is None:
                Path.write_bytes = half
            sys.addaudithook(hook)
            export.export(model, file)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        shutil.copytree(Path(file).parent, Path(file).parent.with_name(f"after-{k}"))


@pytest.mark.slow("kills an export at each moment")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork and SIGKILL")
def test_export_killed_anywhere_leaves_nothing_that_is_taken_for_whole(quick, tmp_path):
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "student.pt2"
    root = Path(egodistill.__file__).parent
    code = "import sys, test_export; test_export.killed_again_and_again(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, file],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (root, root / "tests", Path(__file__).parent)))},
    )
    assert done.returncode == 0 and done.stdout.split() == ["-9"] * 3, done.stdout + done.stderr
    for k, words in enumerate(("no such file", "no such file", "the export was interrupted")):
        with pytest.raises(export.ExportError, match=words):
            export.load_exported(tmp_path / f"after-{k}" / file.name)
    export.export(quick, file, overwrite=True)
    assert_same(quick, file)


def test_an_error_of_the_system_has_no_number_and_no_temporary_name(quick, tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr(export.files, "replace_file", refuse)
    with pytest.raises(export.ExportError, match=r"a\.pt2 cannot be written \(Permission denied\); an older file is"):
        export.export(quick, tmp_path / "a.pt2")


def test_a_full_disk_is_told_and_leaves_the_old_file(quick, tmp_path, full_disk):
    """With torch's own writing the process would be gone: its C++ ends it when the disk is full."""
    file = tmp_path / "student.pt2"
    with (
        full_disk(20_000),
        pytest.raises(export.ExportError, match=r"pt2 cannot be written \(.*File too large"),
    ):
        export.export(quick, file)
    assert not list(tmp_path.iterdir())
    export.export(quick, file)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(20_000), pytest.raises(export.ExportError, match="an older file is unchanged"):
        export.export(quick, file, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = pooled().train()
    before = copy.deepcopy(model.state_dict())
    export.export(model, tmp_path / "student.pt2", precision="bf16")
    assert model.training and all(torch.equal(model.state_dict()[key], before[key]) for key in before)


def missing(name, monkeypatch) -> None:
    real = importlib.import_module

    def import_module(wanted, *rest):
        if wanted.split(".")[0] == name:
            raise ImportError(f"No module named {wanted!r}")
        return real(wanted, *rest)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_an_int8_file_is_calibrated_with_at_least_one_clip(tmp_path):
    for count in (0, 2.5):
        with pytest.raises(EgoDistillError, match=r"calibration_clips .* must be a whole number, 1 <="):
            export.export(pooled(), tmp_path / "a.pt2", calibration_clips=count)


def test_the_cost_of_an_exported_file_is_that_of_its_student(written):
    with pytest.raises(EgoDistillError, match=r"Exported shows neither its weights nor .*measure the student"):
        measure(export.load_exported(written[1]), device="cpu")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.safetensors", {}, r"must end in \.pt2; got .*a\.safetensors$"),
        (
            "a.pt2",
            {"format": "onnx"},
            r"must end in \.onnx; got .*a\.pt2, the end of format='export' \(--format export\)",
        ),
        ("a.onnx", {"format": "aoti"}, r"must end in \.pt2; got .*a\.onnx, the end of format='onnx' \(--format onnx\)"),
        ("a.pt2", {"format": "tflite"}, "'export', 'aoti', 'onnx'.*'tflite'"),
        ("a.pt2", {"precision": "int4"}, "'fp32', 'bf16', 'int8'.*'int4'"),
        ("a.onnx", {"format": "onnx", "precision": "bf16"}, "fp32 or int8"),
    ],
)
def test_what_does_not_go_together_is_refused(name, options, words, tmp_path):
    with pytest.raises(export.ExportError, match=words):
        export.export(pooled(), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    model = pooled()
    with pytest.raises(export.ExportError, match="of the class EgoDistill can be exported; got Teacher"):
        export.export(teachers.load("x3d_m", None, 4, frames=4, size=64, width=8, pool=2, progress=False), "a.pt2")
    model.trained_by = "pretrain_imu"
    for write in (export.export, export.export_pair):
        with pytest.raises(EgoDistillError, match="result of stage 1"):
            write(model, tmp_path / "a.pt2")
    model.trained_by = "distill"
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(export.ExportError, match=r"needs torch 2\.6 or later; this is 2\.5\.1"):
        export.export(model, tmp_path / "a.pt2", format="aoti")
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    missing("onnxscript", monkeypatch)
    with pytest.raises(export.ExportError, match="pip install onnx onnxscript"):
        export.export(model, tmp_path / "a.onnx", format="onnx")
    missing("torchao", monkeypatch)
    with pytest.raises(export.ExportError, match="pip install torchao"):
        export.export(model, tmp_path / "a.pt2", precision="int8")
    missing("onnxruntime", monkeypatch)
    with pytest.raises(export.ExportError, match="pip install onnxruntime"):
        exported.open_onnx(tmp_path / "a.onnx", ["frames"])
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(export.ExportError, match="needs a C\\+\\+ compiler; no-such-compiler is not found"):
        export.export(model, tmp_path / "a.pt2", format="aoti")
    with pytest.raises(export.ExportError, match=r"a\.pt2: no such file"):
        export.load_exported(tmp_path / "a.pt2")


def test_int8_on_apples_processors_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    """torchao's quantizer for x86 asks for an operator that torch has not there (torchao issue 4403)."""
    for name in ("torchao", "torchao.quantization", "torchao.quantization.pt2e", "torchao.quantization.pt2e.quantizer"):
        folder = tmp_path / "site" / name.replace(".", "/")
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (tmp_path / "site/torchao/quantization/pt2e/quantize_pt2e.py").touch()
    (folder / "x86_inductor_quantizer.py").write_text("import torch\ntorch.ops.onednn.no_such_operator\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    student(image_encoder="resnet10x4").save(tmp_path / "student.safetensors")
    command = ["export", str(tmp_path / "student.safetensors"), "--precision", "int8", "--out", str(tmp_path / "a.pt2")]
    try:
        assert cli.main(command) == 1
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchao"]:
            del sys.modules[name]
    said = capsys.readouterr().err
    assert said.startswith("\negodistill export: int8 needs an x86 processor: ") and said.count("\n") == 2, said
    assert "no_such_operator" in said and not list(tmp_path.glob("a.pt2*"))


@pytest.mark.parametrize("step", [1e-6, 1 / 64])
def test_times_are_right_by_a_coarse_clock(monkeypatch, step):
    """By one that moves in 15.6 ms, too, with models of 2 and 30 ms."""
    now = 0.0

    def clock():
        nonlocal now
        now += 3e-7
        return now // step * step

    def model(milliseconds):
        def run():
            nonlocal now
            now += milliseconds / 1e3
            calls.append(milliseconds)

        return run

    calls = []
    monkeypatch.setattr(export.time, "process_time", clock)
    found = export.milliseconds([model(2.0), model(30.0)], (), repeats=5)
    assert found == pytest.approx([2.0, 30.0], rel=0.1)
    if step < 1e-3:
        assert calls.count(2.0) == calls.count(30.0) == 8  # as before: one run a measurement
    else:
        assert calls.count(2.0) > 8 * 90


# --- Comparison and command


def test_comparison_tells_right_from_wrong(written, tmp_path):
    (model, right), other, wrong = written, pooled(seed=1), tmp_path / "wrong.pt2"
    store = Clips(model, 40)
    export.export(other, wrong)
    first, second, third = export.compare(model, store, [right, wrong], repeats=1)
    clips = [torch.from_numpy(array) for array in store.arrays.values()]
    labels = [original(one, *clips).logits.argmax(1) for one in (model, other)]
    assert len(set(labels[0].tolist())) > 1, "a student that always says the same proves nothing"
    truth = torch.from_numpy(store.labels)
    assert first[:5] == ("original", "eager", "fp32", 1.0, 0.0)
    assert second.agreement == 1.0 and second.feature_difference < 1e-5
    assert third.agreement == pytest.approx(float((labels[0] == labels[1]).float().mean())) and third.agreement < 1
    assert third.feature_difference > 1e-3
    for row, chosen in ((first, labels[0]), (second, labels[0]), (third, labels[1])):
        assert row.top1 == pytest.approx(float((chosen == truth).float().mean())) and row.milliseconds > 0
    assert second.megabytes == right.stat().st_size / 1e6
    store.labels[0] = -1
    assert export.compare(model, store, [], repeats=1)[0].top1 is None


def test_command(tmp_path, capsys, monkeypatch):
    model, checkpoint, file = (
        student(image_encoder="resnet10x4"),
        tmp_path / "student.safetensors",
        tmp_path / "out" / "student.pt2",
    )
    model.save(checkpoint)
    monkeypatch.setattr(models, "open_split", lambda *given: Clips(model))
    with monkeypatch.context() as patch:
        any_input(patch)
        assert cli.main(["export", str(checkpoint), "--out", str(file), "--check", "store"]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("student.pt2"))
    assert row.split()[:4] == ["student.pt2", "export", "fp32", "100.00"] and "original" in printed
    assert f"torch.export.load({str(file)!r})" in printed  # runs from here
    assert_same(model, file)

    (tmp_path / "text.safetensors").write_text("no weights")
    another = tmp_path / "another.safetensors"
    model_files.change(checkpoint, lambda record, _: record.update(format="another"), another)
    free = str(tmp_path / "free.pt2")
    for words, told in (
        ([str(checkpoint), "--out", str(file)], "already exists"),
        ([str(checkpoint), "--out", "a.onnx"], "must end in .pt2; got a.onnx, the end of format="),
        ([str(tmp_path / "text.safetensors"), "--out", free], "cannot be read: it is damaged"),
        ([str(another), "--out", free], "its format is 'another'"),
        ([str(tmp_path / "none.safetensors"), "--out", free], "none.safetensors: no such file"),
        ([str(checkpoint), "--out", free, "--calibrate", str(tmp_path)], "--calibrate is for int8"),
    ):
        assert cli.main(["export", *words]) == 1
        error = capsys.readouterr().err.strip()
        assert told in error and "\n" not in error
    assert cli.main(["export", str(checkpoint), "--out", str(file), "--overwrite", "--batch-size", "2"]) == 0
    assert export.load_exported(file).batch_size == 2 and "slower than fp32" not in capsys.readouterr().out


def test_the_command_says_that_an_uncompiled_int8_program_is_slow(tmp_path, capsys, monkeypatch):
    def written(model, path, **options):
        Path(path).touch()
        return {"run": "so", "file": Path(path).name}

    student(image_encoder="resnet10x4").save(tmp_path / "student.safetensors")
    for name in ("int8", "fp32"):
        monkeypatch.setattr(export, "export", written)
        command = [
            "export",
            str(tmp_path / "student.safetensors"),
            "--precision",
            name,
            "--out",
            str(tmp_path / f"{name}.pt2"),
        ]
        for extra in ([], ["--format", "aoti"]):
            assert cli.main([*command, *extra]) == 0
            said = "slower than fp32" in (printed := capsys.readouterr().out) and "--format aoti" in printed
            assert said == (name == "int8" and not extra)


def test_the_command_says_for_what_int8_is_far_from_fp32(tmp_path, capsys, monkeypatch):
    def written(model, path, **options):
        Path(path).touch()
        compared = {
            "calibration clips": {"equal_labels": 1.0, "feature_error": 0.02},
            "dark pictures": {"equal_labels": 0.95, "feature_error": 0.03},
            "noise pictures": {"feature_error": 0.3},
            "strong head motion": {"equal_labels": 0.5, "feature_error": 0.05},
        }
        return {"run": "so", "file": Path(path).name, "calibration": {"compared": compared}}

    student(image_encoder="resnet10x4").save(tmp_path / "student.safetensors")
    monkeypatch.setattr(export, "export", written)
    command = ["export", str(tmp_path / "student.safetensors"), "--precision", "int8", "--out", str(tmp_path / "a.pt2")]
    assert cli.main(command) == 0
    usual = "on the calibration clips: 100 % equal labels, feature error 2 %"
    assert [line for line in capsys.readouterr().out.splitlines() if "far from" in line] == [
        f"note: int8 is far from fp32 on noise pictures: feature error 30 %; {usual}",
        f"note: int8 is far from fp32 on strong head motion: 50 % equal labels, feature error 5 %; {usual}",
    ]


def test_nothing_is_warned_of_that_a_user_could_not_mend(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export.export(pooled(), tmp_path / "student.pt2")


# --- The pair


def assert_same_in_steps(model: EgoDistill, path) -> None:
    """As a stream runs it: each picture once and alone, their features kept, then the answer."""
    pair, clips = export.load_pair(path), inputs(model, 2)
    frames = clips[0]
    kept = [[pair.encode_frames(frames[c : c + 1, k : k + 1], 1) for k in range(model.num_frames)] for c in range(2)]
    assert all(feature.shape == (1, 1, model.image_dim) for features in kept for feature in features)
    features = torch.cat([torch.cat(one, dim=1) for one in kept])
    motion = pair.encode_imu(clips[1]) if "imu" in model.inputs else None
    given, whole = pair.fuse(pair.aggregate(features), motion), pair(*clips)
    assert isinstance(given, Output)
    for one, other in zip(given, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


SPECTRUM = {"num_frames": 2, "imu_encoder": "spectrum", "aggregator": "concat"}
FILTERBANK = {"num_frames": 2, "imu_encoder": "filterbank"}
STUDENTS = [{}, {"num_frames": 2}, {"imu_encoder": None}, SPECTRUM, FILTERBANK, {"num_frames": 2, "imu_encoder": None}]


@pytest.mark.parametrize("arguments", STUDENTS, ids=str)
def test_a_pair_agrees(arguments, tmp_path):
    model, path = pooled(**arguments), tmp_path / "out" / "device.pt2"
    export.export_pair(model, path)
    names = ["device.frame.pt2", "device.motion.pt2"]
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([*names, *(f"{name}.json" for name in names)])
    assert_same(model, path, load=export.load_pair)
    assert_same_in_steps(model, path)
    sizes = [(path.parent / name).stat().st_size for name in names]
    whole = sum(x.nbytes for x in model.state_dict().values())
    assert sum(sizes) < 1.2 * whole + 800_000 and min(sizes) < 0.8 * sum(sizes), "each has the weights of the other"


@MODERN
@pytest.mark.parametrize(
    "arguments",
    [pytest.param({}, marks=pytest.mark.slow("its steps are in the others"), id="{}"), *STUDENTS[1:4]],
    ids=str,
)
def test_an_onnx_pair_agrees(arguments, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, exc_type=ImportError)
    model, path = pooled(**arguments), tmp_path / "device.onnx"
    descriptions = export.export_pair(model, path, format="onnx")
    assert_same(model, path, load=export.load_pair)
    assert_same_in_steps(model, path)
    for description in descriptions:
        graph = importlib.import_module("onnx").load(tmp_path / description["file"]).graph
        assert [value.name for value in graph.input] == [entry["name"] for entry in description["inputs"]]
        assert [value.name for value in graph.output] == [entry["name"] for entry in description["outputs"]]


@pytest.mark.slow("compiles C++")
@MODERN
@COMPILER
def test_a_compiled_pair_for_one_clip_agrees(tmp_path):
    """Also for more clips, which run one by one, and in memory that is not in the order of its axes."""
    model, path = pooled(num_frames=2, image_encoder="resnet10x4"), tmp_path / "device.pt2"
    export.export_pair(model, path, format="aoti", batch_size=1)
    assert_same(model, path, load=export.load_pair)
    assert_same_in_steps(model, path)
    frames, imu = inputs(model, 2)
    pictures = frames.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)  # as a camera stores them
    assert pictures.equal(frames) and not pictures.is_contiguous()
    for one, other in zip(export.load_pair(path)(pictures, imu), original(model, frames, imu), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.slow("bf16, which most processors emulate")
@pytest.mark.parametrize("num_frames", [1, 2])
def test_a_pair_in_bf16_is_near(num_frames, tmp_path):
    model, path = pooled(num_frames=num_frames), tmp_path / "device.pt2"
    export.export_pair(model, path, precision="bf16")
    assert_same(model, path, 0.05, load=export.load_pair)
    export.export(model, tmp_path / "whole.pt2", precision="bf16")
    clips = inputs(model, 12)
    pair, whole = export.load_pair(path)(*clips), export.load_exported(tmp_path / "whole.pt2")(*clips)
    assert pair.logits.argmax(1).equal(whole.logits.argmax(1))
    torch.testing.assert_close(pair.feature, whole.feature, atol=0.01 * float(whole.feature.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("arguments", "layers"),
    [
        pytest.param({}, 8, marks=pytest.mark.slow("its steps are in the others")),
        ({"num_frames": 2}, 8),
        ({"imu_encoder": None}, 4),
    ],
    ids=str,
)
def test_an_int8_pair_is_near(arguments, layers, tmp_path):
    """Its `motion` is calibrated on the image features of the store's clips; a GRU stays as it is."""
    pytest.importorskip("torchao", exc_type=ImportError)
    model, path = pooled(**arguments), tmp_path / "device.pt2"
    descriptions = export.export_pair(model, path, precision="int8", calibrate=Clips(model))
    frame, motion = (description["calibration"] for description in descriptions)
    assert frame["clips"] == motion["clips"] == 12 and frame["ranges"] == motion["ranges"]
    assert [*frame["compared"]] == ["calibration clips", "dark pictures", "noise pictures"]
    assert ("strong head motion" in motion["compared"]) == ("imu" in model.inputs)
    assert_same(model, path, INT8_ERROR, load=export.load_pair)
    export.export(model, tmp_path / "whole.pt2", precision="int8", calibrate=Clips(model))
    whole, clips = export.load_exported(tmp_path / "whole.pt2"), inputs(model, 12)
    assert export.load_pair(path)(*clips).logits.argmax(1).equal(whole(*clips).logits.argmax(1))
    program = torch.export.load(tmp_path / "device.motion.pt2")
    # Four of the IMU encoder's five convolutions, two hidden layers, the feature and the classifier.
    assert sum("dequantize_per_channel" in str(node.target) for node in program.graph.nodes) == layers
    assert any("gru" in name for name in program.state_dict) == ("num_frames" in arguments)


def assert_same_with_each_mix(model: EgoDistill, path, tolerance=1e-5) -> None:
    """And what is in the place of an input that is not present changes nothing."""
    pair, (frames, imu) = export.load_pair(path), inputs(model, 3)
    found = [pair(frames, imu), pair(frames, None), pair(None, imu)]
    for given, mix in zip(found, ((frames, imu), (frames, None), (None, imu)), strict=True):
        for one, other in zip(given, original(model, *mix), strict=True):
            torch.testing.assert_close(one, other, atol=tolerance * float(other.abs().max()), rtol=0)
    kept, present = pair.encode_frames(frames), torch.tensor([[True, False], [False, True], [True, True]])
    mixed, wrong = pair.motion(kept, imu, present), (kept.clone(), imu.clone())
    for row, (has_frames, has_imu) in enumerate(present):
        wrong[0][row] = wrong[0][row] if has_frames else 100 * torch.randn_like(kept[row])
        wrong[1][row] = wrong[1][row] if has_imu else 3 * torch.randn_like(imu[row])
    assert all(map(torch.equal, pair.motion(*wrong, present), mixed))
    for row, mix in enumerate((found[1], found[2], found[0])):  # clips of one batch may lack different inputs
        torch.testing.assert_close(mixed[1][row], mix.logits[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("format", "precision", "arguments"),
    [
        ("export", "fp32", {}),
        ("export", "fp32", {"num_frames": 2, "imu_encoder": "spectrum", "aggregator": "concat"}),
        ("export", "bf16", {}),
        ("export", "int8", {}),
        pytest.param("onnx", "fp32", {"num_frames": 2}, marks=MODERN),
        pytest.param("onnx", "int8", {}, marks=[MODERN, pytest.mark.slow("int8 of the other format runs by default")]),
        pytest.param("aoti", "fp32", {}, marks=[MODERN, COMPILER, pytest.mark.slow("compiles C++")]),
        pytest.param("aoti", "int8", {}, marks=[MODERN, COMPILER, pytest.mark.slow("compiles C++")]),
    ],
    ids=str,
)
def test_a_pair_with_optional_inputs_agrees_with_each_mix(format, precision, arguments, tmp_path):
    needed = {"onnx": ["onnx", "onnxscript", "onnxruntime"]}.get(format, []) + ["torchao"] * (precision == "int8")
    for package in needed:
        pytest.importorskip(package, exc_type=ImportError)
    model, path = optional(**arguments), tmp_path / f"device.{'onnx' if format == 'onnx' else 'pt2'}"
    store = Clips(model) if precision == "int8" else None
    export.export_pair(model, path, format=format, precision=precision, calibrate=store)
    assert_same_with_each_mix(model, path, {"fp32": 1e-5, "bf16": 0.05, "int8": 0.12}[precision])


def test_with_both_inputs_a_pair_computes_and_costs_what_it_does_without_the_choice(tmp_path):
    model, plain = optional(), pooled()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("no_")})
    model.calibration = Calibration(2.0, 100, None, {"frames": 4.0, "imu": 0.5})
    frame, motion = export.export_pair(model, tmp_path / "may.pt2")
    descriptions = export.export_pair(plain, tmp_path / "must.pt2")
    may, must = (export.load_pair(tmp_path / f"{name}.pt2")(*inputs(model, 3)) for name in ("may", "must"))
    for one, other in zip(may, must, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert [frame["multiply_adds"], motion["multiply_adds"]] == [one["multiply_adds"] for one in descriptions]
    sizes = [(tmp_path / f"{name}.frame.pt2").stat().st_size for name in ("may", "must")]
    assert abs(sizes[0] - sizes[1]) < 2000  # what stands for missing inputs is in the other program
    present = motion["inputs"][-1]
    assert (present["name"], present["dtype"], present["shape"]) == ("present", "bool", ["batch", 2])
    assert "changes nothing" in present["values"] and "`alone`" in motion["outputs"][1]["values"]
    assert (motion["temperature"], motion["alone"]) == (2.0, {"frames": 4.0, "imu": 0.5}) and frame["alone"] is None
    assert "without one of the two" in motion["state"]["ready"] and motion["run"].endswith("imu, present)")
    assert descriptions[1]["alone"] is None and "present" not in descriptions[1]["run"]


@pytest.mark.parametrize(("name", "own"), [("imu", "frames"), ("frames", "imu")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_without_an_optional_input_is_a_single_file(name, own, precision, tmp_path):
    model = optional()
    model.calibration = Calibration(2.0, 100, None, {"frames": 4.0, "imu": 0.5})
    view = model.without(name)
    description = export.export(view, tmp_path / "one.pt2", precision=precision)
    run = export.load_exported(tmp_path / "one.pt2")
    (given,) = (x for kind, x in zip(model.inputs, inputs(model, 3), strict=True) if kind == own)
    for one, other in zip(run(given), original(view, given), strict=True):
        atol = {"fp32": 1e-5, "bf16": 0.05}[precision] * float(other.abs().max())
        torch.testing.assert_close(one, other, atol=atol, rtol=0)
    assert run.inputs == (own,) and [entry["name"] for entry in description["inputs"]] == [own]
    assert spec_of(run).complete() == spec_of(view).complete() and run.class_names == CLASSES
    assert description["temperature"] == run.calibration.temperature == {"frames": 4.0, "imu": 0.5}[own]
    weights = "\n".join(torch.export.load(tmp_path / "one.pt2").state_dict)
    assert ("image_encoder" in weights, "imu_encoder" in weights) == (own == "frames", own == "imu")
    with pytest.raises(
        export.ExportError, match=rf"reads {own} alone; export the pair of the whole student.*export\(\)"
    ):
        export.export_pair(view, tmp_path / "pair.pt2")


def test_descriptions_of_a_pair_say_what_to_keep(tmp_path):
    model = pooled(num_frames=2, imu_rate=100.0, imu_samples=213)
    returned = export.export_pair(model, tmp_path / "device.pt2", batch_size=1)
    frame, motion = (
        json.loads((tmp_path / f"device.{part}.pt2.json").read_text(encoding="utf-8")) for part in ("frame", "motion")
    )
    assert (frame, motion) == returned and (frame["part"], motion["part"]) == ("frame", "motion")
    assert frame["student"] == motion["student"] and frame["state"] == motion["state"]
    (picture,), (features, imu) = frame["inputs"], motion["inputs"]
    assert picture["name"] == "frame" and picture["shape"] == [1, 3, 32, 32]
    assert picture["axes"] == ["batch", "channel", "row", "column"] and picture["dtype"] == "uint8"
    assert features["shape"] == [1, 2, model.image_dim] and "oldest frame first" in features["order"]
    assert frame["multiply_adds"] == export.count_multiply_adds(pooled(), export.FrameProgram)  # of one picture
    times = pytest.approx(data.clip_times(0.0, 2).tolist())
    assert picture["seconds_from_clip_start"] == times and features["seconds_from_clip_start"] == times
    assert imu["shape"] == [1, 213, 6] and imu["units"] == ["m/s2"] * 3 + ["rad/s"] * 3
    assert [(x["name"], x["shape"]) for x in frame["outputs"]] == [("image_feature", [1, model.image_dim])]
    assert [x["name"] for x in motion["outputs"]] == ["feature", "logits"]
    assert "2.120000 s from its start" in motion["state"]["ready"] and "[stop - clip_seconds" in motion["state"]["clip"]
    assert frame["run"].endswith("(frame)") and motion["run"].endswith("(image_features, imu)")
    assert " image_feature, = " in frame["run"] and " feature, logits = " in motion["run"]
    assert [len(description["inside"]) for description in returned] == [1, 1]
    assert "mean over the clip" in motion["inside"][0] and "normalisation" in frame["inside"][0]
    assert export.export(model, tmp_path / "whole.pt2")["state"] is None
    frame, motion = export.export_pair(pooled(imu_encoder=None), tmp_path / "still.pt2")
    assert [entry["name"] for entry in motion["inputs"]] == ["image_features"] and motion["inside"] == []
    assert "sensors" not in motion["state"]["ready"]


def test_a_pair_goes_through_evaluate_and_compare(written, paired, tmp_path):
    (model, _), path, store = paired, tmp_path / "device.pt2", Clips(paired[0])
    for file in [*paired[1].parent.iterdir(), written[1]]:
        shutil.copy(file, path if file == written[1] else tmp_path)  # a whole student may lie beside a pair
    shutil.copy(f"{written[1]}.json", f"{path}.json")
    quiet = {"device": "cpu", "progress": False}
    ours, theirs = evaluate(export.load_pair(path), store, **quiet), evaluate(model, store, precision="fp32", **quiet)
    assert ours.precision == "fp32"
    torch.testing.assert_close(ours.scores, theirs.scores)
    _, whole, pair = export.compare(model, store, [path], pairs=[path], repeats=1)
    assert whole.file == pair.file == str(path) and whole.agreement == pair.agreement == 1.0
    assert pair.feature_difference < 1e-4 and (pair.kind, pair.precision) == ("export", "fp32")
    parts = [tmp_path / f"device.{part}.pt2" for part in ("frame", "motion")]
    assert pair.megabytes == sum(part.stat().st_size for part in parts) / 1e6
    assert whole.megabytes == path.stat().st_size / 1e6


def test_a_pair_is_whole_or_not_there(paired, tmp_path, monkeypatch):
    """Killed before any of its four files gets its name: the new pair is never mixed with the old one."""
    other, path = pooled(seed=1), tmp_path / "device.pt2"
    shutil.copytree(paired[1].parent, tmp_path, dirs_exist_ok=True)
    with pytest.raises(export.ExportError, match=r"device\.frame\.pt2 already exists.*--overwrite"):
        export.export_pair(other, path)
    real, build = os.replace, functools.cache(export.build_program)
    monkeypatch.setattr(export, "build_program", lambda model, part, settings: build(other, part, SETTINGS))
    for last in range(4):
        calls = []

        def killed(*paths, last=last, calls=calls):
            calls.append(paths)
            if len(calls) > last:
                raise KeyboardInterrupt
            real(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                export.export_pair(other, path, overwrite=True)
        with pytest.raises(export.ExportError, match=r"pt2\.json: the description is missing: the export was int"):
            export.load_pair(path)
        shutil.copytree(paired[1].parent, tmp_path, dirs_exist_ok=True)
    export.export_pair(other, path, overwrite=True)
    assert_same(other, path, load=export.load_pair)


def test_the_request_of_a_pair_is_checked_first(tmp_path):
    for path, options, words in (
        ("a.safetensors", {}, r"must end in \.pt2; got .*a\.frame\.safetensors"),
        ("a.onnx", {"format": "onnx", "precision": "bf16"}, "fp32 or int8"),
        ("a.pt2", {"batch_size": 0}, "batch_size .* must be a whole number"),
    ):
        with pytest.raises(EgoDistillError, match=words):
            export.export_pair(pooled(), tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_pair(tmp_path, capsys, monkeypatch):
    model, checkpoint, path = (
        student(image_encoder="resnet10x4"),
        tmp_path / "student.safetensors",
        tmp_path / "device.pt2",
    )
    model.save(checkpoint)
    monkeypatch.setattr(models, "open_split", lambda *given: Clips(model))
    any_input(monkeypatch)
    command = ["export", str(checkpoint), "--out", str(path), "--pair", "--batch-size", "1", "--check", "store"]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert "device.frame.pt2: export, fp32" in printed and "device.motion.pt2.json describes" in printed
    row = next(line for line in printed.splitlines() if line.startswith("device.pt2"))
    assert row.split()[:4] == ["device.pt2", "export", "fp32", "100.00"]
    assert export.load_pair(path).batch_size == 1
    assert_same(model, path, load=export.load_pair)
    assert cli.main(command) == 1 and "device.frame.pt2: already exists" in capsys.readouterr().err


# --- Values that are not the usual ones


@pytest.mark.parametrize(("unlabelled", "known"), [([], True), ([3], False), (range(12), False)])
def test_a_comparison_is_computed_as_its_fields_say(tmp_path, monkeypatch, unlabelled, known):
    """Against a file whose outputs are the student's with a known change."""
    model, store = pooled(), Clips(pooled())
    store.labels[list(unlabelled)] = -1
    change = torch.zeros(12, 12)
    change[5, 7], change[2, 1] = -0.75, 0.5

    class Changed(nn.Module):
        description = {"kind": "onnx", "precision": "int8"}  # noqa: RUF012
        done = 0

        def forward(self, *inputs):
            feature, logits = original(model, *inputs)
            part = change[self.done : self.done + len(feature)] if len(feature) > 1 else 0 * feature
            self.done += len(feature) * (len(feature) > 1)
            return Output(feature + part, logits.flip(1))

    (tmp_path / "a.onnx").write_bytes(bytes(1_234_567))
    monkeypatch.setattr(export, "load_exported", lambda path: Changed())
    first, second = export.compare(model, store, [tmp_path / "a.onnx"], repeats=1)
    logits = original(model, *inputs(model, 12)).logits
    assert (second.file, second.kind, second.precision) == (str(tmp_path / "a.onnx"), "onnx", "int8")
    assert second.feature_difference == pytest.approx(0.75, abs=1e-5) and second.megabytes == 1.234567
    same = (logits.argmax(1) == logits.flip(1).argmax(1)).float().mean()
    assert second.agreement == pytest.approx(float(same))
    for row, scores in ((first, logits), (second, logits.flip(1))):
        right = float((scores.argmax(1).numpy() == store.labels).mean())
        assert row.top1 == (pytest.approx(right) if known else None)
    assert first.megabytes == pytest.approx(
        sum(v.numel() * v.element_size() for v in model.state_dict().values()) / 1e6
    )


def test_settings_of_calibration_reach_it_and_the_description(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(export, "quantise", lambda program, clips: seen.extend(clips))
    monkeypatch.setattr(export, "trace", lambda *_: None)
    writer = export.FORMATS["export"]._replace(write=lambda program, model, path: path.write_bytes(b"a program"))
    monkeypatch.setitem(export.FORMATS, "export", writer)
    monkeypatch.setattr(export, "require_quantisation", lambda: None)
    monkeypatch.setattr(export, "compare_int8", lambda *_: {"calibration clips": {}})
    described = export.describe_calibration  # describe() itself names torchao's version, which may not be installed

    def describe(model, path, settings, part, compared):
        return {"calibration": described(model, settings, compared)}

    monkeypatch.setattr(export, "describe", describe)
    model = pooled()
    for wanted in (5, 100):
        options = {"calibrate": Clips(model, 40), "calibration_clips": wanted, "overwrite": True}
        description = export.export(model, tmp_path / "a.pt2", precision="int8", **options)
        count = min(wanted, 40)
        chosen = np.linspace(0, 39, count).round().astype(int)
        np.testing.assert_array_equal(torch.cat([imu for _, imu in seen]), Clips(model, 40).arrays["imu"][chosen])
        ranges = export.ranges_of(export.store_clips(model, Clips(model, 40), count))
        about = {"clips": count, "random": False, "ranges": ranges, "compared": {"calibration clips": {}}}
        assert description["calibration"] == about
        seen.clear()


def test_the_first_three_rounds_do_not_count(monkeypatch):
    now, spent = [0.0], iter((9.0, 8.0, 7.0, 0.002, 0.006, 0.003))

    def model():
        now[0] += next(spent)

    monkeypatch.setattr(export, "clock_step", lambda: 1e-6)
    monkeypatch.setattr(export.time, "process_time", lambda: now[0])
    assert export.milliseconds([model], (), repeats=3) == [pytest.approx(3.0)]
