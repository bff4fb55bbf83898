"""The check of what callers send: bad input costs nothing and names its field."""

from typing import Any

import msgspec
import pytest

from actors.errors import InvalidInput
from actors.intake import _phases as phases
from actors.intake import decode
from actors.sources.base import checked_file
from worker.contract import MAX_COUNT, MAX_DEPTH, FileRef
from worker.errors import BadInput
from worker.objects import check_key
from worker.objects.base import MAX_KEY_BYTES


@pytest.mark.parametrize(
    "message",
    [
        {"files": ["a.tif"]},
        {"files": []},
        {"batch_id": "A-b_9", "manifest_r2_key": "m/_manifest.json"},
        {"r2_prefix": "staging/b-1/"},
        {"r2_prefix": "staging", "uploader": "me", "metadata": {"any": [1]}, "unknown": None},
    ],
)
def test_good_bodies_are_taken_as_they_are(message: dict[str, Any]) -> None:
    """Unknown fields included: they are passed back with the final callback."""
    assert decode(msgspec.json.encode(message)) == message
    assert decode(message) == message


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({}, "files"),
        ({"batch_id": "b"}, "files"),
        ({"files": {"a": 1}}, "files"),
        ({"files": "a.tif"}, "files"),
        ({"files": ["a"], "batch_id": ""}, "batch_id"),
        ({"files": ["a"], "batch_id": "batch"}, "batch_id"),
        ({"files": ["a"], "batch_id": "a/b"}, "batch_id"),
        ({"files": ["a"], "batch_id": "a\n"}, "batch_id"),
        ({"files": ["a"], "batch_id": "x" * 65}, "batch_id"),
        ({"files": ["a"], "batch_id": 7}, "batch_id"),
        ({"files": ["a"], "uploader": {}}, "uploader"),
        ({"manifest_r2_key": ["m"]}, "manifest_r2_key"),
        ({"r2_prefix": "../others"}, "r2_prefix"),
        ({"r2_prefix": "/"}, "r2_prefix"),
        ({"r2_prefix": "a//"}, "r2_prefix"),
        ({"files": ["a"], "metadata": {"n": 2**70}}, "metadata.n"),
        ({"files": ["a"], "unknown": [-(2**63) - 1]}, "unknown[0]"),
    ],
)
def test_bad_bodies_name_their_field(message: dict[str, Any], field: str) -> None:
    """The caller is told which field to mend."""
    with pytest.raises(InvalidInput) as raised:
        decode(message)
    assert raised.value.field == field


TOO_DEEP = pytest.param(b"[" * 100_000)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[]", b"null", b'"text"', TOO_DEEP])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    """Also nesting that would break a parser: an answer of 400, never a crash."""
    with pytest.raises(InvalidInput):
        decode(raw)


def test_a_key_alone_is_a_file() -> None:
    """Its name and path follow from it."""
    assert checked_file("box 1/ü.tif", "files[0]") == FileRef(
        r2_key="box 1/ü.tif", logical_path="/box 1/ü.tif", file_name="ü.tif"
    )


def test_an_entry_keeps_what_it_says() -> None:
    """The fields of manifests are taken over; unknown ones do not matter."""
    entry = {"r2_key": "k", "logical_path": "/p", "file_name": "n", "file_size": 5, "cid": "c", "other": 1}
    assert checked_file(entry, "files[0]") == FileRef(
        r2_key="k", logical_path="/p", file_name="n", file_size=5, cid="c"
    )


@pytest.mark.parametrize(
    "entry",
    [7, None, [], {}, {"r2_key": 7}, {"r2_key": None}, {"r2_key": "k", "file_size": "5"}, {"r2_key": "k", "cid": 1}],
)
def test_an_entry_of_the_wrong_shape_names_its_place(entry: Any) -> None:
    """In a list of a million the caller must find it."""
    with pytest.raises(InvalidInput, match=r"files\[3\]") as raised:
        checked_file(entry, "files[3]")
    assert (raised.value.field or "").startswith("files[3]")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../../b",
        "a/./b",
        "a//b",
        "a/",
        "a/..",
        "a\\b",
        "a\x00b",
        "a\nb",
        "\ud800",
        "x" * (MAX_KEY_BYTES + 1),
        "ü" * (MAX_KEY_BYTES // 2 + 1),
    ],
)
def test_a_key_that_could_leave_its_folder_is_refused(key: str) -> None:
    """Absolute, upward, with backslashes or control characters, empty, or longer than the store takes. The worker's
    objects refuse the same keys: what a list may name, a task can read."""
    with pytest.raises(InvalidInput) as raised:
        checked_file(key, "files[0]")
    assert raised.value.field == "files[0].r2_key"
    with pytest.raises(BadInput, match="is not allowed"):
        check_key(key)


@pytest.mark.parametrize("key", ["a..b/c...tif", "a b/ü.tif", "..a/b.tif", "a/...", ".a/b.", "x" * MAX_KEY_BYTES])
def test_a_harmless_key_is_taken(key: str) -> None:
    """Dots inside a name are no way out; the longest key of the store is allowed."""
    assert checked_file(key, "files[0]").r2_key == check_key(key) == key


@pytest.mark.parametrize("size", [-1, MAX_COUNT + 1, 2**70])
def test_a_size_that_none_can_be_is_refused(size: int) -> None:
    """It would spoil every sum, or not fit its column."""
    with pytest.raises(InvalidInput) as raised:
        checked_file({"r2_key": "k", "file_size": size}, "files[0]")
    assert raised.value.field == "files[0].file_size"


def test_a_configuration_that_cannot_be_kept_is_refused() -> None:
    """Its numbers have 64 bits at most."""
    with pytest.raises(InvalidInput) as raised:
        checked_file({"r2_key": "k", "processing_config": {"a": {"b": 2**64}}}, "files[0]")
    assert raised.value.field == "files[0].processing_config.a.b"


@pytest.mark.parametrize("kind", [dict, list])
def test_nesting_has_a_limit(kind: type) -> None:
    """What is passed back must be readable for everybody; the field is named, without its hundred levels."""
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = {"a": value} if kind is dict else [value]
    assert decode({"files": ["a"], "metadata": value})["metadata"] == value
    with pytest.raises(InvalidInput) as raised:
        decode({"files": ["a"], "metadata": [value]})
    assert raised.value.field == "metadata"


@pytest.mark.parametrize("wrong", [0, 101, -1, 1.5, "3", True, None, [1]])
def test_a_weight_is_a_small_whole_number(wrong: Any) -> None:
    """Anything else is told, with the field; 1 to 100 are kept."""
    assert decode({"files": ["a"], "weight": 100})["weight"] == 100
    with pytest.raises(InvalidInput) as raised:
        decode({"files": ["a"], "weight": wrong})
    assert raised.value.field == "weight"


@pytest.mark.parametrize("wrong", [[], "TIFF_CONVERSION", ["NO_SUCH"], [["TIFF_CONVERSION"]], ["TIFF_CONVERSION"] * 2])
def test_phases_are_known_and_named_once(wrong: Any) -> None:
    """A phase that came twice could not be told apart in the history; nothing that JSON can say is a crash."""
    with pytest.raises(InvalidInput) as raised:
        phases({"phases": wrong}, ())
    assert raised.value.field == "phases"
