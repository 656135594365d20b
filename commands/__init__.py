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

from ..support.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__)
