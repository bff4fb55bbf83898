"""Languages as ISO 639-2/B codes."""

import pytest

from worker.kinds.mods import languages
from worker.kinds.mods.languages import language_of


@pytest.mark.parametrize(
    ("text", "code", "script"),
    [
        ("en", "eng", None), ("en-US", "eng", None), ("EN_us", "eng", None), ("zh-Hant", "chi", "Hant"),
        ("zh-yue-Hant-HK", "chi", "Hant"), ("sr-Latn", "srp", "Latn"), ("sr-latn-RS", "srp", "Latn"),
        ("de", "ger", None),
        ("deu", "ger", None), ("ger", "ger", None), ("fra", "fre", None), ("nld", "dut", None), ("iw", "heb", None),
        ("in", "ind", None), ("ji", "yid", None), ("mul", "mul", None), ("und", "und", None), ("zxx", "zxx", None),
        ("fil", "fil", None), ("xx-unknown", None, None), ("xx", None, None), ("cmn", None, None), ("yue", None, None),
        ("English", None, None), ("en-", None, None), ("", None, None), ("en-Qqqq", "eng", None), ("ελ", None, None),
        ("e", None, None), ("eng-US", "eng", None), ("en-1994-Latn", "eng", None),
    ],
)  # fmt: skip
def test_a_tag_has_the_code_that_it_surely_has(text: str, code: str | None, script: str | None) -> None:
    """The text is kept in any case."""
    found = language_of(text)
    assert (found.text, found.code, found.script) == (text, code, script)


def test_the_twenty_that_differ_are_the_bibliographic_ones() -> None:
    """MODS and MARC use 639-2/B."""
    codes = "alb arm baq bur chi cze dut fre geo ger gre ice mac mao may per rum slo tib wel"
    told = codes.split()
    assert sorted(pair.split(":")[1] for pair in languages._TERMINOLOGIC.split()) == told
    assert all(language_of(code).code == code for code in told)
