"""Types of columns that the two engines would not understand alike."""

from typing import Final

from sqlalchemy import BigInteger, Integer, Text
from sqlalchemy.dialects import postgresql

TEXT: Final = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Ordered by its bytes, as SQLite does: by the order of a language, "batch:" would not be where ids begin with it, and
an index would be wrong after each change of the system's tables."""

BIG_COUNT: Final = Integer().with_variant(BigInteger(), "postgresql")
"""A number that somebody else says: SQLite keeps 64 bits of any."""
