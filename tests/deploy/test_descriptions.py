"""Program and description: of one export, undamaged, and what they say they are; nothing is loaded before that."""

import io
import platform
import shutil
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from small_students import CLASSES, pooled, rewrite

from egodistill.deploy import descriptions, export, exported
from egodistill.deploy.descriptions import ExportError


@pytest.fixture
def file(written, tmp_path) -> Path:
    """An exported file that a test may change."""
    for path in (written[1], descriptions.description_of(written[1])):
        shutil.copy(path, tmp_path)
    return tmp_path / written[1].name


@pytest.fixture
def unopened(monkeypatch):
    """Opening a program can run its code."""

    def opened(path, names):
        raise AssertionError(f"{path} was opened")

    for kind in exported.OPENERS:
        monkeypatch.setitem(exported.OPENERS, kind, opened)


def other_sign(content: bytes) -> bytes:
    """Return a sound archive of a program in which one weight has another sign."""
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(found, "w") as target:
        weights = [info for info in source.infolist() if "weight" in info.filename and "json" not in info.filename]
        largest = max(weights, key=lambda info: info.file_size).filename
        for name in source.namelist():
            part = bytearray(source.read(name))
            if name == largest:
                part[-1] ^= 0x80
            target.writestr(name, bytes(part))
    return found.getvalue()


# --- Hashes


def test_another_program_and_damaged_weights_are_noticed(file, unopened):
    sound = file.read_bytes()
    export.export(pooled(seed=1), file.with_name("other.pt2"))
    for content in (file.with_name("other.pt2").read_bytes(), other_sign(sound)):
        file.write_bytes(content)
        with pytest.raises(ExportError, match=r"student\.pt2 is not the program that .*student\.pt2\.json describes"):
            export.load_exported(file)


def test_a_description_that_was_changed_is_noticed(file, unopened):
    described = descriptions.description_of(file)
    sound = described.read_text(encoding="utf-8")
    for change in (
        lambda about: about["class_names"].reverse(),
        lambda about: about["clip_spec"].update(imu_rate=100.0),
        lambda about: about["inputs"][1].update(directions="y up"),
        lambda about: about.update(another=1),
        lambda about: about.pop("fingerprint"),
    ):
        rewrite(file, change, seal=False)
        with pytest.raises(
            ExportError, match=r"student\.pt2\.json(: 'fingerprint' must be| was changed .* class_names)"
        ):
            export.load_exported(file)
        described.write_text(sound, encoding="utf-8")


def test_the_layout_of_a_description_does_not_matter(file):
    rewrite(file, lambda about: about.update(dict(reversed(about.items()))), seal=False)
    assert export.load_exported(file).class_names == CLASSES


@pytest.fixture
def pair(paired, tmp_path) -> Path:
    """An exported pair that a test may change."""
    return shutil.copytree(paired[1].parent, tmp_path / "pair") / paired[1].name


def test_both_files_of_a_pair_are_checked(pair):
    for one in descriptions.pair_files(pair):
        sound, described = one.read_bytes(), descriptions.description_of(one)
        one.write_bytes(other_sign(sound))
        with pytest.raises(ExportError, match=rf"{one.name} is not the program that"):
            export.load_pair(pair)
        one.write_bytes(sound)
        sound = described.read_text(encoding="utf-8")
        rewrite(one, lambda about: about["class_names"].reverse(), seal=False)
        with pytest.raises(ExportError, match=rf"{described.name} was changed"):
            export.load_pair(pair)
        described.write_text(sound, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export.load_pair(pair)


# --- What a file holds


def archive(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in names:
            file.writestr(f"archive/{name}", b"x")
    return content.getvalue()


TRACED, COMPILED, ONNX = (
    archive("models/model.json"),
    archive("data/aotinductor/model/a.so"),
    b"\x08\x0a\x12\x07pytorch",
)
BOTH = archive("models/model.json", "data/aotinductor/model/a.so")


@pytest.mark.parametrize(
    ("name", "kind", "content", "words"),
    [
        ("a.onnx", "aoti", COMPILED, r"a\.onnx holds a compiled program .*must end in \.pt2"),
        ("a.onnx", "export", TRACED, r"a\.onnx holds a program of torch\.export, .*must end in \.pt2"),
        ("a.pt2", "onnx", ONNX, r"a\.pt2 holds an ONNX graph, .*must end in \.onnx"),
        ("a.onnx", "onnx", COMPILED, r"a\.onnx holds a compiled program .*'aoti'.*'onnx'"),
        ("a.pt2", "export", COMPILED, r"a\.pt2 holds a compiled program .*'aoti'.*'export'"),
        ("a.pt2", "export", BOTH, r"a\.pt2 holds a compiled program .*'aoti'.*'export'"),
        ("a.pt2", "aoti", TRACED, r"a\.pt2 holds a program of torch\.export, .*'export'.*'aoti'"),
        ("a.pt2", "export", ONNX, r"a\.pt2 holds an ONNX graph, .*'onnx'.*'export'"),
        ("a.pt2", "export", archive("data.pkl"), r"a\.pt2 cannot be opened: it is truncated, or not an exported pro"),
        ("a.pt2", "export", TRACED[:-5], r"a\.pt2 cannot be opened: it is truncated, or not an exported program"),
        ("a.onnx", "onnx", b"\x08", r"a\.onnx cannot be opened: it is truncated, or not an exported program"),
        ("a.onnx", "onnx", b"ONNX", r"a\.onnx cannot be opened: it is truncated, or not an exported program"),
        ("a.onnx", "onnx", b"", r"a\.onnx cannot be opened: it is truncated, or not an exported program"),
    ],
)
def test_the_content_of_a_file_decides_what_it_is(name, kind, content, words, written, tmp_path, unopened):
    """Not its name, and not its description, whose hashes fit here."""
    file = tmp_path / name
    file.write_bytes(content)
    shutil.copy(descriptions.description_of(written[1]), descriptions.description_of(file))
    rewrite(file, lambda about: about.update(kind=kind))
    with pytest.raises(ExportError, match=words):
        export.load_exported(file)


@pytest.mark.parametrize("name", ["models/model.json", "serialized_exported_program.json"])
def test_programs_of_all_versions_of_torch_are_known(name, tmp_path):
    (tmp_path / "a.pt2").write_bytes(archive(name))
    assert descriptions.kind_of(tmp_path / "a.pt2") == "export"


# --- What a description says


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "another"}', "[" * 5000, '{"format": []}'])
def test_a_spoilt_description_is_refused(text, file, unopened):
    descriptions.description_of(file).write_text(text)
    with pytest.raises(ExportError, match=r"student\.pt2\.json is not"):
        export.load_exported(file)


# --- The processor


HERE = f"{platform.system()} {platform.machine()}"


@pytest.mark.parametrize(
    ("made", "needed", "words"),
    [
        (f"{HERE} AVX512", ["avx2", "avx512_f", "avx512_vnni"], r"lacks avx512_f, avx512_vnni\. Export .* on this mac"),
        (f"{HERE} AVX2", ["avx2"], None),
        (f"{HERE} AVX2", ["avx2", "aes", "of_the_future"], None),
        (f"{platform.system()} riscv64 DEFAULT", [], r"for another processor: for .* riscv64 DEFAULT, and this one is"),
        (f"Plan9 {platform.machine()} AVX2", ["avx2"], r"for Plan9 .*\. Export the student again on this machine"),
    ],
)
@pytest.mark.parametrize("newest", [True, False])
def test_a_program_for_another_processor_is_refused(made, needed, words, newest, file, monkeypatch):
    """An environment that torch shall use AVX2 in does not matter."""
    found = {"avx2": True, "avx512_f": False, "avx512_vnni": False, "aes": False, "cpu_name": "x", "l1d_cache_size": 1}
    if newest:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    else:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: True, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: False, raising=False)
        words = words and words.replace(", avx512_vnni", "")  # older torch does not know
    monkeypatch.setitem(exported.OPENERS, "aoti", lambda path, names: "opened")
    file.write_bytes(COMPILED)
    rewrite(file, lambda about: about.update(kind="aoti", compiled_for=made, instructions=needed))
    if words is None:
        assert export.load_exported(file).program.run == "opened"
        return
    with pytest.raises(ExportError, match=words):
        export.load_exported(file)


def test_the_processor_of_a_compiled_program_is_described(tmp_path):
    settings = export.Settings("aoti", "fp32", None, 256, None, False)
    about = export.describe(pooled(), tmp_path / "a.pt2", settings)
    assert about["compiled_for"].startswith(HERE) and about["instructions"] == sorted(about["instructions"])
    assert not {"aes", "sha"} & {*about["instructions"]}
    descriptions.check_processor(tmp_path / "a.pt2", about)


@pytest.mark.parametrize("value", ["ab", None, 5, [], "lost"])
def test_hashes_cannot_be_left_out(value, file, unopened):
    def change(about):
        about.update(sha256=value) if value != "lost" else about.pop("sha256")
        about["fingerprint"] = descriptions.fingerprint(about)

    rewrite(file, change, seal=False)
    with pytest.raises(ExportError, match=r"student\.pt2 is not the program that .*pt2\.json describes"):
        export.load_exported(file)
