"""What networks run on.

batches       clips of a store as tensors; what a model reads; augmentation
calibration   the temperature of a model, and how far its probabilities are off
runtime       device, precision, compilation
distributed   the processes of torchrun
models        the model in a file, of any class
checkpoints   model files and published weights
image_encoders   image networks of torchvision, and the weights that one begins with
parts         what a student is built of, and what does not fit
steps         a student in four steps
spectrum      an IMU encoder of plain numbers: window means and a coarse spectrum
filterbank    another, however the sensor is mounted
safetensors   the format of model files
published     sizes and costs of the published teachers, without torch
recipes       settings of the stages, recipes; without torch
motion        recorded head motion of others, added to that of clips
refusal       the class "unsure" of a student of head motion
teacher       the class Teacher; `egodistill.teachers` is the door
torchvision_teachers   torchvision's video classifiers
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        batches as batches,
        calibration as calibration,
        checkpoints as checkpoints,
        distributed as distributed,
        filterbank as filterbank,
        image_encoders as image_encoders,
        models as models,
        motion as motion,
        parts as parts,
        published as published,
        recipes as recipes,
        refusal as refusal,
        runtime as runtime,
        safetensors as safetensors,
        spectrum as spectrum,
        steps as steps,
        teacher as teacher,
        torchvision_teachers as torchvision_teachers,
    )
else:
    from ..support.lazy import lazy_exports

    __getattr__, __dir__ = lazy_exports(
        __name__,
        dict.fromkeys(
            "batches calibration checkpoints distributed filterbank image_encoders models motion parts published "
            "recipes refusal runtime safetensors spectrum steps teacher torchvision_teachers".split(),
            (),
        ),
    )
