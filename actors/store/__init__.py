"""The only SQL: `writer` owns the file, `Store` is what everybody else uses.

What imports SQL is imported where it is needed (`writer`, `served`, `file_reads`), not here.
"""

from actors.store.client import PatientWriteSide, Store, WriteSide
from actors.store.commit import Commit

__all__ = ["Commit", "PatientWriteSide", "Store", "WriteSide"]
