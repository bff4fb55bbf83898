"""The only SQL, on two engines. `Store` is what everybody uses.

SQLite: `writer` owns the file, `file_reads` reads it. Postgres: `postgres_writer` and `postgres_reads`, in each
process.
Operations (`batches`, `fleet`, `catalog`) and questions (`reads`, `catalog_reads`) are the same functions on both; what
the engines say differently is in `statements`. What imports SQL is imported where it is needed, not here.
"""

from actors.store.client import PATIENCE_S, PatientWriteSide, Store, WriteSide
from actors.store.commit import Commit

__all__ = ["PATIENCE_S", "Commit", "PatientWriteSide", "Store", "WriteSide"]
