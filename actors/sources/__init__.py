"""Sources of a batch's files, one file each."""
