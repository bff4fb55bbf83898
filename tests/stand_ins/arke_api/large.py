"""An archive of any size, made when it is asked for: it takes no memory."""

import json
from typing import Any

from tests.stand_ins.arke_api.archive import CROCKFORD


class Large:
    """`size` entities: a root, below it as many collections as needed, in each `width` items; `ocr_bytes` in each
    item's file."""

    def __init__(self, size: int, *, width: int = 99, ocr_bytes: int = 2_000) -> None:
        self.size, self._width = size, width
        self._ocr = ("The quick brown fox jumps over the lazy dog.\n" * (ocr_bytes // 45 + 1))[:ocr_bytes]
        self.root = self.pi(0)

    def pi(self, number: int) -> str:
        """The id of entity `number`."""
        return "01" + "".join(CROCKFORD[number >> (5 * place) & 31] for place in range(23, -1, -1))

    def _number(self, text: str) -> int | None:
        try:
            number = sum(CROCKFORD.index(letter) << (5 * place) for place, letter in enumerate(reversed(text[2:])))
        except ValueError:
            return None
        return number if 0 <= number < self.size and len(text) == 26 else None

    def entity(self, pi: str) -> dict[str, Any] | None:
        number = self._number(pi)
        if number is None:
            return None
        step = self._width + 1
        is_collection = (number - 1) % step == 0
        children: range = range(0)
        if number == 0:
            children = range(1, self.size, step)
        elif is_collection:
            children = range(number + 1, min(number + step, self.size))
        names = ["pinax.json"] if number == 0 or is_collection else ["pinax.json", "description.md", "page.ref.json"]
        manifest: dict[str, Any] = {
            "pi": pi, "ver": 1, "ts": "2025-10-09T22:33:45.746Z", "manifest_cid": f"bafymanifest{number}",
            "components": {name: f"bafk{place}x{number}" for place, name in enumerate(names)},
        }  # fmt: skip
        if children:
            manifest["children_pi"] = [self.pi(child) for child in children]
        if number:
            manifest["parent_pi"] = self.pi(0 if is_collection else number - 1 - (number - 2) % step)
        return manifest

    def component(self, cid: str) -> bytes | None:
        kind, _, rest = cid.removeprefix("bafk").partition("x")
        if not rest.isdigit() or int(rest) >= self.size:
            return None
        number = int(rest)
        if kind == "1":
            return f"Description of entity {number}, in a sentence or two, as long as they usually are.".encode()
        return json.dumps(self._pinax(number) if kind == "0" else self._ref(number)).encode()

    def _pinax(self, number: int) -> dict[str, Any]:
        return {
            "id": self.pi(number), "title": f"Entity {number}", "type": "Text", "creator": "A. Clerk",
            "institution": "National Archives", "created": f"{1800 + number % 200}-06-01", "language": "en",
            "subjects": ["Correspondence", f"Box {number // 100}"], "description": f"About entity {number}.",
            "access_url": f"https://arke.institute/{self.pi(number)}", "rights": "PUBLIC DOMAIN", "place": "Indiana",
        }  # fmt: skip

    def _ref(self, number: int) -> dict[str, Any]:
        return {
            "url": f"https://cdn.arke.institute/asset/{number}", "ipfs_cid": f"bafkref{number}", "type": "image/jpeg",
            "size": 100_000 + number, "filename": f"page {number}.jpg", "ocr": self._ocr,
        }  # fmt: skip
