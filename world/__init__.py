"""A rendered world: small egocentric recordings with labels, for the demo, the notebooks and the tests.

synthetic     its recordings as files: `render()`
behaviour     what wearers do, and how heads and hands move
props, scene  what it looks like
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import behaviour as behaviour, props as props, scene as scene, synthetic as synthetic
else:
    from ..support.lazy import lazy_exports

    __getattr__, __dir__ = lazy_exports(__name__, dict.fromkeys("behaviour props scene synthetic".split(), ()))
