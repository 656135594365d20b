"""Numbers and choices that several rooms share, and that commands show in their help without importing those rooms.

`imu`, `student` and `video` can be copied alone and have their own; a test compares these.
"""

from typing import Literal, get_args

__all__ = [
    "CLIP_SECONDS",
    "IMU_RATE",
    "IMU_SAMPLES",
    "MAX_GAP",
    "MAX_HOLD",
    "MAX_TOLERANCE",
    "SAMPLING",
    "NONE",
    "UNSURE",
    "MIN_CALIBRATION_CLIPS",
    "SplitBy",
    "SPLIT_BY",
    "STREAM_FRAMES",
    "TIMEOUT",
    "EXPORT_FORMATS",
    "EXPORT_PRECISIONS",
]

CLIP_SECONDS = 64 / 30  # 64 frames at 30 frames per second, the clips of the paper's teachers
IMU_RATE = 198.0  # Hz
IMU_SAMPLES = 422  # per clip: floor(CLIP_SECONDS * IMU_RATE)
MAX_GAP = 0.05  # seconds between two IMU samples without a gap between them
MAX_HOLD = 1.0  # seconds that a frame may be on screen without a hole in the recording
MAX_TOLERANCE = 10.0  # seconds between the frame that is read and its time
SAMPLING = ("uniform", "random", "first", "last", "centre", "ages")  # rules by which frames are chosen

NONE = "(none)"  # the class of clips in which nothing happens that has a label
UNSURE = "unsure"  # the last class of a student that refuses some clips, see `engine.refusal`
MIN_CALIBRATION_CLIPS = 50  # with labels, from which on a temperature is fitted; of fewer, none are held out for it
SplitBy = Literal["recording", "stretch"]  # what `annotations.split()` keeps together
SPLIT_BY = get_args(SplitBy)

STREAM_FRAMES = ("centre", "newest")  # which frame a stream answers with
TIMEOUT = 20.0  # seconds without frames or samples after which a source counts as lost; glasses pause for up to 15 s
EXPORT_FORMATS, EXPORT_PRECISIONS = ("export", "aoti", "onnx"), ("fp32", "bf16", "int8")
