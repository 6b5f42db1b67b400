"""The exhibits of ``optprobe museum``, one file a topic, and the designs of ``make tribunal``."""
