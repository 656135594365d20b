"""A video with its IMU on one clock. No module here needs torch.

recording     the class Recording; cameras and IMU formats
spec          what a clip is
clips         all clips of a recording in one pass
sensors       what is wrong with an accelerometer or a gyroscope: units, times, frozen readings, no gravity
aria          recordings of Project Aria glasses
checks        coverage, gaps, clock and axes: `recordings.check()`
offset        the offset and the axes of the IMU's clock against the picture
copies        working copies: `recordings.transcode()`
pictures      the picture of a check
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        aria as aria,
        checks as checks,
        clips as clips,
        copies as copies,
        offset as offset,
        pictures as pictures,
        recording as recording,
        sensors as sensors,
        spec as spec,
    )
    from .checks import HEADER as HEADER, Check as Check, SensorCheck as SensorCheck, check as check
    from .clips import decode_clips as decode_clips, read_clip as read_clip
    from .copies import Transcoded as Transcoded, transcode as transcode
    from .offset import estimate_offset as estimate_offset
    from .pictures import draw_check as draw_check
    from .recording import (
        IMU_READERS as IMU_READERS,
        READERS as READERS,
        Recording as Recording,
        open_recording as open_recording,
    )
    from .spec import ClipSpec as ClipSpec
else:
    from ..support.lazy import lazy_exports

    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "aria": (),
            "checks": ("HEADER", "Check", "SensorCheck", "check"),
            "clips": ("decode_clips", "read_clip"),
            "copies": ("Transcoded", "transcode"),
            "offset": ("estimate_offset",),
            "pictures": ("draw_check",),
            "recording": ("IMU_READERS", "READERS", "Recording", "open_recording"),
            "sensors": (),
            "spec": ("ClipSpec",),
        },
    )
