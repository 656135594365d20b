"""Exported files as models: fixed batch sizes, damaged files, files that are not of one export."""

import dataclasses
import io
import os
import re
import shutil
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from small_students import CLASSES, Clips, assert_same, inputs, optional, original, pooled, rewrite

from egodistill import EgoDistillError, evaluate
from egodistill.deploy import export, exported
from egodistill.engine import batches
from egodistill.engine.calibration import Calibration
from egodistill.recordings.spec import spec_of


def test_a_description_and_a_whole_student_say_what_they_are(written):
    path = written[1]
    for load in (exported.load_exported, exported.load_pair):
        with pytest.raises(exported.ExportError, match=rf"a description; give the file without \.json, .*{path.name}$"):
            load(f"{path}.json")
    with pytest.raises(exported.ExportError, match=rf"{path.name} is one whole student.* load_exported\(\)"):
        exported.load_pair(path)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_file_with_a_fixed_batch_size_runs_as_often_as_necessary(batch_size, tmp_path):
    model, file = pooled(), tmp_path / "student.pt2"
    description = export.export(model, file, batch_size=batch_size)
    assert description["batch"] == f"exactly {batch_size}"
    assert {entry["shape"][0] for entry in description["inputs"] + description["outputs"]} == {batch_size}
    assert exported.load_exported(file).batch_size == batch_size
    assert_same(model, file)
    run = exported.load_exported(file)
    with pytest.raises((AssertionError, RuntimeError), match=r"size|shape"):
        run.program.run(*inputs(model, batch_size + 1))  # the file itself
    with pytest.raises(exported.ExportError, match=r"the same number of clips, at least 1; got \[4, 5\]"):
        run(inputs(model, 4)[0], inputs(model, 5)[1])


def test_damaged_files_are_named_and_code_in_them_does_not_run(written, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    file = tmp_path / "student.pt2"
    for path in (written[1], Path(f"{written[1]}.json")):
        shutil.copy(path, tmp_path)
    content, evil = file.read_bytes(), io.BytesIO()
    for damaged in (content[: len(content) // 2], b"", b"not a program"):
        file.write_bytes(damaged)
        with pytest.raises(exported.ExportError, match=r"student\.pt2 cannot be opened: it is truncated"):
            exported.load_exported(file)
    with zipfile.ZipFile(file, "w") as hollow:
        hollow.writestr("archive/models/model.json", "{}")
    rewrite(file, lambda about: None)
    with pytest.raises(exported.ExportError, match=r"student\.pt2 cannot be opened: it is damaged"):
        exported.load_exported(file)
    torch.save({"x": Evil()}, evil)
    with zipfile.ZipFile(io.BytesIO(content)) as sound, zipfile.ZipFile(file, "w") as spoilt:
        for name in sound.namelist():
            pickled = name.endswith(".pt") and sound.read(name).startswith(b"PK")
            spoilt.writestr(name, evil.getvalue() if pickled else sound.read(name))
    rewrite(file, lambda about: None)
    assert Path(file).read_bytes().count(b"ran") and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    with pytest.raises(exported.ExportError, match=r"student\.pt2 cannot be opened.*more than a program"):
        exported.load_exported(file)
    assert not (tmp_path / "ran").exists() and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


# --- Inputs


def with_value(imu, value):
    changed = imu.clone()
    changed[-1, 7, 3] = value
    return changed


WRONG_INPUTS = {
    "float64 samples": (
        lambda frames, imu: (frames, imu.double()),
        r"imu must be float32 \[batch, 422, 6\] on the CPU; g",
    ),
    "200 samples": (lambda frames, imu: (frames, imu[:, :200]), r"got float32 \[3, 200, 6\]"),
    "7 channels": (lambda frames, imu: (frames, imu[..., [0, 1, 2, 3, 4, 5, 5]]), r"got float32 \[3, 422, 7\]"),
    "exchanged": (
        lambda frames, imu: (imu, frames),
        r"frames must be uint8 \[batch, 1, 3, 32, 32\] on the CPU; got float",
    ),
    "small frames": (lambda frames, imu: (frames[..., :16, :16], imu), r"got uint8 \[3, 1, 3, 16, 16\]"),
    "channels last": (lambda frames, imu: (frames.movedim(2, -1), imu), r"got uint8 \[3, 1, 32, 32, 3\]"),
    "two frames": (lambda frames, imu: (torch.cat([frames, frames], 1), imu), r"got uint8 \[3, 2, 3, 32, 32\]"),
    "float frames": (lambda frames, imu: (frames / 255, imu), r"got float32 \[3, 1, 3, 32, 32\]"),
    "one clip without batch": (lambda frames, imu: (frames[0], imu[0]), r"got uint8 \[1, 3, 32, 32\]"),
    "NaN": (lambda frames, imu: (frames, with_value(imu, torch.nan)), "imu has values that are NaN or infinite"),
    "infinite": (lambda frames, imu: (frames, with_value(imu, -torch.inf)), "imu has values that are NaN or infinite"),
    "other counts": (lambda frames, imu: (frames[:2], imu), r"the same number of clips, at least 1; got \[2, 3\]"),
    "no clips": (lambda frames, imu: (frames[:0], imu[:0]), r"the same number of clips, at least 1; got \[0, 0\]"),
    "arrays": (lambda frames, imu: (frames.numpy(), imu), "frames must be .*; got ndarray"),
    "another device": (lambda frames, imu: (frames, imu.to("meta")), r"on the CPU; got float32 \[3, 422, 6\] on meta"),
    "no samples": (lambda frames, imu: (frames,), "takes frames and imu; got 1 input"),
    "sparse": (lambda frames, imu: (frames, imu.to_sparse()), r"imu must be .*; got float32 \[3, 422, 6\], sparse"),
    "None": (lambda frames, imu: (frames, None), r"imu must be .*; got NoneType"),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_wrong_inputs_are_refused_before_the_program_sees_them(name, written, monkeypatch):
    """Compiled code would answer, with numbers such as 1e24."""
    monkeypatch.setitem(exported.OPENERS, "export", lambda path, names: lambda *inputs: pytest.fail("the program ran"))
    change, words = WRONG_INPUTS[name]
    with pytest.raises(exported.ExportError, match=rf"student\.pt2.*{words}"):
        exported.load_exported(written[1])(*change(*inputs(written[0], 3)))


def test_huge_values_are_finite(written):
    """Their sum is not."""
    frames, imu = inputs(written[0], 2)
    imu = with_value(with_value(imu, 3e38), 3e38)
    imu[0] = 3e38
    assert not imu.sum().isfinite()
    exported.load_exported(written[1])(frames, imu)


def test_views_that_torch_has_not_computed_yet_give_the_same_answers(written, monkeypatch):
    """A negative view has the bytes of the other values, which compiled code would read."""
    frames, imu = inputs(written[0], 2)
    model, view = exported.load_exported(written[1]), torch._neg_view(-imu)
    assert view.is_neg() and view.is_contiguous() and torch.equal(view, imu)
    run = model.program.run
    monkeypatch.setattr(model.program, "run", lambda *given: [] if given[1].is_neg() else run(*given))
    assert torch.equal(model(frames, view).logits, model(frames, imu).logits)


def test_outputs_are_those_of_the_description(written, monkeypatch):
    outputs = exported.load_exported(written[1])
    for change in (lambda feature, logits: (feature[:, 1:], logits), lambda feature, logits: (feature[:1], logits[:1])):
        run = outputs.program.run
        monkeypatch.setattr(outputs.program, "run", lambda *given, run=run, change=change: change(*run(*given)))
        with pytest.raises(exported.ExportError, match=r"student\.pt2: its outputs .* export"):
            outputs(*inputs(written[0], 2))


def test_a_pair_checks_its_inputs(tmp_path):
    model, path = pooled(num_frames=2), tmp_path / "device.pt2"
    export.export_pair(model, path)
    pair, (frames, imu) = exported.load_pair(path), inputs(model, 3)
    kept = pair.encode_frames(frames)
    for call, words in (
        (
            lambda: pair.encode_frames(frames[:, 0]),
            r"frame\.pt2: frames must be uint8 \[batch, frames, 3, h.* got uint8 \[3",
        ),
        (lambda: pair.encode_frames(frames[..., :16]), r"frame\.pt2: frame must be uint8 \[batch, 3, 32, 32\] on"),
        (lambda: pair.encode_frames(frames.float()), r"got float32 \[6, 3, 32, 32\]"),
        (
            lambda: pair.fuse(kept[:, :1], imu),
            r"image_features must be float32 \[batch, 2, 16\] .* got float32 \[3, 1, 16\]",
        ),
        (lambda: pair.fuse(kept * torch.inf, imu), "motion.pt2: image_features has values that are NaN or infinite"),
        (lambda: pair.fuse(kept, imu[:2]), r"image_features and imu must be of the same number of clips.*\[3, 2\]"),
        (lambda: pair(frames[:, :1], imu), r"image_features must be float32 \[batch, 2, 16\]"),
        (lambda: pair(frames), r"motion\.pt2 needs imu: pair\(frames, imu\)"),
        (lambda: pair(None, imu), r"motion\.pt2 needs frames: pair\(frames, imu\)"),
    ):
        with pytest.raises(exported.ExportError, match=words):
            call()


def test_inputs_far_outside_of_an_int8_calibration_are_warned_of_once(written, tmp_path):
    model, file = pooled(), tmp_path / "student.pt2"
    for path in (written[1], Path(f"{written[1]}.json")):
        shutil.copy(path, tmp_path)
    frames, imu = inputs(model, 3)
    ranges = export.ranges_of([(frames, imu)])
    about = {"clips": 3, "random": False, "ranges": ranges, "compared": None}
    mean = imu.mean(1, keepdim=True)
    turned = mean + (imu - mean) * torch.tensor([1, 1, 1, 1, 2, 1])
    for calibrated, given, words in (
        (None, (frames, 9 * imu), None),
        (about | {"ranges": None}, (frames, 9 * imu), None),
        (about, (frames, imu + 30), None),  # another gravity
        (about, (frames, mean + 1.4 * (imu - mean)), None),
        (
            about,
            (frames, turned),
            r"student\.pt2: .* far outside .*: gyroscope y is up to .* from its mean over the clip",
        ),
        (about, (frames // 8, imu), r"student\.pt2: .* far outside .*: pictures have means of \d+ to \d+, and had "),
        (about, (255 - frames // 8, imu), r"pictures have means of"),
    ):
        rewrite(file, lambda description, calibrated=calibrated: description.update(calibration=calibrated))
        run = exported.load_exported(file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                run(frames, imu)
                run(*given)
        assert len(caught) == (words is not None), given
        if words is not None:
            assert re.search(words, str(caught[0].message))
    run = exported.load_exported(file)
    for _ in range(2):
        run(frames[:1], imu[:1])
    with pytest.warns(UserWarning, match="pictures have means of"):
        for _ in range(exported.RANGE_EVERY):
            run(frames[1:2] // 8, imu[1:2])


@pytest.mark.slow("the checks of .pt2, which run by default, once more")
@pytest.mark.skipif(export.torch_version() < (2, 6), reason="needs torch 2.6 or later")
def test_an_onnx_file_checks_its_inputs(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, exc_type=ImportError)
    export.export(pooled(), tmp_path / "student.onnx", format="onnx")
    run = exported.load_exported(tmp_path / "student.onnx")
    for change, words in WRONG_INPUTS.values():
        with pytest.raises(exported.ExportError, match=words):
            run(*change(*inputs(pooled(), 3)))


def test_an_exported_file_goes_through_evaluate(written, monkeypatch):
    model, file = written
    store = Clips(model)
    quiet = {"device": "cpu", "progress": False}
    theirs = evaluate(model, store, precision="fp32", **quiet)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    for precision in ("auto", "bf16"):  # It keeps to its own, also where bf16 is faster.
        ours = evaluate(exported.load_exported(file), store, precision=precision, **quiet)
        assert ours.top1 == theirs.top1 and ours.precision == "fp32"
        torch.testing.assert_close(ours.scores, theirs.scores)
    batch = batches.example_inputs(model, 2)
    with torch.no_grad():
        wanted = model(*batch).feature
    with torch.autocast("cpu", torch.bfloat16):  # somebody else's
        torch.testing.assert_close(exported.load_exported(file)(*batch).feature, wanted)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"imu_rate": 100.0}, "'imu' of the store does not fit .* imu_rate is 100.0 in the store, 198.0 in the model"),
        ({"seconds": 1.0}, "'frames_1' of the store does not fit .* seconds is 1.0 in the store, 2.13"),
        ({"size": 64}, "'frames_1' of the store does not fit .* size is 64 in the store, 32 in the model"),
        ({"crop": True}, "'frames_1' of the store does not fit .* crop is True in the store, False"),
        ({"exact": False}, "'frames_1' of the store does not fit .* exact is False in the store, True"),
    ],
)
def test_an_exported_file_is_for_the_clips_of_its_student(written, stored, words):
    """By its description alone."""
    model, file = written
    store, spec = Clips(model), dataclasses.replace(spec_of(model).complete(), **stored)
    parts = spec.parts()
    store.specs = {"frames_1": parts["frames"], "imu": parts["imu"]}
    with pytest.raises(EgoDistillError, match=words):
        evaluate(exported.load_exported(file), store, device="cpu", progress=False)


def test_a_pair_has_the_attributes_of_its_student(tmp_path):
    model, path = pooled(num_frames=2), tmp_path / "device.pt2"
    export.export_pair(model, path, precision="bf16")
    pair = exported.load_pair(path)
    assert (pair.inputs, pair.class_names, pair.precision) == (("frames", "imu"), CLASSES, "bf16")
    assert (pair.feature_dim, pair.num_classes, pair.batch_size) == (12, 4, None)
    assert pair.clip_spec == spec_of(pair) == spec_of(model)
    assert not any(layer.training for layer in pair.modules())  # as `Stream` requires
    with pytest.raises(exported.ExportError, match=r"motion\.pt2 needs imu"):
        pair.fuse(pair.encode_frames(inputs(model, 1)[0]), None)


@pytest.mark.slow("two pairs in each format")
def test_files_that_do_not_belong_together_are_refused(tmp_path):
    for name, seed in (("one", 0), ("other", 1)):
        export.export_pair(pooled(seed), tmp_path / f"{name}.pt2")
    for ending in ("pt2", "pt2.json"):
        shutil.copy(tmp_path / f"other.motion.{ending}", tmp_path / f"one.motion.{ending}")
    with pytest.raises(
        exported.ExportError, match=r"one\.frame\.pt2 and .*one\.motion\.pt2 are not of one export: 'stud"
    ):
        exported.load_pair(tmp_path / "one.pt2")
    export.export_pair(pooled(), tmp_path / "one.pt2", precision="bf16", overwrite=True)
    export.export_pair(pooled(), tmp_path / "other.pt2", overwrite=True)
    for ending in ("pt2", "pt2.json"):
        shutil.copy(tmp_path / f"other.frame.{ending}", tmp_path / f"one.frame.{ending}")
    with pytest.raises(exported.ExportError, match=r"'precision' of their descriptions differs .*'fp32' and 'bf16'"):
        exported.load_pair(tmp_path / "one.pt2")
    with pytest.raises(exported.ExportError, match=r"one\.frame\.pt2 is the part 'frame' of a student, not 'student'"):
        exported.load_exported(tmp_path / "one.frame.pt2")
    with pytest.raises(exported.ExportError, match=r"no such file, but .*one\.motion\.pt2, which load_pair\(\) reads"):
        exported.load_exported(tmp_path / "one.pt2")
    with pytest.raises(exported.ExportError, match=r"one of the two files of a pair; give .*one\.pt2"):
        exported.load_pair(tmp_path / "one.frame.pt2")
    shutil.copy(tmp_path / "other.motion.pt2", tmp_path / "one.frame.pt2")
    shutil.copy(tmp_path / "other.motion.pt2.json", tmp_path / "one.frame.pt2.json")
    with pytest.raises(exported.ExportError, match=r"one\.frame\.pt2 is the part 'motion' of a student, not 'frame'"):
        exported.load_pair(tmp_path / "one.pt2")
    with pytest.raises(exported.ExportError, match=r"none\.frame\.pt2: no such file"):
        exported.load_pair(tmp_path / "none.pt2")


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "x/data/../../../evil"])
@pytest.mark.parametrize("kind", ["export", "aoti"])
def test_a_package_that_would_be_unpacked_elsewhere_is_refused_before(name, kind, written, tmp_path, monkeypatch):
    file, opened = tmp_path / "student.pt2", []
    shutil.copy(written[1], file)
    shutil.copy(f"{written[1]}.json", f"{file}.json")
    with zipfile.ZipFile(file, "a") as archive:
        if kind == "aoti":
            archive.writestr("x/data/aotinductor/model/w.so", "code")
        archive.writestr(name, "code")
    about = {"kind": kind, "compiled_for": None, "instructions": None}
    rewrite(file, lambda description: description.update(about))
    monkeypatch.setitem(exported.OPENERS, kind, lambda *arguments: opened.append(arguments))
    with pytest.raises(exported.ExportError, match=r"student.pt2: its part .* leads out of the folder"):
        exported.load_exported(file)
    assert not opened


def test_an_export_has_the_temperature_beside_its_program_and_applies_it_once(tmp_path):
    """The program is as without it; an export of before has 1; an absurd one is refused by its name."""
    model, file = pooled(), tmp_path / "student.pt2"
    plain = evaluate(model, Clips(model), device="cpu", precision="fp32", progress=False).scores
    model.calibration = Calibration(2.5, 80)
    wanted = evaluate(model, Clips(model), device="cpu", precision="fp32", progress=False).scores
    description = export.export(model, file)
    export.export_pair(model, tmp_path / "device.pt2")
    assert description["temperature"] == 2.5 and not torch.allclose(plain, wanted, atol=0.01)
    for load, path in ((export.load_exported, file), (export.load_pair, tmp_path / "device.pt2")):
        run = load(path)
        found = evaluate(run, Clips(model), device="cpu", precision="fp32", progress=False)
        torch.testing.assert_close(found.scores, wanted, atol=1e-4, rtol=0)
        assert found.temperature == 2.5 and found.without_temperature is not None
        torch.testing.assert_close(run(*inputs(model, 3)).logits, original(model, *inputs(model, 3)).logits)


def test_a_pair_does_without_what_is_optional_with_the_temperature_of_each_mix(tmp_path):
    """Also by one program for one clip, as often as necessary."""
    model, path = optional(), tmp_path / "device.pt2"
    model.calibration = Calibration(2.0, 100, None, {"frames": 4.0, "imu": 0.5})
    export.export_pair(model, path, batch_size=1)
    pair, store, (frames, imu) = exported.load_pair(path), Clips(model), inputs(model, 3)
    quiet = {"device": "cpu", "precision": "fp32", "progress": False}
    assert pair.optional_inputs
    for name, temperature, given in ((None, 2.0, (frames, imu)), ("imu", 4.0, (frames,)), ("frames", 0.5, (imu,))):
        run, view = (one if name is None else one.without(name) for one in (pair, model))
        assert run.inputs == view.inputs and spec_of(run).parts() == spec_of(view).complete().parts()
        torch.testing.assert_close(run(*given).logits, original(view, *given).logits, atol=1e-4, rtol=1e-4)
        ours, theirs = evaluate(run, store, **quiet), evaluate(view, store, **quiet)
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0)
        assert ours.temperature == theirs.temperature == temperature
    kept = pair.encode_frames(frames)
    for found, wanted in ((pair.fuse(kept, None), (frames, None)), (pair.fuse(None, imu), (None, imu))):
        torch.testing.assert_close(found.logits, original(model, *wanted).logits, atol=1e-4, rtol=1e-4)
    view = pair.without("frames")
    for call, words in (
        (lambda: pair(None, None), r"motion\.pt2 needs frames: pair\(frames, imu\)"),
        (lambda: view(frames, imu), r"this pair reads imu alone: pair\(imu\)"),
        (lambda: view.without("imu"), "this pair reads imu, and cannot do without imu"),
        (lambda: pair(None, imu[:, :9]), r"imu must be float32 \[batch, 422, 6\] .* got float32 \[3, 9, 6\]"),
    ):
        with pytest.raises((exported.ExportError, ValueError), match=words):
            call()


def test_a_pair_needs_both_inputs_unless_they_are_optional(paired):
    pair = exported.load_pair(paired[1])
    assert not pair.optional_inputs and pair.calibration.alone is None
    with pytest.raises(ValueError, match=r"this pair needs frames and imu; .* optional_inputs=True"):
        pair.without("imu")
