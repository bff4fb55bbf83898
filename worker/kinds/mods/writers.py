"""The formats: how each makes the markup of a record, and what is around the records of a file."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from worker.kinds.mods import write_dc, write_marc, write_mods
from worker.kinds.mods.options import Format
from worker.kinds.mods.record import Record

CONTENT_TYPE: Final = "application/xml"
FILE_ENDING: Final = "-collection.xml"
DECLARATION: Final = "<?xml version='1.0' encoding='UTF-8'?>\n"


class Writer(NamedTuple):
    """`markup` makes the element of one record, whose tag is `tag`; `begin` and `end` are around all of a file;
    `schema` is the file name of the schema."""

    markup: Callable[[Record], str]
    begin: str
    end: str
    tag: str
    schema: str


WRITERS: Final[Mapping[Format, Writer]] = {
    "mods": Writer(
        write_mods.markup, write_mods.BEGIN, write_mods.END, f"{{{write_mods.NS}}}mods", "mods-3-8.xsd"
    ),
    "dc": Writer(write_dc.markup, write_dc.BEGIN, write_dc.END, f"{{{write_dc.NS}}}dc", "oai_dc.xsd"),
    "marcxml": Writer(
        write_marc.markup, write_marc.BEGIN, write_marc.END, f"{{{write_marc.NS}}}record", "MARC21slim.xsd"
    ),
}  # fmt: skip
