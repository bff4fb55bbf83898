"""The reference page about TIFFs says what the code does."""

from pathlib import Path

from tests.corpus.page import page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "tiff.md"


def test_page_is_up_to_date() -> None:
    """`make docs` would write the same page: what each kind of file becomes, and where it is not sharp's."""
    assert PAGE.read_text(encoding="utf-8") == page()
