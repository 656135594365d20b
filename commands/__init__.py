"""The command line.

cli           parses it, and calls the command
recordings    segments, check, transcode, convert, prepare, status
training      teachers, finetune, extract, pretrain, distill
models        evaluate, export, measure, predict
live          live
demo          demo, synthesize, compare, ablate
pipeline      train
report        report, the page about what train made
evaluations   what an evaluation is worth, in words
interrupts    Ctrl-C
options       what commands share, without torch
paths         what a command reads and writes, and the check before it
pictures      what commands draw beside their results
pages         the page and the subtitles of `predict`
settings      options made from the settings of a stage; model files
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        cli as cli,
        demo as demo,
        evaluations as evaluations,
        interrupts as interrupts,
        live as live,
        models as models,
        options as options,
        pages as pages,
        paths as paths,
        pictures as pictures,
        pipeline as pipeline,
        recordings as recordings,
        report as report,
        settings as settings,
        training as training,
    )
else:
    from ..support.lazy import hand_on

    __getattr__, __dir__ = hand_on(
        __name__,
        dict.fromkeys(
            "cli demo evaluations interrupts live models options pages paths pictures pipeline recordings report "
            "settings training".split(),
            (),
        ),
    )
