"""What a stand-in serves: entities and components by their ids, which follow from names."""

import hashlib
import json
from typing import Any, Final, Protocol

CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Archive(Protocol):
    """Entities by PI (what `GET /entities/{pi}` answers), components by CID. None: there is none."""

    def entity(self, pi: str) -> dict[str, Any] | None: ...

    def component(self, cid: str) -> bytes | None: ...


def pi_of(name: str) -> str:
    """An id as Arke has them, always the same for a name."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest())
    return "01" + "".join(CROCKFORD[number >> (5 * place) & 31] for place in range(24))


def cid_of(body: bytes) -> str:
    """Something like a CID of the contents."""
    return "bafk" + hashlib.sha256(body).hexdigest()[:52]


class InMemory:
    """An archive that is put together piece by piece."""

    def __init__(self) -> None:
        self.entities: dict[str, dict[str, Any]] = {}
        self.components: dict[str, bytes] = {}

    def entity(self, pi: str) -> dict[str, Any] | None:
        return self.entities.get(pi)

    def component(self, cid: str) -> bytes | None:
        return self.components.get(cid)

    def keep(self, body: bytes | str | dict[str, Any] | list[Any]) -> str:
        """Store a component; its CID."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body, ensure_ascii=True)  # so that lone surrogates can be in it
        raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        cid = cid_of(raw)
        self.components[cid] = raw
        return cid

    def add(
        self, name: str, *, pinax: Any = None, children: tuple[str, ...] = (), parent: str | None = None,
        others: dict[str, Any] | None = None, **fields: Any,
    ) -> str:  # fmt: skip
        """An entity of this name; its PI. `children` and `parent` are names; `pinax` and `others` components."""
        pi = pi_of(name)
        parts = ({} if pinax is None else {"pinax.json": pinax}) | (others or {})
        manifest: dict[str, Any] = {
            "pi": pi,
            "ver": 1,
            "ts": "2025-10-09T22:33:45.746Z",
            "manifest_cid": cid_of(f"manifest {name}".encode()),
            "components": {key: self.keep(part) for key, part in parts.items()},
        }
        if children:
            manifest["children_pi"] = [pi_of(child) for child in children]
        if parent is not None:
            manifest["parent_pi"] = pi_of(parent)
        self.entities[pi] = manifest | fields
        return pi
