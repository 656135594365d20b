"""The laboratory's command line: all commands of `egodistill`, and those of the paper's comparison.

    python -m lab demo --teachers all --jobs 2              # the rendered world, all methods of Table 2
    python -m lab sound STORE                               # add sound to a store, for ListenToLook
    python -m lab compare STORE --teacher NAME --out FOLDER # all methods: Figure 3
    python -m lab ablate STORE --teacher NAME --out FOLDER  # losses and choice of frames: Tables 1 and 4
    python -m lab table3                                    # cost of the paper's models

Run it in a checkout. A file of AdaFuse, STTS or ListenToLook is read by `python -m lab evaluate`, `measure` and so on.
"""

import sys

from egodistill.commands import cli, interrupts

if __name__ == "__main__":
    interrupts.exit_immediately()

from lab import options

RANDOM = "NAME=none for random weights"
cli.COMMANDS |= {
    "demo": cli.Command(
        "train the paper's students, and with --teachers all those of Table 2, on a rendered world",
        "python -m lab demo --jobs 2",
        options.demo_options,
        "lab.demo",
        left="*",
    ),
    "compare": cli.Command(
        "train and evaluate all methods of the paper's Figure 3: accuracy against cost",
        "python -m lab compare store --teacher teacher --out comparison",
        options.compare_options,
        "lab.demo",
        left="*",
        offline=f"--pretrained NAME=FILE, or {RANDOM}; NAME: students, AdaFuse, STTS, ListenToLook",
    ),
    "ablate": cli.Command(
        "run the ablations of the paper's Tables 1 and 4: losses and choice of frames",
        "python -m lab ablate store --teacher teacher --out ablation",
        options.ablate_options,
        "lab.demo",
        left="*",
        offline="--pretrained students=FILE, or students=none for random weights",
    ),
    "table3": cli.Command(
        "measure cost and run time of the models in the paper's Table 3",
        "python -m lab table3",
        options.table3_options,
        "lab.demo",
    ),
    "sound": cli.Command(
        "add the sound of each clip to a store, as ListenToLook reads it",
        "python -m lab sound store",
        options.sound_options,
        "lab.audio",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command of the lab, and return its exit code."""
    return cli.main(argv, "python -m lab")


if __name__ == "__main__":
    sys.exit(main())
