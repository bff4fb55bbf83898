"""Duties that come round: one file each, `run_once()`, harmless when repeated or run twice at once.

A round takes a bounded page, but for `read_on`, which goes through all prefixes that are being read. What cannot be
done in a round is counted as failed and comes again in a later one.
"""
