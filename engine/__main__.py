"""``optprobe``, and ``python -m engine``."""

import sys

__all__ = ("run",)


def run() -> int:
    """The exit status of the command line. Ctrl-C while the program is still being loaded is one line, too."""
    try:
        from engine.commands.cli import main
    except KeyboardInterrupt:
        print("optprobe: interrupted", file=sys.stderr)
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
