"""What networks run on.

batches       clips of a store as tensors; what a model reads; augmentation
runtime       device, precision, compilation
distributed   the processes of torchrun
checkpoints   model files and published weights
teacher       the class Teacher; `egodistill.teachers` is the door
"""
