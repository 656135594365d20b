"""A trained student at work.

stream        answers while samples and frames arrive
arrivals      its buffers and clock
gates         when to request a new frame
health        what is wrong with the input
events        labels that do not flicker
segmentation  what they are worth on labelled recordings, and thresholds for them
feeds         cameras, addresses, pipes and files, as they come
export        a student as one file, or as two programs
exported      run such files
descriptions  the JSON beside such a file, and whether it belongs to it
"""

from ..support.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__)
