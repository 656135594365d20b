"""The table of published teachers is what their networks are."""

import pytest
import torch
from small_teachers import meta

from egodistill import inference, teachers
from egodistill.engine.published import TEACHERS


def test_the_table_has_the_published_models():
    assert list(TEACHERS) == list(teachers.MODELS)
    for name, (*_, feature, clip, classes, origin, file) in TEACHERS.items():
        model = teachers.MODELS[name]
        spec, count = model.clip_spec, model.num_classes
        assert clip == f"{spec.frames}x{spec.size} {model.pixels.channels}"
        assert classes == "+".join(map(str, count if isinstance(count, tuple) else (count,)))
        assert origin == (model.source, model.licence, model.obtain)
        assert file == next(iter(model.released), "none") + " *" * bool(model.torchvision)
        assert meta(name).feature_dim == feature


@pytest.mark.slow("counts every teacher at its own size")
@pytest.mark.parametrize("name", TEACHERS)
def test_parameters_and_multiply_adds_are_counted_right(name):
    teacher = meta(name)
    parameters, gmacs, *_ = TEACHERS[name]
    assert parameters == round(sum(one.numel() for one in teacher.parameters()) / 1e6, 2)
    assert gmacs == round(inference.count_macs(teacher, torch.device("meta")) / 1e9, 2)
