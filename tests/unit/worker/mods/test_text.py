"""Texts made fit for XML."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from worker.kinds.mods.ledger import Ledger
from worker.kinds.mods.text import clean, pieces, texts, uri, whole_number
from worker.kinds.mods.xml import attribute, escaped, leaf, parsed


@pytest.mark.parametrize(
    ("given", "kept", "removed"),
    [
        ("plain", "plain", 0), ("  ends \n", "ends", 0), ("a\x00b\x0bc\x1f", "abc", 3),
        ("lone \ud83d here", "lone  here", 1),
        ("\ufffe\uffff", None, 2), ("", None, 0), (" \t\n", None, 0), ("e\u0301", "\u00e9", 0),
        ("tab\there\r\n.", "tab\there\r\n.", 0),
        ("👩‍👩‍👧‍👦", "👩‍👩‍👧‍👦", 0), ("\x7f\x85.", "\x7f\x85.", 0), ("]]>&<", "]]>&<", 0),
    ],
)  # fmt: skip
def test_what_xml_cannot_hold_is_removed_and_counted(given: str, kept: str | None, removed: int) -> None:
    """Nothing else is touched, but for NFC and the ends."""
    ledger = Ledger()
    assert clean(given, ledger) == kept
    assert sum(ledger.changes.values()) == removed


@pytest.mark.parametrize("value", [7, True, [], {}, 1.5, b"bytes"])
def test_what_is_no_text_is_left_out_and_counted(value: object) -> None:
    """A field of the wrong type is not used; one that is missing is not counted."""
    ledger = Ledger()
    assert clean(value, ledger) is None
    assert dict(ledger.changes) == {"values of a wrong type left out": 1}
    assert clean(None, Ledger()) is None


@given(st.text())
def test_a_clean_text_survives_every_reader(text: str) -> None:
    """As a text and as an attribute it comes back as it was."""
    cleaned = clean(text, Ledger())
    if cleaned is not None:
        element = parsed(f"<a{attribute('b', cleaned)}>{escaped(cleaned)}</a>")
        assert (element.text, element.get("b")) == (cleaned, cleaned)


def test_a_list_is_taken_once_each() -> None:
    """A text alone counts as a list of one."""
    assert texts("one", Ledger()) == ("one",)
    assert texts(["a", " a ", None, 7, "b", ""], Ledger()) == ("a", "b")


@given(st.text(alphabet="ab\n é€😀", max_size=200), st.integers(8, 40))
def test_pieces_are_small_and_lose_nothing(text: str, limit: int) -> None:
    """But line ends at which they are cut, and pieces that are empty."""
    found = pieces(text, limit)
    assert all(len(piece.encode()) <= limit for piece in found)
    assert "".join(found).replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")


def test_long_texts_are_cut_at_line_ends() -> None:
    """50 MB of OCR becomes notes that default readers of libxml2 take."""
    line = "x" * 99
    found = pieces("\n".join([line] * 500_000))
    assert len(found) == 50
    assert all(len(piece) <= 1_000_000 and piece.startswith("x") and piece.endswith("x") for piece in found)
    assert etree.fromstring(leaf("a", found[0])).text == found[0]


@pytest.mark.parametrize(
    ("given", "valid"),
    [
        ("https://arke.institute/01K8", "https://arke.institute/01K8"),
        ("http://a.test/a b/ü?q=1 2#f g", "http://a.test/a%20b/ü?q=1%202#f%20g"),
        ("http://a.test/%zz", "http://a.test/%25zz"),
        ("http://[bad", None), ("::", None), ("no scheme", None), ("", None), ("http://", None), ("http:///path", None),
        ("http://[::1]:80/x", "http://[::1]:80/x"), ("urn:isbn:123", "urn:isbn:123"),
        ("mailto:a@b.test", "mailto:a@b.test"),
        ("http://a.test/x[1]", "http://a.test/x%5B1%5D"),
        ("http://a.test/?x[]=1#a#b", "http://a.test/?x%5B%5D=1#a%23b"),
        ('http://a.test/"<>\\^`{|}', "http://a.test/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("javascript:alert(1)", "javascript:alert(1)"),
    ],
)  # fmt: skip
def test_a_uri_is_one_that_libxml2_takes(given: str, valid: str | None) -> None:
    """Percent-encoded where that helps."""
    assert uri(given) == valid


XSD = etree.XMLSchema(
    etree.fromstring(
        '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="a" type="xs:anyURI"/></xs:schema>'
    )
)


@given(st.one_of(st.text(),
st.text(alphabet="abc:/?#[]@%20.~é ", max_size=30).map(lambda rest: f"http://a.test/{rest}"),
                 st.text(alphabet="ab:/?#[]@%0.", max_size=20).map(lambda rest: f"http:{rest}")))  # fmt: skip
def test_whatever_is_called_a_uri_is_valid(text: str) -> None:
    """By the type that the schema of MODS has for it."""
    cleaned = clean(text, Ledger())
    found = uri(cleaned) if cleaned else None
    if found is not None:
        assert XSD.validate(parsed(leaf("a", found))), found


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("http://a.test:/x", "http://a.test/x"), ("x://a:", "x://a"), ("x://a@:80/", None), ("x://:80", None),
        ("x://:", "x://"), ("http://[::1]:8080/x", "http://[::1]:8080/x"), ("http://a:80", "http://a:80"),
    ],
)  # fmt: skip
def test_a_port_needs_a_host_and_a_number(given: str, found: str | None) -> None:
    """libxml2 takes no empty one."""
    assert uri(given) == found
    if found is not None:
        assert XSD.validate(parsed(leaf("a", found)))


@pytest.mark.parametrize(
    ("value", "size"), [(7, 7), (7.0, 7), (7.5, None), (-1, None), (True, None), ("7", None), (2**70, None)]
)
def test_a_size_is_a_whole_number(value: object, size: int | None) -> None:
    """As JSON may give it."""
    assert whole_number(value) == size
