"""The schemas: found, adapted, fetched and checked."""

import hashlib
import os
import shutil
from pathlib import Path

import httpx
import pytest

from tests.unit.worker.mods.records import full, schemas
from worker.errors import BadInput, Unavailable
from worker.kinds.mods import schemas as schemas_module
from worker.kinds.mods.__main__ import main as command
from worker.kinds.mods.fetching import FILES, Official, WrongSum, fetch
from worker.kinds.mods.schemas import Schemas, find, missing_files
from worker.kinds.mods.writers import WRITERS
from worker.kinds.mods.xml import parsed

A = Official("a.xsd", "https://a.test/a.xsd", hashlib.sha256(b"<a/>").hexdigest())
B = Official("b.xsd", "https://a.test/b.xsd", None)


def test_the_published_file_of_mods_is_mended_in_memory(tmp_path: Path) -> None:
    """libxml2 refuses one line of it. The file itself stays as it is."""
    folder = schemas().folder
    for name in os.listdir(folder):
        if name.endswith(".xsd"):
            shutil.copy(folder / name, tmp_path)
    shutil.copy(folder / "mods-3-8.published.xsd", tmp_path / "mods-3-8.xsd")
    made = parsed(WRITERS["mods"].markup(full()))
    assert Schemas(tmp_path).faults("mods", made) == []
    made.find("{*}titleInfo").tag = "{http://www.loc.gov/mods/v3}nonsense"
    assert "nonsense" in Schemas(tmp_path).faults("mods", made)[0]
    assert (tmp_path / "mods-3-8.xsd").read_bytes() == (folder / "mods-3-8.published.xsd").read_bytes()


def test_the_sums_are_those_of_the_copies_that_nobody_has_edited() -> None:
    """Those of the data of the tests."""
    folder = schemas().folder
    pinned = {file.name: file.sha256 for file in FILES if file.sha256}
    copies = {name: "mods-3-8.published.xsd" if name == "mods-3-8.xsd" else name for name in pinned}
    found = {name: hashlib.sha256((folder / copy).read_bytes()).hexdigest() for name, copy in copies.items()}
    assert found == pinned
    assert "oai_dc.xsd" not in pinned  # its copy has an import that was put back


def test_a_folder_without_schemas_is_named(tmp_path: Path) -> None:
    """ARKE_SCHEMAS must have them; the cache folder may not."""
    with pytest.raises(BadInput, match=r"ARKE_SCHEMAS names a folder without mods-3-8\.xsd"):
        find({"ARKE_SCHEMAS": str(tmp_path)})
    assert find({"XDG_CACHE_HOME": str(tmp_path)}) is None
    assert missing_files(tmp_path)


def test_a_schema_that_is_none_is_told(tmp_path: Path) -> None:
    """Not with the parser's words: it names the file and what to do."""
    (tmp_path / "MARC21slim.xsd").write_text("<html>captive portal</html>")
    schemas_module._compiled.cache_clear()
    with pytest.raises(BadInput, match=r"The schema MARC21slim\.xsd cannot be used"):
        Schemas(tmp_path).faults("marcxml", parsed("<a/>"))


def client(answers: dict[str, httpx.Response | Exception]) -> httpx.Client:
    def answer(request: httpx.Request) -> httpx.Response:
        found = answers[request.url.path]
        if isinstance(found, Exception):
            raise found
        return found

    return httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)


def test_fetched_files_are_checked_and_told(tmp_path: Path) -> None:
    """What is there and right is not fetched again; what has no known sum is said not to be checked."""
    told: list[str] = []
    redirect = httpx.Response(301, headers={"Location": "https://a.test/moved.xsd"})
    answers = {
        "/a.xsd": redirect,
        "/moved.xsd": httpx.Response(200, content=b"<a/>"),
        "/b.xsd": httpx.Response(200, content=b"b"),
    }
    fetch(tmp_path / "new", told.append, client=client(answers), files=(A, B))
    assert (tmp_path / "new" / "a.xsd").read_bytes() == b"<a/>"
    assert "SHA-256 as known" in told[0]
    assert "not checked, no sum is known" in told[1]
    fetch(tmp_path / "new", told.append, client=client({}), files=(A,))
    assert told[-1] == "a.xsd: is there"


def test_a_file_that_is_another_one_is_refused_with_both_sums(tmp_path: Path) -> None:
    """Nothing of it is kept, also where there was nothing before."""
    with pytest.raises(WrongSum) as raised:
        fetch(tmp_path, lambda line: None, client=client({"/a.xsd": httpx.Response(200, content=b"<b/>")}), files=(A,))
    assert str(A.sha256) in str(raised.value)
    assert hashlib.sha256(b"<b/>").hexdigest() in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(503), "answered 503"), (httpx.ConnectError("no route"), "is there a network"),
        (httpx.Response(200, content=b"x" * (5 << 20)), "more than a schema can have"),
    ],
)  # fmt: skip
def test_an_address_that_does_not_answer_is_told(
    tmp_path: Path, answer: httpx.Response | Exception, words: str
) -> None:
    """With the address."""
    with pytest.raises(Unavailable, match=words) as raised:
        fetch(tmp_path, lambda line: None, client=client({"/a.xsd": answer}), files=(A,))
    assert A.url in str(raised.value)


def test_the_command_of_the_images_says_why_there_are_none(tmp_path: Path) -> None:
    """One sentence, which ends the build; that it brings them, the test of the image shows."""
    assert str(command([])).startswith("usage:")
    assert str(command([str(tmp_path), "more"])).startswith("usage:")
    (tmp_path / "file").write_text("")
    assert str(command([str(tmp_path / "file" / "below")])).startswith(
        "The folder for the schemas cannot be written to"
    )
