"""What a student that works in steps must have, and when two outputs are the same."""

import pytest
import torch
from torch import nn
from toys import FAST, Store, small

from egodistill import EgoDistillError, Stream, pretrain_imu
from egodistill.engine import steps


def test_stage_1_and_streams_share_one_check_of_the_steps():
    class Own(nn.Module):
        inputs, num_frames, frame_size, imu_samples = ("frames", "imu"), 1, 32, 422

    for call, words in (
        (
            lambda: pretrain_imu(Own(), Store(), teacher="t", **FAST),
            r".*pretrain.* needs .*see engine\.steps\.Student",
        ),
        (
            lambda: Stream(Own().eval()),
            r"a stream needs .*, see engine\.steps\.Student; predict",
        ),
    ):
        with pytest.raises(
            EgoDistillError, match=rf"Own has no .*encode_frames, aggregate, encode_imu, fuse.*: {words}"
        ):
            call()
    steps.require_steps(small(), ("encode_frames", "aggregate", "encode_imu", "fuse"), "nobody", "")


def test_outputs_that_are_no_numbers_differ():
    one = torch.tensor([[1.0, -2.0]])
    assert not steps.differ(one * 1.0005, one) and steps.differ(one * 1.01, one) and steps.differ(one * torch.nan, one)
