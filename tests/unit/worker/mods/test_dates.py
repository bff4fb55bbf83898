"""Which texts are dates, and of what encoding: a wrong code is worse than none."""

import pytest

from worker.kinds.mods.dates import Years, date_of, is_timestamp, years_of


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("1897", "w3cdtf"), ("1897-05", "w3cdtf"), ("1897-05-03", "w3cdtf"), ("2024-02-29", "w3cdtf"),
        ("2025-10-09T22:33:45Z", "w3cdtf"), ("2025-10-09T22:33:45.746+02:00", "w3cdtf"),
        ("2025-10-09T22:33Z", "w3cdtf"),
        ("2024-02-30", None), ("1897-13", None), ("1897-00", None), ("0000", "edtf"), ("2025-10-09T22:33:45", None),
        ("2025-10-09T25:00:00Z", None), ("1910/1920", "edtf"), ("../1900", "edtf"), ("1900/..", "edtf"),
        ("1900/", "edtf"),
        ("1920/1910", None), ("../..", None), ("/", None), ("1897?", "edtf"), ("1897~", "edtf"), ("1897-05%", "edtf"),
        ("189X", "edtf"), ("18XX", "edtf"), ("1897-XX", "edtf"), ("1897-05-XX", "edtf"), ("1897-XX-05", None),
        ("1897-21", "edtf"), ("1897-24", "edtf"), ("1897-25", None), ("1897-21-01", None), ("-0044-03-15", "edtf"),
        ("-0044", "edtf"), ("Y17000", "edtf"), ("Y-17000", "edtf"), ("Y01700", None), ("circa 1890s", None),
        ("18th century", None), ("published in 1921, reprinted 1950", None), ("1897/1898/1899", None),
        ("1920-05/1920-01", None), ("1920-05/1920", "edtf"),
        ("1920-05-03/1920-05", "edtf"), ("1920-05-03/1920-05-02", None),
        ("٢٠٢٥", None), ("1897 ", None), ("97", None), ("18970503", None), ("XXXX", "edtf"), ("19X5", None),
        ("1900-02-29", None), ("2000-02-XX", "edtf"), ("190X-02-29", "edtf"), ("190X-02-30", None),
    ],
)  # fmt: skip
def test_a_date_has_the_encoding_that_it_surely_has(text: str, encoding: str | None) -> None:
    """W3CDTF with a real calendar, EDTF of levels 0 and 1; else it is a text."""
    assert (date_of(text).text, date_of(text).encoding) == (text, encoding)


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("1897-05-03", Years(1897, 1897)), ("1910/1920", Years(1910, 1920)), ("../1900", Years(None, 1900)),
        ("1900/..", Years(1900, None)), ("189X", Years(1890, 1899, True)), ("1897?", Years(1897, 1897, True)),
        ("-0044", Years(-44, -44)), ("circa 1890", Years(None, None)), ("Y17000", Years(17000, 17000)),
    ],
)  # fmt: skip
def test_the_years_of_a_date(text: str, years: Years) -> None:
    """For codes that have years only."""
    assert years_of(date_of(text)) == years


def test_a_timestamp_has_a_zone() -> None:
    """Else nobody knows when it was."""
    assert is_timestamp("2025-10-09T22:33:45.746Z")
    assert not is_timestamp("2025-10-09T22:33:45.746")
    assert not is_timestamp("2025-10-09")
