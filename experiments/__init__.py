"""The paper's comparison, and the rendered world.

baselines, adafuse, stts, listen_to_look    the other methods
protocols     what a comparison trains, and how
benches       its runs
paper         Figure 3, Tables 1, 2 and 4
costs         Table 3
figures       Figure 3, drawn
contrasts, intervals    paired differences and their 95 % intervals
synthetic     a rendered world of recordings; `behaviour` moves, `props` and `scene` draw it
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        adafuse as adafuse,
    )
    from . import (
        baselines as baselines,
    )
    from . import (
        behaviour as behaviour,
    )
    from . import (
        benches as benches,
    )
    from . import (
        contrasts as contrasts,
    )
    from . import (
        costs as costs,
    )
    from . import (
        figures as figures,
    )
    from . import (
        intervals as intervals,
    )
    from . import (
        listen_to_look as listen_to_look,
    )
    from . import (
        paper as paper,
    )
    from . import (
        props as props,
    )
    from . import (
        protocols as protocols,
    )
    from . import (
        scene as scene,
    )
    from . import (
        stts as stts,
    )
    from . import (
        synthetic as synthetic,
    )
    from .adafuse import AdaFuse as AdaFuse
    from .baselines import Baseline as Baseline
    from .benches import Bench as Bench
    from .benches import Run as Run
    from .contrasts import Outcome as Outcome
    from .contrasts import accuracy as accuracy
    from .contrasts import difference as difference
    from .costs import TABLE_3 as TABLE_3
    from .listen_to_look import ListenToLook as ListenToLook
    from .paper import (
        Contrast as Contrast,
    )
    from .paper import (
        Row as Row,
    )
    from .paper import (
        ablation as ablation,
    )
    from .paper import (
        comparison as comparison,
    )
    from .paper import (
        differences as differences,
    )
    from .paper import (
        frame_choices as frame_choices,
    )
    from .paper import (
        rows as rows,
    )
    from .paper import (
        write_rows as write_rows,
    )
    from .protocols import (
        PROTOCOLS as PROTOCOLS,
    )
    from .protocols import (
        AdaFuseSettings as AdaFuseSettings,
    )
    from .protocols import (
        ListenToLookSettings as ListenToLookSettings,
    )
    from .protocols import (
        Protocol as Protocol,
    )
    from .protocols import (
        STTSSettings as STTSSettings,
    )
    from .protocols import (
        TeacherRecipe as TeacherRecipe,
    )
    from .stts import STTS as STTS
else:
    from ..support.lazy import hand_on

    __getattr__, __dir__ = hand_on(
        __name__,
        {
            "adafuse": ("AdaFuse",),
            "baselines": ("Baseline",),
            "behaviour": (),
            "benches": ("Bench", "Run"),
            "contrasts": ("Outcome", "accuracy", "difference"),
            "costs": ("TABLE_3",),
            "figures": (),
            "intervals": (),
            "listen_to_look": ("ListenToLook",),
            "paper": (
                "Contrast",
                "Row",
                "ablation",
                "comparison",
                "differences",
                "frame_choices",
                "rows",
                "write_rows",
            ),
            "props": (),
            "protocols": (
                "PROTOCOLS",
                "AdaFuseSettings",
                "ListenToLookSettings",
                "Protocol",
                "STTSSettings",
                "TeacherRecipe",
            ),
            "scene": (),
            "stts": ("STTS",),
            "synthetic": (),
        },
    )
