"""The command line.

cli           parses it, and calls the command
recordings    segments, check, transcode, convert, prepare, status
training      teachers, finetune, extract, pretrain, distill
models        evaluate, export, measure, predict
live          live
demo          demo, synthesize, compare, ablate
options       what commands share, without torch
outputs       what --out may replace
settings      options made from the settings of a stage; model files
"""
