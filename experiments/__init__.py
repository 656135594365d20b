"""The paper's comparison, and the rendered world.

baselines, adafuse, stts, listen_to_look    the other methods
protocols     what a comparison trains, and how
benches       its runs
paper         Figure 3, Tables 1 and 4
costs         Table 3
figures       Figure 3, drawn
contrasts, intervals    paired differences and their 95 % intervals
synthetic     a rendered world of recordings; `behaviour` moves, `props` and `scene` draw it
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        adafuse as adafuse,
        baselines as baselines,
        behaviour as behaviour,
        benches as benches,
        contrasts as contrasts,
        costs as costs,
        figures as figures,
        intervals as intervals,
        listen_to_look as listen_to_look,
        paper as paper,
        props as props,
        protocols as protocols,
        scene as scene,
        stts as stts,
        synthetic as synthetic,
    )
    from .adafuse import AdaFuse as AdaFuse
    from .baselines import Baseline as Baseline
    from .benches import Bench as Bench, Run as Run
    from .contrasts import Outcome as Outcome, accuracy as accuracy, difference as difference
    from .costs import TABLE_3 as TABLE_3
    from .listen_to_look import ListenToLook as ListenToLook
    from .paper import (
        Contrast as Contrast,
        Row as Row,
        ablation as ablation,
        comparison as comparison,
        frame_choices as frame_choices,
        leads as leads,
        rows as rows,
        write_rows as write_rows,
    )
    from .protocols import (
        PROTOCOLS as PROTOCOLS,
        AdaFuseSettings as AdaFuseSettings,
        ListenToLookSettings as ListenToLookSettings,
        Method as Method,
        Protocol as Protocol,
        STTSSettings as STTSSettings,
        TeacherRecipe as TeacherRecipe,
    )
    from .stts import STTS as STTS
else:
    from ..support.lazy import lazy_exports

    __getattr__, __dir__ = lazy_exports(
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
                "leads",
                "frame_choices",
                "rows",
                "write_rows",
            ),
            "props": (),
            "protocols": (
                "PROTOCOLS",
                "AdaFuseSettings",
                "ListenToLookSettings",
                "Method",
                "Protocol",
                "STTSSettings",
                "TeacherRecipe",
            ),
            "scene": (),
            "stts": ("STTS",),
            "synthetic": (),
        },
    )
