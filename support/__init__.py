"""What every room stands on. No module here needs torch.

defaults      numbers and choices that rooms share
errors        exceptions
files         atomic files, locks, progress, same-run checks
intervals     Student's interval of a mean
holders       which process holds a file where the system has no locks
names         what a path means: whether two name one file
processes     workers that may crash
records       tables and JSON, read item by item
pickles       pickles, read without running their code
tables        tables of results: text, Markdown, provenance
pages         pages of results: HTML
lazy          packages that import their modules on first use
custom        a user's own classes and functions, by name
version       __version__
"""

from .lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__)
