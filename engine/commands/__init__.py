"""The commands of ``optprobe``, and the one place that wires the arch layer in."""
