"""Files of models and trainings."""

import pytest
import torch
from toys import FAST, Store, small

from egodistill import EgoDistill, EgoDistillError, baselines, distill, experiments, training


def test_code_in_a_file_does_not_run_whoever_reads_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    path = tmp_path / "evil.pt"
    torch.save({"format": training.TRAINING_FORMAT, "about": Evil()}, path)
    for read in (
        EgoDistill.load,
        baselines.Baseline.load,
        experiments.load,
        lambda path: small(image_weights=path),
        lambda path: distill(small(), Store(16), teacher="t", **FAST | {"checkpoint": path}),
    ):
        with pytest.raises(ValueError, match=r"evil\.pt cannot be read.*holds code"):
            read(path)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, full_disk):
    path, model = tmp_path / "student.pt", small(image_encoder="squeezenet1_1")
    model.save(path)
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(OSError) as error:
        model.save(path)
    assert isinstance(error.value, EgoDistillError) and str(path) in str(error.value)
    assert f"needs {len(before) / 1e6:.0f}" in str(error.value) and "too large" in str(error.value).lower()
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["student.pt"]
