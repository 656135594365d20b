"""Weight gradients of the image networks of the rivals, as gradients.py has those of the student."""

import gradients

from egodistill import student
from lab import adafuse

NETWORKS = {
    "BasicBlock": lambda width: student.ResNet(student.BasicBlock, (1, 1, 1, 1), width),  # ListenToLook's
    "Bottleneck": lambda width: student.ResNet(adafuse.GatedBottleneck, (1, 1, 1, 1), width),  # AdaFuse's
}

if __name__ == "__main__":
    gradients.main(NETWORKS)
