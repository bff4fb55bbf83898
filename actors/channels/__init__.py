"""Channels through which the end of a job is told, one file each."""
