"""What a clip is: the fields of a spec, the times of frames, where clips of a recording start."""

import math
from dataclasses import replace

import numpy as np
import pytest
from painted import CLIP

from egodistill import DataError
from egodistill.recordings.clips import decode_clips
from egodistill.recordings.spec import ClipSpec, clip_starts, spec_differences, spec_of

STUDENT = ClipSpec(frames=4, size=40, imu_samples=422)


def test_specs_are_compared_in_what_both_have(kitchen):
    assert spec_differences(STUDENT, STUDENT) == {}
    assert spec_differences(STUDENT, replace(STUDENT, imu_rate=100.0, exact=False)) == {
        "exact": (True, False),
        "imu_rate": (198.0, 100.0),
    }
    assert spec_differences(STUDENT, replace(STUDENT, imu_rate=100.0, imu_samples=0)) == {}
    assert spec_differences(STUDENT, replace(STUDENT, size=None, seconds=64.0000001 / 30)) == {}
    assert spec_differences(STUDENT, replace(STUDENT, size=64), ignore=("size",)) == {}
    parts = STUDENT.parts()
    assert list(parts) == ["frames", "imu"] and spec_differences(parts["frames"], parts["imu"]) == {}
    with pytest.raises(DataError, match=r"must have one kind of array, not \['frames', 'imu'\]"):
        next(decode_clips(kitchen[0].recording, {0: 1.0}, {"both": STUDENT}))
    for wrong in ({"frames": -1}, {"size": 0}, {"seconds": 0.0}, {"imu_axes": "XZy"}, {"sampling": "middle"}):
        with pytest.raises(DataError):
            replace(STUDENT, **wrong)
    for tolerance in (-0.1, 10.1, math.nan, math.inf, "0.25"):
        with pytest.raises(DataError, match=r"tolerance .* must be from 0 to 10 s; got"):
            replace(STUDENT, tolerance=tolerance)
    with pytest.raises(DataError, match=r"exact=False .* leave out tolerance"):
        replace(STUDENT, tolerance=0.25, exact=False)


def test_a_record_of_a_spec_makes_it_again():
    for spec in (STUDENT, replace(STUDENT, tolerance=0.25, imu_axes="glasses")):
        assert ClipSpec(**spec.record()) == spec and spec.record()["imu_axes"] == spec.imu_axes


def test_segments_of_whole_clips_have_as_many_clips():
    for seconds in (CLIP, 1.0, 0.7):
        for start in np.arange(0, 20, 0.37):
            for count in (1, 2, 3, 7):
                starts = clip_starts(start, start + count * seconds, 1000.0, seconds)
                np.testing.assert_allclose(starts, start + np.arange(count) * seconds, atol=1e-6)
    assert clip_starts(1.0, 4.0, 3.5, 1.5) == [1.0, 2.0]  # the video ends before the segment


OTHER_FIELDS = {
    "frames": 5,
    "size": 48,
    "crop": True,
    "sampling": "last",
    "exact": False,
    "tolerance": 0.25,
    "imu_samples": 100,
    "imu_rate": 50.0,
    "imu_axes": "glasses",
    "seconds": 1.5,
}


@pytest.mark.parametrize("field", OTHER_FIELDS)
def test_each_field_of_a_spec_is_compared(field):
    """All but the seed of a sampling."""
    assert set(OTHER_FIELDS) | {"seed"} == set(STUDENT.__dataclass_fields__)
    one = replace(STUDENT, crop=False)
    other = replace(one, **{field: OTHER_FIELDS[field]})
    assert spec_differences(one, other) == {field: (getattr(one, field), OTHER_FIELDS[field])}
    assert spec_differences(other, one) == {field: (OTHER_FIELDS[field], getattr(one, field))}
    assert spec_differences(one, other, ignore=(field,)) == {}


def test_each_field_of_a_spec_comes_from_its_attribute_of_a_model():
    class Model:
        inputs = ("frames", "imu")
        num_frames, frame_size, sampling, exact, clip_seconds, imu_samples, imu_rate, imu_axes = (
            5,
            48,
            "last",
            False,
            1.5,
            100,
            50.0,
            "glasses",
        )

    expected = {name: value for name, value in OTHER_FIELDS.items() if name not in ("crop", "tolerance")}
    expected["tolerance"] = None  # the model does not say
    assert spec_of(Model()) == ClipSpec(**expected, crop=False)
    Model.inputs = ("clip",)
    assert spec_of(Model()) == ClipSpec(**expected | {"imu_samples": 0}, crop=True)
    Model.exact, Model.tolerance = True, 0.25
    assert (spec_of(Model()).exact, spec_of(Model()).tolerance) == (True, 0.25)
    assert ClipSpec(tolerance=None).complete().tolerance == 0.0


def test_clips_lie_where_the_rule_says():
    """One clip is around the middle of its segment; several are spread from end to end; all are within the video."""
    for start, stop, expected in (
        (5.0, 6.0, [4.5]),
        (5.0, 7.0, [5.0]),
        (5.0, 8.0, [5.0, 6.0]),
        (5.0, 11.0, [5.0, 7.0, 9.0]),
        (5.0, 11.5, [5.0, 6.5, 8.0, 9.5]),
        (0.2, 0.4, [0.0]),
        (19.5, 20.0, [18.0]),
        (18.5, 25.0, [18.0]),
    ):
        np.testing.assert_allclose(clip_starts(start, stop, 20.0, 2.0), expected)
    assert clip_starts(0.1, 1.0, 1.2, 2.0) == [0.0]


def test_times_of_the_ends_are_those_of_the_whole_clip():
    for count, expected in ((2, [3.0, 4.5]), (3, [3.0, 3.75, 4.5])):
        assert ClipSpec(frames=count, sampling="ends", seconds=1.5).times(3.0).tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        {"frames": True},
        {"frames": 2.0},
        {"frames": -1},
        {"frames": 1, "size": 224.0},
        {"frames": 1, "size": 0},
        {"imu_samples": 1, "imu_rate": math.nan},
        {"seconds": math.inf},
        {"seconds": "2"},
        {"frames": 1, "size": 10**9},
        {"imu_samples": 2**40},
    ],
)
def test_a_spec_has_whole_and_bounded_numbers(values):
    with pytest.raises(DataError, match=r"whole numbers from 0 on|a clip may have 134217728 pixels"):
        ClipSpec(**values)


def test_a_clip_that_is_too_large_says_how_large():
    with pytest.raises(DataError, match=r"got 100000 frames of 224 x 224 pixels"):
        ClipSpec(frames=100000)


def test_a_spec_takes_the_largest_clip_and_numbers_of_numpy():
    assert ClipSpec(frames=np.int64(128), size=1024, seconds=np.float32(2)).frames == 128
    with pytest.raises(DataError, match="may have"):
        ClipSpec(frames=129, size=1024)


def test_a_spec_may_leave_its_axes_open():
    assert spec_of(object()).imu_axes is None and ClipSpec(imu_axes=None).complete().imu_axes == "gopro"
