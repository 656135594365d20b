"""What every room stands on. No module here needs torch.

errors        exceptions, and the length of a clip
files         atomic files, locks, progress, same-run checks
processes     workers that may crash
records       tables and JSON, read item by item
pickles       pickles, read without running their code
tables        tables of results: text, Markdown, provenance
lazy          packages that import their modules on first use
version       __version__
"""
