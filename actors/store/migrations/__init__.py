"""The history of the schema. Run by the writer at start; a new version is a new file in `versions`."""
