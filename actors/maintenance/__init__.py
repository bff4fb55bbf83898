"""Duties that come round: one file each, `run_once()`, bounded, harmless when repeated or run twice at once."""
