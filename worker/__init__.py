"""The conversion core: one process on one machine. Imports neither ray, fastapi nor a database."""
