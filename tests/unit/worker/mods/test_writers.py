"""Records as markup: valid, in order, and saying what they should."""

from typing import Any

import pytest
from lxml import etree

from tests.unit.worker.mods.records import CHILD, PARENT, PI, PINAX, RECORDS, entity, full, incomplete, record, schemas
from worker.kinds.mods import structure, write_dc, write_marc, write_mods
from worker.kinds.mods.options import FORMATS, Format
from worker.kinds.mods.record import Name, Note, Record
from worker.kinds.mods.writers import WRITERS
from worker.kinds.mods.xml import parsed

M = {"m": write_mods.NS, "dc": write_dc.DC, "marc": write_marc.NS}


def element(format: Format, of: Record) -> Any:
    return parsed(WRITERS[format].markup(of))


def told(format: Format, of: Record, path: str) -> list[str]:
    """The texts at a path."""
    return [str(text) for text in element(format, of).xpath(path, namespaces=M)]


def field(of: Record, tag: str) -> list[str]:
    """The MARC fields of a tag: indicators, then the subfields as $code text."""
    found = element("marcxml", of).iterfind(f"{{{write_marc.NS}}}datafield[@tag='{tag}']")
    return [
        f"{each.get('ind1')}{each.get('ind2')}" + "".join(f" ${part.get('code')} {part.text}" for part in each)
        for each in found
    ]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_valid(format: Format, name: str) -> None:
    """By the official schema, and by what that does not check."""
    made = element(format, RECORDS[name]())
    assert structure.faults(format, made) == []
    assert schemas().faults(format, made) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_is_well_formed_and_each_record_is_found_in_it(format: Format) -> None:
    """With the wrapper around, and a line for each."""
    writer = WRITERS[format]
    text = writer.begin + "".join(writer.markup(make()) for make in RECORDS.values()) + writer.end
    root = etree.fromstring(text.encode())
    assert len(root.findall(writer.tag)) == len(RECORDS)
    assert "schemaLocation" in text


def test_mods_has_the_order_of_the_library_of_congress() -> None:
    """The place in the tree comes last, as the originals have it."""
    names = [child.tag.rpartition("}")[2] for child in element("mods", full())]
    names_of_mods = (
        "titleInfo name typeOfResource genre originInfo language physicalDescription abstract note subject relatedItem "
        "identifier location accessCondition recordInfo note"
    )
    order = names_of_mods.split()
    assert list(dict.fromkeys(names[:-1])) == order[:-1]
    assert names[-1] == "note"


def test_mods_says_what_it_should() -> None:
    """The mapping, line by line."""
    made = full()
    assert element("mods", made).get("ID") == f"entity-{PI}"
    assert told("mods", made, "m:name/@type") == ["personal", "corporate", "corporate"]
    assert told("mods", made, "m:name/m:role/m:roleTerm[@type='text']/text()") == ["creator"] * 3 + ["repository"]
    assert told("mods", made, "m:typeOfResource[@collection='yes']/text()") == ["mixed material"]
    assert told("mods", made, "m:genre[@authority='dct']/text()") == ["Collection"]
    date = "m:originInfo[@eventType='production']/m:dateCreated[@keyDate='yes'][@encoding='edtf']/text()"
    assert told("mods", made, date) == ["1910/1920"]
    assert told("mods", made, "m:language/m:languageTerm[@authority='iso639-2b']/text()") == ["chi"]
    assert told("mods", made, "m:language/m:scriptTerm[@authority='iso15924']/text()") == ["Hant"]
    assert told("mods", made, "m:physicalDescription/m:digitalOrigin/text()") == ["reformatted digital"]
    assert told("mods", made, "m:note[@type='summary']/text()") == ["Short."]
    access = "m:accessCondition[@type='use and reproduction'][@authority='cc']/@valueURI"
    assert told("mods", made, access) == ["https://creativecommons.org/licenses/by/4.0/"]
    assert told("mods", made, "m:identifier[@type='arke-pi']/text()") == [PI]
    assert told("mods", made, "m:location/m:url[@usage='primary display']/text()") == [f"https://arke.institute/{PI}"]
    host = "m:relatedItem[@type='host']"
    assert told("mods", made, f"{host}/m:titleInfo/m:title/text()") == ["The parent"]
    assert told("mods", made, f"{host}/m:identifier[@type='arke-pi']/text()") == [PARENT]
    file = "m:relatedItem[@displayLabel='Smith & \"Sons\".tif']"
    assert told("mods", made, f"{file}/m:note[@type='ocr']/text()") == ["Annual Report\r\n]]> <2024>"]
    assert told("mods", made, f"{file}/m:physicalDescription/m:extent/text()") == ["245678 bytes"]
    assert told("mods", made, "m:relatedItem[@type='constituent']/m:identifier[@type='arke-pi']/text()") == [CHILD]
    info = "m:recordInfo/m:recordCreationDate[@encoding='w3cdtf']/text()"
    assert told("mods", made, info) == ["2025-01-02T03:04:05Z"]
    assert told("mods", made, "m:recordInfo/m:recordChangeDate/text()") == ["2025-10-09T22:33:45.746Z"]
    place = "m:note[@type='hierarchy'][@displayLabel='Tree Position']/text()"
    assert told("mods", made, place) == [f"depth: 1, parent: {PARENT}, path: /root/{PI}"]


def test_mods_of_the_root_and_of_a_single_record() -> None:
    """Only a record of a tree has a place in it."""
    assert told("mods", record(depth=0), "m:note[@type='hierarchy']/text()") == ["depth: 0, parent: none, path: /root"]
    assert told("mods", record(), "m:note[@type='hierarchy']/text()") == []


def test_an_incomplete_record_has_an_alternative_title() -> None:
    """In MODS; its MARC has a 245 all the same."""
    assert told("mods", incomplete(), "m:titleInfo/@type") == ["alternative"]
    assert field(incomplete(), "245") == [f"00 $a [Incomplete Record: {PI}]"]


def test_dublin_core_has_the_fifteen_elements_and_no_administration() -> None:
    """Subjects by kind, relations as addresses, the language as given."""
    made = full()
    assert told("dc", made, "dc:creator/text()") == ["Ada Lovelace", "National Archives", "Somebody"]
    assert told("dc", made, "dc:contributor/text()") == ["National Archives"]
    assert told("dc", made, "dc:coverage/text()") == ["Indiana", "Here", "1864"]
    assert told("dc", made, "dc:language/text()") == ["zh-Hant"]
    assert told("dc", made, "dc:description/text()") == ["Long.", "Short."]
    assert told("dc", made, "dc:format/text()") == ["image/tiff"]
    assert told("dc", made, "dc:relation/text()")[0] == f"https://arke.institute/{PARENT}"
    assert "Version" not in WRITERS["dc"].markup(made)
    assert "Annual Report" not in WRITERS["dc"].markup(made)


def test_marc_says_what_it_should() -> None:
    """The mapping, field by field."""
    made = full()
    text = WRITERS["marcxml"].markup(made)
    assert "<marc:leader>     npc a22     uu 4500</marc:leader>" in text
    fixed = told("marcxml", made, "marc:controlfield[@tag='008']/text()")[0]
    assert (len(fixed), fixed[:15], fixed[35:40]) == (40, "250102i19101920", "chi|d")
    assert field(made, "100") == ["1  $a Ada Lovelace $e creator $4 cre"]
    assert field(made, "710") == [
        "2  $a National Archives $e creator $4 cre",
        "2  $a National Archives $e repository $4 rps",
    ]
    assert field(made, "720") == ["   $a Somebody $e creator $4 cre"]
    assert field(made, "245") == ["10 $a Form A-3"]
    assert field(made, "046") == ["   $k 1910 $l 1920 $2 edtf"]
    assert field(made, "264") == [" 0 $c 1910/1920"]
    assert field(made, "041") == ["0  $a chi"]
    assert field(made, "600") == ["14 $a Ada Lovelace"]
    assert field(made, "650") == [" 4 $a Banking", " 4 $a Idea", " 4 $a Storm"]
    assert field(made, "655") == [" 7 $a Collection $2 dct"]
    assert field(made, "773") == [f"08 $t The parent $o https://arke.institute/{PARENT}"]
    assert field(made, "540") == [
        "   $a https://creativecommons.org/licenses/by/4.0/ $u https://creativecommons.org/licenses/by/4.0/"
    ]
    assert field(made, "856")[0] == f"40 $u https://arke.institute/{PI}"
    assert "Annual Report" not in text


def test_marc_of_an_unknown_name_has_no_main_entry() -> None:
    """245 then says that there is none; a later name of known type is an added entry."""
    names = (Name(text="Somebody"), Name(text="Ada Lovelace", type="personal"))
    made = full_with(names=names)
    assert field(made, "100") == []
    assert field(made, "700") == ["1  $a Ada Lovelace $e creator $4 cre"]
    assert field(made, "245")[0].startswith("00")


@pytest.mark.parametrize(
    ("changed", "entered", "latest"),
    [
        ("2025-10-09T22:33:45.746Z", "251009", "20251009223345.0"), ("2025-10-09T22:33Z", "251009", "20251009223300.0"),
        ("2025-10-09T00:33:45+02:00", "251009", "20251008223345.0"), ("2025-10-09", "251009", None),
        ("2025-10", "2510||", None), (None, "||||||", None),
    ],
)  # fmt: skip
def test_the_times_of_a_marc_record(changed: Any, entered: str, latest: str | None) -> None:
    """005 is a full time in UTC, or is not there."""
    made = record(entity(ts=changed, created_at=None))
    assert told("marcxml", made, "marc:controlfield[@tag='008']/text()")[0][:6] == entered
    assert told("marcxml", made, "marc:controlfield[@tag='005']/text()") == ([latest] if latest else [])


@pytest.mark.parametrize(
    ("created", "coded"),
    [
        ("1897-05-03", ["   $k 1897-05-03 $2 edtf"]), ("1897?", ["   $k 1897? $2 edtf"]),
        ("XXXX", ["   $k XXXX $2 edtf"]),
        ("../1900", ["   $l 1900 $2 edtf"]), ("-0500/-0400", ["   $k -0500 $l -0400 $2 edtf"]), ("circa 1890", []),
    ],
)  # fmt: skip
def test_the_coded_dates_of_a_marc_record(created: str, coded: list[str]) -> None:
    """With their doubts; a text is not coded."""
    assert field(record(entity(PINAX | {"created": created})), "046") == coded


@pytest.mark.parametrize(
    ("created", "coded"),
    [
        ("1897-05-03", "s1897    "), ("1897?", "q18971897"), ("189X", "q18901899"), ("../1900", "iuuuu1900"),
        ("circa 1890", "nuuuuuuuu"), ("-0044", "nuuuuuuuu"), (None, "nuuuuuuuu"), ("XXXX", "nuuuuuuuu"),
        ("1910/1920", "i19101920"),
    ],
)  # fmt: skip
def test_the_years_in_008(created: Any, coded: str) -> None:
    """A year that is not known is uuuu; a text is no date."""
    made = record(entity(PINAX | {"created": created, "type": "Collection"}))
    assert told("marcxml", made, "marc:controlfield[@tag='008']/text()")[0][6:15] == coded


@pytest.mark.parametrize("parting", ["\n", "\n\n", "\r\n", "\n  ", " "])
def test_long_texts_are_spread_over_fields_that_binary_marc_holds(parting: str) -> None:
    """9,999 bytes each, wherever they are cut."""
    made = record(entity(description=parting.join(["é" * 50] * 400)))
    assert structure.faults("marcxml", element("marcxml", made)) == []
    assert len(field(made, "520")) > 4
    assert all(len(each.encode()) < 9_999 for each in field(made, "520"))


def full_with(**fields: Any) -> Record:
    import msgspec

    return msgspec.structs.replace(full(), **fields)


@pytest.mark.parametrize(
    ("format", "before", "after", "words"),
    [
        ("mods", "<topic>Banking</topic>", "<topic/>", "topic is empty"),
        ("mods", ' type="local"', ' type=""', "attribute"),
        ("mods", "<dateCreated", '<dateOther keyDate="yes">1</dateOther><dateCreated', "key date"),
        ("mods", ">1910/1920<", ">1920/1910<", "no date of edtf"), ("mods", "title>", "titel>", "no title"),
        ("mods", ' displayLabel="IPFS manifest"', ' usage="primary"', "primary"),
        ("dc", "dc:title>", "dc:titel>", "no title"),
        ("marcxml", " a22 ", " b22 ", "leader"), ("marcxml", 'tag="245"', 'tag="246"', "exactly one 245"),
        ("marcxml", 'tag="710"', 'tag="110"', "1XX"), ("marcxml", 'tag="264"', 'tag="900"', "ascend"),
        ("marcxml", "|d</marc", "|d </marc", "40 characters"), ("marcxml", 'ind2="4"', 'ind2=" "', "heading"),
        ("marcxml", ">Banking<", ">Banking <", "blanks"),
    ],
)  # fmt: skip
def test_what_schemas_do_not_check_is_checked(format: Format, before: str, after: str, words: str) -> None:
    """Each fault, planted by hand, is found."""
    text = WRITERS[format].markup(full())
    assert before in text
    planted = text.replace(before, after, 1) if before != "title>" else text.replace(before, after)
    found = structure.faults(format, parsed(planted if before != "dc:title>" else text.replace(before, after)))
    assert any(words in fault for fault in found), found


def test_a_text_that_readers_refuse_is_a_fault() -> None:
    """Ten million bytes, also of fewer characters."""
    made = full_with(notes=(Note(type="x", text="é" * 5_000_000),))
    assert any("bytes" in fault for fault in structure.faults("mods", element("mods", made)))
