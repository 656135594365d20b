"""The command line.

cli               parses it, and calls the command
recordings        segments, check, transcode, convert, prepare, status
training          finetune, extract, pretrain, distill
teachers          teachers
models            evaluate, export, measure, predict
whole_recordings  evaluate --recordings
live              live
demo              demo, synthesize
pipeline          train
report            report, the page about what train made, a model or an evaluation
evaluations       what an evaluation is worth, in words
interrupts        Ctrl-C
options           the options of all commands, without torch
paths             what a command reads and writes, and the check before it
settings          options made from the settings of a stage, without torch
given             what commands do with options that were given
loading           model files and stores
pages             the page and the subtitles of `predict`
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        cli as cli,
        demo as demo,
        evaluations as evaluations,
        given as given,
        interrupts as interrupts,
        live as live,
        loading as loading,
        models as models,
        options as options,
        pages as pages,
        paths as paths,
        pipeline as pipeline,
        recordings as recordings,
        report as report,
        settings as settings,
        teachers as teachers,
        training as training,
        whole_recordings as whole_recordings,
    )
else:
    from ..support.lazy import lazy_exports

    __getattr__, __dir__ = lazy_exports(
        __name__,
        dict.fromkeys(
            "cli demo evaluations given interrupts live loading models options pages paths pipeline "
            "recordings report settings teachers training whole_recordings".split(),
            (),
        ),
    )
