"""Pictures: SVG on pages, and what the figures of matplotlib share. No module here needs torch.

svg           pictures inside a page: lanes, bars, curves, envelopes
canvas        colours of all pictures, and how figures of matplotlib are written
"""

from ..support.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__)
