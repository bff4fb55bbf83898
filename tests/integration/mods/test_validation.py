"""`arke export validate`: files of others too, whatever is in them."""

import time
from pathlib import Path

import pytest

from tests.unit.worker.mods.records import PI, full, record, schemas
from worker.errors import BadInput
from worker.kinds.mods.validation import MOST_TOLD, validate
from worker.kinds.mods.writers import DECLARATION, WRITERS

MODS = WRITERS["mods"]


def written(folder: Path, *markups: str) -> Path:
    """A file of MODS."""
    path = folder / "a.xml"
    path.write_text(DECLARATION + MODS.begin + "".join(markups) + MODS.end)
    return path


def test_faults_are_named_with_their_lines(tmp_path: Path) -> None:
    """Of the schema, of the structure, and of the whole file: an ID that is there twice."""
    good = MODS.markup(full())
    path = written(
        tmp_path, good, good, MODS.markup(record()).replace("<genre", "<gender").replace("</genre", "</gender")
    )
    report = validate(path, schemas())
    assert (report.records, report.faulty, report.is_valid) == (3, 2, False)
    assert any(f"the ID entity-{PI} is there before" in sentence for _, sentence in report.faults)
    assert any("gender" in sentence for _, sentence in report.faults)
    assert [line for line, _ in report.faults] == sorted(line for line, _ in report.faults)


def test_what_is_no_record_is_a_fault(tmp_path: Path) -> None:
    """Between records, and an ID that another record has somewhere inside."""
    inside = MODS.markup(record()).replace("entity-", "other-").replace("<titleInfo>", f'<titleInfo ID="entity-{PI}">')
    report = validate(written(tmp_path, "<foo/>", MODS.markup(full()), inside), None)
    told = " ".join(sentence for _, sentence in report.faults)
    assert "foo is no record" in told
    assert f"the ID entity-{PI} is there before" in told
    assert report.records == 2


def test_a_pretty_printed_file_is_as_good(tmp_path: Path) -> None:
    """Blanks between elements mean nothing."""
    text = MODS.markup(full()).replace("><", ">\n  <")
    assert validate(written(tmp_path, text), schemas()).is_valid


def test_a_single_record_is_a_file(tmp_path: Path) -> None:
    """Also one of MARC as others write it."""
    path = tmp_path / "one.xml"
    path.write_text(
        '<record xmlns="http://www.loc.gov/MARC21/slim"><leader>01142cam  2200301 a 4500</leader>'
        '<controlfield tag="001">   92005291 </controlfield>'
        '<controlfield tag="008">920219s1993    caua   j      000 0 eng  </controlfield>'
        '<datafield tag="245" ind1="1" ind2="0"><subfield code="a">Arithmetic /</subfield></datafield>'
        '<datafield tag="650" ind1=" " ind2="0"><subfield code="a">Arithmetic</subfield></datafield></record>'
    )
    report = validate(path, schemas())
    assert (report.format, report.records) == ("marcxml", 1)
    assert report.faults == [(1, "the leader is not one of Unicode MARC")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty|no element"), ("<x", "not well-formed|neither"), ("not xml", "not well-formed"), ("<a/>",
        "neither MODS"),
        ('<!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>', "neither MODS"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "not well-formed"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    """In a sentence."""
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(BadInput, match=words):
        validate(path, None)


def test_a_collection_without_a_record_is_not_valid(tmp_path: Path) -> None:
    """As the schema of MODS says."""
    report = validate(written(tmp_path), None)
    assert (report.records, report.is_valid) == (0, False)


def test_entities_are_not_expanded_and_nothing_outside_is_read(tmp_path: Path) -> None:
    """Neither a bomb nor a file of this machine."""
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    path = tmp_path / "a.xml"
    path.write_text(
        f'<!DOCTYPE x [<!ENTITY e0 "x">{bomb}<!ENTITY s SYSTEM "{secret}">]>{MODS.begin}'
        f"<mods xmlns='http://www.loc.gov/mods/v3'><titleInfo><title>&s;&e11;</title></titleInfo></mods>{MODS.end}"
    )
    begun = time.monotonic()
    try:
        faults = validate(path, None).faults
    except BadInput as error:
        faults = [(0, str(error))]
    assert "the secret" not in str(faults)
    assert time.monotonic() - begun < 60


def test_so_many_faults_are_told_and_all_are_counted(tmp_path: Path) -> None:
    """Memory does not grow with what is wrong."""
    bad = MODS.markup(record()).replace("<title>", "<titel>").replace("</title>", "</titel>")
    report = validate(written(tmp_path, *[bad] * (MOST_TOLD + 20)), None)
    assert (len(report.faults), report.faulty) == (MOST_TOLD, MOST_TOLD + 20)


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (MODS.begin + "text", "there is text between the records: 'text'"),
        (MODS.begin.replace(" xmlns", ' bogus="1" xmlns', 1), "the attribute bogus is none of a collection"),
    ],
)
def test_the_wrapper_is_looked_at_too(tmp_path: Path, begin: str, words: str) -> None:
    """No schema sees it: records are validated one by one."""
    path = tmp_path / "a.xml"
    path.write_text(DECLARATION + begin + MODS.markup(full()) + MODS.end)
    assert [sentence for _, sentence in validate(path, None).faults] == [words]


def test_entity_references_are_told(tmp_path: Path) -> None:
    """Harmless ones too: nothing is put in their place."""
    text = DECLARATION + '<!DOCTYPE m [<!ENTITY e "hi">]>' + MODS.begin + MODS.markup(full()) + MODS.end
    path = tmp_path / "a.xml"
    path.write_text(text.replace("<title>", "<title>&e;", 1))
    ((_, sentence),) = validate(path, schemas()).faults
    assert sentence == "it has entity references, which are not resolved: write what they stand for"


def test_a_title_of_blanks_is_none(tmp_path: Path) -> None:
    """Nor is one that is only a comment."""
    for blank in (" ", "<!-- x -->"):
        markup = MODS.markup(record()).replace("<title>Form A-3</title>", f"<title>{blank}</title>")
        assert blank in markup
        assert "there is no title" in " ".join(s for _, s in validate(written(tmp_path, markup), None).faults)
