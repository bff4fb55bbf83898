"""From entities to records."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.mods.records import CHILD, MANIFEST, PARENT, PI, PINAX, entity, full, record
from worker.kinds.mods.entity import Entity, is_pi, manifest_of
from worker.kinds.mods.ledger import Ledger
from worker.kinds.mods.record import Date, Name, Position, Subject


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (PI, True), ("II" + PI[2:], True), ("F" + PI[1:], True), (PI[:-1], False), (PI + "0", False),
        (PI.lower(), False),
        ("IL" + PI[2:], False), ("0" * 26, True), ("", False), ("../" + PI[3:], False),
    ],
)  # fmt: skip
def test_ids_of_entities(text: str, is_one: bool) -> None:
    """ULIDs, and those of collections and files."""
    assert is_pi(text) is is_one


def test_manifests_are_read_in_all_their_forms() -> None:
    """Newer servers say `id`; what is stored has links; anything may be missing or of the wrong type."""
    newer = manifest_of({"id": CHILD, "components": {"b": {"/": "bafk2"}, "a": "bafk1", "c": 7, "d": "no cid!"}}, PI)
    assert (newer.pi, newer.components, newer.children, newer.parent) == (CHILD, {"a": "bafk1", "b": "bafk2"}, (), None)
    assert list(newer.components) == ["a", "b"]
    odd = manifest_of(
        {"pi": 7, "components": [], "children_pi": [CHILD, 7, CHILD, None], "parent_pi": "x", "ver": True}, PI
    )
    assert (odd.pi, odd.components, odd.children, odd.parent, odd.ver) == (PI, {}, (CHILD,), None, None)


def test_a_creator_has_a_type_on_evidence_only() -> None:
    """A person or body of that name in the graph, or the institution itself."""
    names = full().names
    assert names == (
        Name(text="Ada Lovelace", type="personal"), Name(text="National Archives", type="corporate"),
        Name(text="Somebody"), Name(text="National Archives", type="corporate", role="repository"),
    )  # fmt: skip
    assert record(entity(graph={"entities": {"a": {"type": "place", "label": "Ada Lovelace"}}})).names[0].type is None


def test_the_graph_tells_as_much_as_is_wanted() -> None:
    """All, the subjects of the five types, or nothing; references have the labels of what they refer to."""
    made = full()
    assert [subject.text for subject in made.subjects] == [
        "Banking", "Indiana", "Ada Lovelace", "Analytical Society", "Here", "Idea", "1864", "Storm",
    ]  # fmt: skip
    assert made.subjects[-1] == Subject(kind="topic", text="Storm")
    notes = [note.text for note in made.notes if note.type.startswith("cheimarros")]
    assert notes == [
        "Ada Lovelace: born: 1815", "Ada Lovelace: met: Analytical Society, Marshall Street",
        "Ada Lovelace MEMBER_OF Analytical Society",
    ]  # fmt: skip
    graph = {"entities": {"s": {"type": "event", "label": "Storm", "properties": {"a": 1}}, "d": {"type": "date"}}}
    minimal = record(entity(graph=graph), cheimarros_mode="minimal")
    assert [subject.text for subject in minimal.subjects] == ["Banking", "Indiana", "D"]
    assert not any(note.type.startswith("cheimarros") for note in minimal.notes)
    assert [subject.text for subject in record(entity(graph=graph), cheimarros_mode="skip").subjects] == [
        "Banking", "Indiana",
    ]  # fmt: skip


def test_a_code_that_is_not_in_the_graph_is_told_as_words() -> None:
    """A date as a date, no more precise than it is."""
    graph = {"entities": {"a": {"type": "concept", "label": "A", "properties": {
        "when": {"type": "entity_ref", "code": "date_1864_04"},
        "where": {"type": "entity_ref", "code": "marshall_street"},
    }}}}  # fmt: skip
    assert [note.text for note in record(entity(graph=graph)).notes[1:]] == [
        "A: when: 1864-04",
        "A: where: Marshall Street",
    ]


def test_the_longer_description_is_the_abstract() -> None:
    """The other one is kept where it differs."""
    assert (full().abstract, full().summary) == ("Long.", "Short.")
    assert (record().abstract, record().summary) == ("Short.", None)
    same = record(entity(description="Short.\n"))
    assert (same.abstract, same.summary) == ("Short.", None)


@pytest.mark.parametrize(
    ("ver", "created_at", "times"),
    [
        (1, None, ("2025-10-09T22:33:45.746Z", None)), (2, None, (None, "2025-10-09T22:33:45.746Z")),
        (2, "2025-01-02T03:04:05Z", ("2025-01-02T03:04:05Z", "2025-10-09T22:33:45.746Z")),
        (2, "yesterday", (None, "2025-10-09T22:33:45.746Z")),
    ],
)  # fmt: skip
def test_the_time_of_a_later_version_is_no_creation(ver: int, created_at: Any, times: tuple[Any, Any]) -> None:
    """The originals took it for one."""
    made = record(entity(ver=ver, created_at=created_at))
    assert (made.created_at, made.changed_at) == times


@pytest.mark.parametrize(
    ("given", "url", "unfit"),
    [
        ("PLACEHOLDER", f"https://arke.institute/{PI}", None), (None, f"https://arke.institute/{PI}", None),
        ("http://a.test/a b", "http://a.test/a%20b", None),
        ("http://[bad", f"https://arke.institute/{PI}", "http://[bad"),
    ],
)  # fmt: skip
def test_an_address_is_a_uri_or_an_identifier_only(given: Any, url: str, unfit: str | None) -> None:
    """Whatever it is, it does not break the record."""
    made = record(entity(PINAX | {"access_url": given}))
    assert (made.url, made.unfit_url) == (url, unfit)


def test_a_licence_is_the_address_alone() -> None:
    """Not the sentence around it."""
    made = record(entity(PINAX | {"rights": "Free (https://creativecommons.org/licenses/by/4.0/)."}))
    assert made.rights_uri == "https://creativecommons.org/licenses/by/4.0/"


def test_a_parent_is_named_by_its_title_where_that_is_known() -> None:
    """Children by their ids only."""
    host, *_, child = (each for each in full().related if each.what in ("host", "child"))
    assert (host.pi, host.title) == (PARENT, "The parent")
    assert (child.pi, child.title) == (CHILD, None)


def test_without_a_pinax_the_record_says_so() -> None:
    """It is incomplete, and has what the manifest tells."""
    made = record(entity(None))
    assert (made.is_incomplete, made.title) == (True, f"[Incomplete Record: {PI}]")
    assert "metadata-status" in [note.type for note in made.notes]
    assert made.url == f"https://arke.institute/{PI}"
    assert [each.pi for each in made.related] == [PARENT, CHILD]


def test_what_is_of_the_wrong_type_is_left_out_and_counted() -> None:
    """The rest of the record is as if it were missing."""
    ledger = Ledger()
    wrong = {name: {"a": 1} for name in PINAX} | {"subjects": "one", "place": ["Here", 7], "created": 1897}
    made = record(entity(wrong), ledger=ledger)
    assert made.title == f"[Untitled: {PI}]"
    assert [subject.text for subject in made.subjects] == ["one", "Here"]
    assert (made.date, made.names, made.type, made.language, made.rights) == (None, (), None, None, None)
    assert ledger.changes["values of a wrong type left out"] >= 8


def test_files_and_ocr() -> None:
    """OCR is there where it is wanted; a scan makes the thing reformatted; addresses and types that are none go."""
    made = full()
    (file,) = (each for each in made.related if each.what == "file")
    assert (file.label, file.size, file.media_type) == ('Smith & "Sons".tif', 245678, "image/tiff")
    assert file.ocr == ("Annual Report\r\n]]> <2024>",)
    assert (made.media_types, made.is_reformatted) == (("image/tiff",), True)
    refs = (("a.ref.json", {"url": "no uri", "type": "nothing", "ocr": "text", "size": "1"}),)
    (bare,) = (each for each in record(entity(refs=refs), include_ocr=False).related if each.what == "file")
    assert (bare.label, bare.url, bare.media_type, bare.size, bare.ocr) == ("a", None, None, None, ())


def test_other_components_are_named() -> None:
    """In an inventory, and each as a related item."""
    made = full()
    assert [each.label for each in made.related if each.what == "component"] == ["notes.txt"]
    assert made.notes[-1].text == "Other components: notes.txt"


def test_dates_and_languages_are_coded() -> None:
    """By rules that have tests of their own."""
    assert full().date == Date(text="1910/1920", encoding="edtf")
    assert (full().language.code, full().language.script) == ("chi", "Hant")  # type: ignore[union-attr]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(PINAX)), JSON),
st.dictionaries(st.sampled_from(["entities", "relations"]), JSON),
       st.dictionaries(st.sampled_from(["url", "ipfs_cid", "type", "size", "filename", "ocr"]), JSON),
       st.dictionaries(st.sampled_from(sorted(MANIFEST)), JSON))  # fmt: skip
def test_whatever_the_archive_holds_becomes_a_record(pinax: Any, graph: Any, ref: Any, manifest: Any) -> None:
    """Nothing of it is trusted, and nothing of it raises."""
    made = Entity(manifest=manifest_of(manifest, PI), pinax=pinax, graph=graph, refs=(("x.ref.json", ref),))
    found = record(made)
    assert found.title
    assert found.position is None or isinstance(found.position, Position)
