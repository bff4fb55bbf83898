"""The only SQL. `Writer` owns the file, `Store` is what everybody else uses."""

from actors.store.batches import Commit
from actors.store.client import Store, WriteSide
from actors.store.writer import LocalWriter, Writer

__all__ = ["Commit", "LocalWriter", "Store", "WriteSide", "Writer"]
