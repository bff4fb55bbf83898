"""A straightforward exporter, to compare with: one request after the other, elements by lxml, one tree, no checks.

python -m bench.sequential URL ROOT FILE
"""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import IO, Any, Final

import httpx
from lxml import etree

from worker.kinds.mods.entity import Manifest, manifest_of

NS: Final = "http://www.loc.gov/mods/v3"


def export(url: str, root: str, target: IO[bytes]) -> int:
    """Write the tree; how many entities."""
    collection = etree.Element(f"{{{NS}}}modsCollection", nsmap={None: NS})
    with httpx.Client(base_url=url) as client:
        waiting = [root]
        while waiting:
            pi = waiting.pop()
            manifest = manifest_of(client.get(f"/entities/{pi}").raise_for_status().json(), pi)
            parts = {
                name: client.get(f"/ipfs/{cid}").raise_for_status().content for name, cid in manifest.components.items()
            }
            refs = [(name, json.loads(body)) for name, body in parts.items() if name.endswith(".ref.json")]
            description = parts["description.md"].decode() if "description.md" in parts else None
            collection.append(element(manifest, json.loads(parts["pinax.json"]), description, refs))
            waiting += reversed(manifest.children)
    etree.ElementTree(collection).write(target, encoding="utf-8", xml_declaration=True)
    return len(collection)


def element(
    manifest: Manifest, pinax: Mapping[str, Any], description: str | None, refs: Iterable[tuple[str, Mapping[str, Any]]]
) -> Any:
    """About the elements that the real one writes."""
    mods = etree.Element(f"{{{NS}}}mods", ID=f"entity-{manifest.pi}")

    def add(parent: Any, tag: str, text: object = None, **attributes: str) -> Any:
        child = etree.SubElement(parent, f"{{{NS}}}{tag}", attributes)
        child.text = None if text is None else str(text)
        return child

    add(add(mods, "titleInfo"), "title", pinax["title"])
    for text, role in ((pinax["creator"], "creator"), (pinax["institution"], "repository")):
        name = add(mods, "name", type="personal")
        add(name, "namePart", text)
        add(add(name, "role"), "roleTerm", role, type="text", authority="marcrelator")
    add(mods, "typeOfResource", "text")
    add(add(mods, "originInfo"), "dateCreated", pinax["created"], encoding="w3cdtf")
    add(add(mods, "language"), "languageTerm", "eng", type="code", authority="iso639-2b")
    add(mods, "abstract", description or pinax["description"])
    for subject in pinax["subjects"]:
        add(add(mods, "subject"), "topic", subject)
    add(add(mods, "subject"), "geographic", pinax["place"])
    for name, ref in refs:
        related = add(mods, "relatedItem", type="constituent", displayLabel=ref.get("filename", name))
        physical = add(related, "physicalDescription")
        add(physical, "internetMediaType", ref["type"])
        add(physical, "extent", f"{ref['size']} bytes")
        add(related, "note", ref["ocr"], type="ocr")
        add(related, "identifier", ref["url"], type="uri")
    for child in manifest.children:
        add(add(mods, "relatedItem", type="constituent"), "identifier", child, type="arke-pi")
    add(mods, "identifier", manifest.pi, type="arke-pi")
    add(add(mods, "location"), "url", pinax["access_url"])
    add(mods, "accessCondition", pinax["rights"])
    info = add(mods, "recordInfo")
    add(info, "recordCreationDate", manifest.ts)
    add(info, "recordIdentifier", manifest.pi)
    return mods


if __name__ == "__main__":
    with open(sys.argv[3], "wb") as opened:
        export(sys.argv[1], sys.argv[2], opened)
