"""The sample archive: some 250 entities in the form of real ones, in many languages and scripts, with what goes wrong
in real archives. Always the same."""

from typing import Any, Final

from tests.stand_ins.arke_api.archive import InMemory, pi_of

ROOT: Final = pi_of("archive")

FONDS: Final = (
    ("letters", "Letters of the Harbour Master's Office", "en", "Edmund & Sons, Shipwrights", "Text"),
    ("ελληνικά", "Ἀλληλογραφία τοῦ Ἰωάννη Καποδίστρια", "el", "Ιωάννης Καποδίστριας", "Text"),
    ("عربي", "رسائل من مكتبة القاهرة", "ar", "دار الكتب المصرية", "Text"),
    ("日本", "江戸時代の地図と絵図", "ja", "伊能忠敬", "StillImage"),
    ("русский", "Письма и дневники экспедиции", "ru", "Николай Миклухо-Маклай", "Text"),
    ("中文", "臺北城老照片", "zh-Hant", "未知", "Image"),
    ("עברית", "מכתבים מירושלים", "he", "הספרייה הלאומית", "Text"),
    ("हिन्दी", "हस्तलिखित पाण्डुलिपियाँ", "hi", "राष्ट्रीय अभिलेखागार", "Text"),
    ("tagalog", "Mga Awit ng Bayan 🎶", "fil", "Kolehiyo ng Musika", "Sound"),
    ("français", "Œuvres complètes: brouillons & épreuves", "fr-FR", "Atelier d’imprimerie", "Text"),
)
DATES: Final = (
    "1897-05-03", "1897-05", "1897", "circa 1890s", "18th century", "1897?", "1910/1920", "../1900", "189X",
    "2024-02-30", "1897-21", "-0044-03-15", "published in 1921, reprinted 1950", "1950-13", "", "2025-10-09T22:33:45Z",
)  # fmt: skip
LANGUAGES: Final = ("xx-unknown", "en-US", "sr-Latn", "iw", "cmn", "English", "de", "zxx")
RIGHTS: Final = (
    "PUBLIC DOMAIN",
    "https://creativecommons.org/licenses/by/4.0/",
    "http://rightsstatements.org/vocab/InC/1.0/",
    "© the heirs <all rights reserved> & others",
)
ITEMS: Final = 21
"""Of each fonds, in three series of seven."""
HOSTILE: Final = (
    "control \x00\x01\x0b\x1f characters", "lone surrogate \ud83d here", "]]> and <![CDATA[ and &amp; &lt;",
    "noncharacters \ufffe\uffff", "right-to-left \u202eoverride\u202c", "emoji 👩‍👩‍👧‍👦🏴‍☠️", "combining e\u0301",
    "tab\tand\r\nreturn", "<script>alert(1)</script>", "&undefined; %zz",
)  # fmt: skip


def sample() -> InMemory:
    """The whole of it. What is wrong with which entity is in the code below, and in `WRONG` by reason."""
    archive = InMemory()
    fonds = tuple(name for name, *_ in FONDS)
    archive.add("archive", pinax=_pinax("archive", "The Sample Archive", "en", "Arke Institute", "Collection"),
                children=(*fonds, "odd"), ver=3, created_at="2025-01-02T03:04:05Z",
                others={"description.md": "# The Sample Archive\n\nTen fonds, and one of oddities."})  # fmt: skip
    for number, (name, title, language, creator, kind) in enumerate(FONDS):
        _fonds(archive, number, name, title, language, creator, kind)
    _oddities(archive)
    return archive


def _fonds(archive: InMemory, number: int, name: str, title: str, language: str, creator: str, kind: str) -> None:
    series = tuple(f"{name}-{n}" for n in range(3))
    archive.add(name, pinax=_pinax(name, title, language, creator, "Collection"), children=series, parent="archive",
                others={"cheimarros.json": _graph(creator)})  # fmt: skip
    for place, each in enumerate(series):
        items = tuple(f"{each}-{n}" for n in range(ITEMS // 3 - 1))
        archive.add(each, pinax=_pinax(each, f"{title} ({place + 1})", language, creator, "Collection"),
                    children=items, parent=name)  # fmt: skip
        for n, item in enumerate(items):
            at = number * ITEMS + place * 7 + n
            pinax = _pinax(item, f"{title}, {n + 1}", language, creator, kind) | {
                "created": DATES[at % len(DATES)], "rights": RIGHTS[at % len(RIGHTS)],
            }  # fmt: skip
            if at % 5 == 0:
                pinax["language"] = LANGUAGES[at // 5 % len(LANGUAGES)]
            ocr = f"{title}\n{HOSTILE[at % len(HOSTILE)]}\npage {n + 1}"
            refs = {f"page-{n + 1}.ref.json": _ref(f"page {n + 1} & verso.tif", ocr, at)}
            archive.add(item, pinax=pinax, parent=each, others=refs)


def _oddities(archive: InMemory) -> None:
    """One of each that goes wrong, and of each that looks so and is not."""
    add, odd = archive.add, "odd"
    children = (
        "no-pinax", "broken-pinax", "list-pinax", "wrong-types", "hostile", "cycle", "shared-a", "shared-b",
        "merged-away", "deleted", "nowhere", "no-uri", "placeholder", "new-form", "stored-form", "body-names",
        "lost-parts", "untitled", "two-ids-a", "two-ids-b",
    )  # fmt: skip
    add(odd, pinax=_pinax(odd, "Oddities", "en", "Nobody", "Collection"), children=children, parent="archive")
    add("no-pinax", parent=odd, children=("below-no-pinax",))
    add("below-no-pinax", pinax=_pinax("below-no-pinax", "Below what has no pinax", "en", "A. Clerk", "Text"),
        parent="no-pinax")  # fmt: skip
    add("broken-pinax", parent=odd, others={"pinax.json": b'{"title": "never clos'})
    add("list-pinax", parent=odd, others={"pinax.json": ["not", "an", "object"]})
    add("wrong-types", parent=odd, pinax={
        "title": "Wrong types", "creator": {"name": "x"}, "institution": ["a"], "created": 1897, "type": "Nonsense",
        "subjects": "one subject only", "place": ["Here", None, 7], "language": ["en"], "rights": True, "id": 12,
    })  # fmt: skip
    hostile = _pinax("hostile", " ".join(HOSTILE), "en", "Robert'); DROP TABLE--\x07", "Text")
    add("hostile", parent=odd, pinax=hostile | {"subjects": list(HOSTILE), "description": HOSTILE[0]},
        others={"description.md": HOSTILE[1], "scan.ref.json": _ref('a&b<c>".tif', "\n".join(HOSTILE), 0)})  # fmt: skip
    add("cycle", parent=odd, pinax=_pinax("cycle", "A cycle", "en", "Ouroboros", "Text"), children=("cycle-2",))
    add("cycle-2", parent="cycle", pinax=_pinax("cycle-2", "Its other half", "en", "Ouroboros", "Text"),
        children=("cycle", "archive"))  # fmt: skip
    for name in ("shared-a", "shared-b"):
        add(name, parent=odd, pinax=_pinax(name, f"Parent {name[-1]}", "en", "B. Clerk", "Collection"),
            children=("shared",))  # fmt: skip
    add("shared", parent="shared-b", pinax=_pinax("shared", "A child of two", "en", "B. Clerk", "Text"))
    archive.entities[pi_of("merged-away")] = {"merged": True, "merged_into": pi_of("merged-again")}
    archive.entities[pi_of("merged-again")] = {"merged": True, "merged_into": pi_of("merged")}
    add("merged", parent=odd, pinax=_pinax("merged", "What two were merged into", "en", "C. Clerk", "Text"))
    archive.entities[pi_of("deleted")] = {"id": pi_of("deleted"), "status": "deleted"}
    add("no-uri", parent=odd, pinax=_pinax("no-uri", "No URI", "en", "D. Clerk", "Text")
        | {"access_url": "http://[bad %zz"})  # fmt: skip
    add("placeholder", parent=odd, pinax=_pinax("placeholder", "Placeholder", "en", "D. Clerk", "Text")
        | {"access_url": "PLACEHOLDER"})  # fmt: skip
    pi = add("new-form", parent=odd, pinax=_pinax("new-form", "Newer form", "en", "E. Clerk", "Text"))
    archive.entities[pi] = {**archive.entities[pi], "id": archive.entities[pi].pop("pi"), "type": "PI", "ver": 2}
    pi = add("stored-form", parent=odd, pinax=_pinax("stored-form", "Stored form", "en", "E. Clerk", "Text"))
    components = archive.entities[pi]["components"]
    archive.entities[pi]["components"] = {name: {"/": cid} for name, cid in components.items()} | {"none": 7}
    add("body-names", parent=odd, pinax=_pinax("body-names", "Names", "en", "Ada Lovelace", "Text")
        | {"creator": ["Ada Lovelace", "Analytical Society", "Somebody"], "institution": "Analytical Society"},
        others={"cheimarros.json": _graph("Ada Lovelace")})  # fmt: skip
    pi = add("lost-parts", parent=odd, pinax=_pinax("lost-parts", "Lost parts", "en", "F. Clerk", "Text"))
    archive.entities[pi]["components"] |= {"cheimarros.json": "bafkgone", "x.ref.json": "bafkgonetoo", "notes.txt": "q"}
    add("untitled", parent=odd, pinax={"id": pi_of("untitled"), "type": "Text"})
    for name in ("two-ids-a", "two-ids-b"):  # both say that they are the same
        pi = add(name, parent=odd, pinax=_pinax("two-ids", "Said to be one", "en", "G. Clerk", "Text"))
        archive.entities[pi]["pi"] = pi_of("two-ids-a")


def _pinax(name: str, title: str, language: str, creator: str, kind: str) -> dict[str, Any]:
    pi = pi_of(name)
    return {
        "id": pi, "title": title, "type": kind, "creator": creator, "institution": "National Archives",
        "created": "1927-06-01", "language": language, "subjects": ["Correspondence", title],
        "description": f"{title}, described.", "access_url": f"https://arke.institute/{pi}", "source": "PINAX",
        "rights": "PUBLIC DOMAIN", "place": "Indiana",
    }  # fmt: skip


def _ref(name: str, ocr: str, number: int) -> dict[str, Any]:
    return {
        "url": f"https://cdn.arke.institute/asset/{number:06}", "ipfs_cid": f"bafkref{number:06}",
        "type": ("image/tiff", "image/jpeg", "application/pdf")[number % 3], "size": 100_000 + number,
        "filename": name, "ocr": ocr,
    }  # fmt: skip


def _graph(creator: str) -> dict[str, Any]:
    return {
        "entities": {
            "creator": {"type": "person", "label": creator, "properties": {
                "role": "author", "born": 1815, "met": [{"type": "entity_ref", "code": "society"}, "others"],
                "lived_in": {"type": "entity_ref", "code": "marshall_street"},
            }},
            "society": {"type": "organization", "label": "Analytical Society"},
            "harbour": {"type": "place", "label": "The Harbour"},
            "day": {"type": "date", "label": "April 1864"},
            "idea": {"type": "concept", "label": "Navigation"},
            "storm": {"type": "event", "label": "The Storm\x02", "properties": {
                "when": {"type": "entity_ref", "code": "date_1864_04"},
            }},
            "broken": "not an object",
        },
        "relations": [
            {"source": "creator", "target": "society", "type": "MEMBER_OF", "properties": {"since": 1833}},
            {"source": "storm", "target": "harbour", "type": "STRUCK"},
            {"source": None, "type": "BROKEN"}, "broken",
        ],
    }  # fmt: skip
