"""The command line of ``optprobe``: one file for each command, and cli.py with their table."""
