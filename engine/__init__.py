"""What networks run on.

batches       clips of a store as tensors; what a model reads
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
augmentation  random changes of training clips; recorded head motion of others
refusal       the class "unsure" of a student of head motion
teacher       the class Teacher; `egodistill.teachers` is the door
torchvision_teachers   torchvision's video classifiers
"""

from ..support.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__)
