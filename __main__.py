"""`python -m egodistill` and the script `egodistill`: the command line, see commands/cli.py."""

import sys

from .commands import interrupts


def main() -> int:
    """Run the command of this process, and return its exit code."""
    interrupts.exit_immediately()
    from .commands import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
