"""The official XML schemas: found in a folder, adapted in memory, compiled once in a process.

The product carries no copy of them. Without them records are written all the same, and said not to be validated.
"""

import functools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lxml import etree

from worker.errors import BadInput
from worker.kinds.mods.options import FORMATS, Format
from worker.kinds.mods.writers import WRITERS

FOLDER: Final = "ARKE_SCHEMAS"
FAULTY: Final = b'<xs:attributeGroup ref="IDAttributeGroup"/>'
"""In `accessConditionDefinition` of MODS 3.8 as published, which inherits it already: libxml2 refuses the schema."""
FILES: Final[Mapping[Format, tuple[str, ...]]] = {
    "mods": ("mods-3-8.xsd", "xlink.xsd", "xml.xsd"),
    "dc": ("oai_dc.xsd", "simpledc20021212.xsd", "xml.xsd"),
    "marcxml": ("MARC21slim.xsd",),
}
"""The schema of each format, and what it imports."""


_LOCK: Final = threading.Lock()


class Schemas:
    """Validators of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def faults(self, format: Format, element: Any) -> list[str]:
        """What the schema says of the element of one record; none: it is valid. Raises BadInput where the schema itself
        cannot be used."""
        schema = _compiled(self.folder, format)
        with _LOCK:  # the errors are the schema's, and other threads have the same one
            if schema.validate(element):
                return []
            return [f"{error.message}" for error in schema.error_log][:10] or ["it is not valid"]

    def check(self) -> None:
        """Compile all. Raises BadInput with the name of a file that is missing or no schema."""
        for format in FORMATS:
            _compiled(self.folder, format)


def find(env: Mapping[str, str]) -> Schemas | None:
    """The folder that ARKE_SCHEMAS names, else the one that `arke schemas fetch` fills; None where neither has all
    schemas.

    Raises:
        BadInput: ARKE_SCHEMAS names a folder that lacks one; the file is named.
    """
    if env.get(FOLDER):
        named = Path(env[FOLDER]).expanduser()
        missing = missing_files(named)
        if missing:
            raise BadInput(f"{FOLDER} names a folder without {', '.join(missing)}: `arke schemas fetch` brings them")
        return Schemas(named)
    folder = cache_folder(env)
    return None if missing_files(folder) else Schemas(folder)


def missing_files(folder: Path) -> list[str]:
    """Which of the files are not in the folder."""
    needed = dict.fromkeys(name for names in FILES.values() for name in names)
    return [name for name in needed if not (folder / name).is_file()]


def cache_folder(env: Mapping[str, str]) -> Path:
    """Where `fetch` puts the files: below XDG_CACHE_HOME, else ~/.cache."""
    base = Path(env["XDG_CACHE_HOME"]) if env.get("XDG_CACHE_HOME") else Path.home() / ".cache"
    return base / "arke" / "schemas"


@functools.cache
def _compiled(folder: Path, format: Format) -> Any:
    name = WRITERS[format].schema
    parser = etree.XMLParser(no_network=True, resolve_entities=False, load_dtd=False)
    parser.resolvers.add(_InFolder(folder))
    try:
        return etree.XMLSchema(etree.fromstring(adapted(folder / name), parser, base_url=f"{SCHEME}{name}"))
    except (OSError, etree.Error) as error:
        raise BadInput(f"The schema {name} cannot be used: fetch it again with `arke schemas fetch`") from error


SCHEME: Final = "arke-schema:///"


class _InFolder(etree.Resolver):  # type: ignore[misc]
    """Whatever address an import gives, the file of that name in the folder is meant; the network never is."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def resolve(self, url: str, public_id: str | None, context: Any) -> Any:
        name = url.rpartition("/")[2]
        return self.resolve_string(adapted(self._folder / name), context, base_url=f"{SCHEME}{name}")


def adapted(path: Path) -> bytes:
    """The file, without the one line of MODS 3.8 for which libxml2 refuses it. Raises OSError."""
    raw = path.read_bytes()
    begin = raw.find(b'name="accessConditionDefinition"')
    end = raw.find(b"</xs:complexType>", begin)
    if path.name != "mods-3-8.xsd" or begin < 0 or end < 0:
        return raw
    return raw[:begin] + raw[begin:end].replace(FAULTY, b"") + raw[end:]
