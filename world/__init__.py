"""A rendered world: small egocentric recordings with labels, for the demo, the notebooks and the tests.

synthetic     its recordings as files: `render()`
behaviour     what wearers do, and how heads and hands move
props, scene  what it looks like
"""

from ..support.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(__name__)
