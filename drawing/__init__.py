"""Pictures of results: what commands draw beside what they write. No module here needs torch.

canvas        size, fonts and colours of all pictures, and how they are written
curves        the losses and accuracies of a training
confusion     the confusion matrix and the accuracy of each class
timeline      what a model says about a recording, over time
svg           pictures inside a page
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import canvas as canvas, confusion as confusion, curves as curves, svg as svg, timeline as timeline
else:
    from ..support.lazy import hand_on

    __getattr__, __dir__ = hand_on(__name__, dict.fromkeys("canvas confusion curves svg timeline".split(), ()))
