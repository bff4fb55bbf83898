"""Names that are safe wherever they are unpacked, and each there once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.kinds.zip.names import EMPTY, MOST_BYTES, MOST_PART_BYTES, RESERVED, Names, safe


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b/c.txt", "a/b/c.txt"),
        ("../../etc/passwd", "etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("a/../../b", "a/b"),
        ("a/./b//c", "a/b/c"),
        ("C:\\Windows\\system32", "Windows/system32"),
        ("c:/x", "x"),
        ("a\\..\\b", "a/b"),
        ("a\x00b\nc", "a_b_c"),
        ('a<b>:"|?*', "a_b______"),
        ("con", "_con"),
        ("a/NUL.txt", "a/_NUL.txt"),
        ("com1 .log", "_com1 .log"),
        ("console", "console"),
        ("end. . ", "end"),
        (" both ", "both"),
        ("a/ /b", "a/b"),
        ("", EMPTY),
        ("..", EMPTY),
        ("...", EMPTY),
        ("\ud800x", "_x"),
        ("evil\u202egpj.exe", "evil_gpj.exe"),
        ("e\u0301", "\u00e9"),
        ("日本/עברית/😀.tif", "日本/עברית/😀.tif"),
        ("x" * 300 + ".jpeg", "x" * (MOST_PART_BYTES - 5) + ".jpeg"),
        ("é" * 200 + ".tif", "é" * 98 + ".tif"),
        ("a." + "y" * 300, "a." + "y" * (MOST_PART_BYTES - 2)),
        ("a\u061cb", "a_b"),
    ],
)
def test_a_name_is_made_safe(path: str, name: str) -> None:
    """What is safe stays; the rest is as near to it as can be."""
    assert safe(path) == name


@given(
    st.text()
    | st.lists(st.sampled_from(["..", ".", "", "a", "CON", "C:", "\\", " ", "x" * 250, "\x7f", "é" * 150])).map(
        "/".join
    )
)
def test_whatever_is_given_is_safe_afterwards(path: str) -> None:
    """And stays as it is when it is given again."""
    name = safe(path)
    parts = name.split("/")
    assert all(parts)
    assert not {".", ".."} & set(parts)
    assert len(name.encode()) <= max(MOST_BYTES, MOST_PART_BYTES)
    assert not set(name) & set('\\<>:"|?*\x00\n\x7f')
    assert all(len(part.encode()) <= MOST_PART_BYTES + 1 for part in parts)
    assert all(part.partition(".")[0].rstrip(" ").casefold() not in RESERVED for part in parts)
    assert all(part == part.strip(" ").rstrip(".") for part in parts)
    assert safe(name) == name


def test_each_has_a_name_of_its_own() -> None:
    """Also where upper and lower case are one; the number stands before the ending."""
    names = Names("README.txt")
    given = [names.give(path) for path in ("a.txt", "a.txt", "A.TXT", "a (2).txt", "a.txt", "readme.txt", "x/../a.txt")]
    assert given == [
        "a.txt", "a (2).txt", "A (3).TXT", "a (2) (2).txt", "a (4).txt",
        "readme (2).txt", "x/a.txt",
    ]  # fmt: skip


def test_a_long_ending_is_none() -> None:
    """There must be room for the number."""
    names, long = Names(), "a." + "y" * 198
    first, second = names.give(long), names.give(long)
    assert (first, second) == (long, f"a.{'y' * 194} (2)")


def test_a_file_is_no_folder() -> None:
    """Who comes second gives way, and all that is in it with it."""
    names = Names()
    assert [names.give(path) for path in ("a", "a/b", "A/c", "x/y", "x", "x")] == [
        "a", "a (2)/b", "a (2)/c", "x/y", "x (2)", "x (3)",
    ]  # fmt: skip


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "A", "b", "a (2)", "..", "a.b", "ss", "ß"]), min_size=1, max_size=3).map(
            "/".join
        )
    )
)
def test_no_two_are_one_and_none_is_in_the_way_of_another(paths: list[str]) -> None:
    """Whatever the paths."""
    names = Names()
    folded = [names.give(path).casefold() for path in paths]
    assert len(set(folded)) == len(folded)
    folders = {"/".join(name.split("/")[:n]) for name in folded for n in range(1, name.count("/") + 1)}
    assert not folders & set(folded)


def test_many_equal_names_cost_no_more_each() -> None:
    """The next number is remembered."""
    names = Names()
    assert [names.give("a.txt") for _ in range(20_000)][-1] == "a (20000).txt"
