"""The command line of ``optprobe``: one file a command, and cli.py with the table of them."""
