"""Phases and what is made from them: keys of outputs, names of machines, environments, the files after a phase."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from actors.host import machine_name, task_environment
from actors.phases import all_phases
from actors.phases.tiff_conversion import PHASE, to_jpg
from actors.planning import numbered, task_id
from actors.rules.model import Job, Task
from actors.rules.states import TaskStatus
from actors.rules.task import replace
from actors.signing import verify_task
from worker.contract import FileRef
from worker.kinds import find

JOB = Job(id="b-1")
TASK = Task(
    job_id="b-1", phase=0, n=3, task_id="b-1_tiff_3", attempt=2, input_r2_key="in/p.tif", output_r2_key="in/p.jpg"
)
TIFF = FileRef(
    r2_key="in/p.tif",
    logical_path="/box 1/p.tif",
    file_name="p.tif",
    file_size=9,
    content_type="image/tiff",
    cid="bafy",
    processing_config={"ocr": True},
    preprocessor_tags=("Earlier",),
)


def file(name: str, content_type: str = "application/octet-stream") -> FileRef:
    return FileRef(r2_key=f"in/{name}", logical_path=f"/{name}", file_name=name, content_type=content_type)


def test_phases_are_found_by_themselves() -> None:
    """A file in the folder is enough; each phase names a kind of work that there is."""
    found = all_phases()
    assert found["TIFF_CONVERSION"] is PHASE
    assert all(phase.name == name for name, phase in found.items())
    assert all(callable(find(phase.kind)) for phase in found.values())


@pytest.mark.parametrize(
    ("one", "wanted"),
    [
        (file("p.tif"), True),
        (file("p.TIFF"), True),
        (file("scan", "image/tiff"), True),
        (file("scan", "IMAGE/X-TIFF"), True),
        (file("p.jpg", "image/jpeg"), False),
        (file("p.tif.txt"), False),
        (file("tiff"), False),
    ],
)
def test_a_tiff_is_known_by_its_name_or_its_type(one: FileRef, wanted: bool) -> None:
    """Either is enough, in any case; everything else passes through."""
    assert PHASE.wants(one) is wanted


@pytest.mark.parametrize(
    ("name", "renamed"),
    [("p.tif", "p.jpg"), ("p.TIFF", "p.jpg"), ("a.tif.tif", "a.tif.jpg"), ("scan", "scan.jpg"), ("p.x", "p.x.jpg")],
)
def test_outputs_are_named_as_by_the_originals(name: str, renamed: str) -> None:
    """The ending is exchanged; a TIFF without one gets `.jpg` appended, and so never overwrites its input."""
    assert to_jpg(name) == renamed


@pytest.mark.parametrize(
    ("key", "number", "expected"),
    [
        ("a/p.jpg", 0, "a/p.jpg"),
        ("a/p.jpg", 1, "a/p-1.jpg"),
        ("a/p.x.jpg", 2, "a/p.x-2.jpg"),
        ("a.b/scan", 1, "a.b/scan-1"),
        ("a/.jpg", 1, "a/-1.jpg"),
        ("über/ü.jpg", 12, "über/ü-12.jpg"),
    ],
)
def test_a_taken_key_gets_a_number_before_its_ending(key: str, number: int, expected: str) -> None:
    """`p.tif` and `p.tiff` do not share an output; a dot in a folder is no ending."""
    assert numbered(key, number) == expected


def test_task_ids_are_unique_by_construction() -> None:
    """The originals' 31-bit hash let two files share a task: here it is a sequence, per phase."""
    ids = {task_id("b", phase, "tiff", n) for phase in range(12) for n in range(120)}
    assert len(ids) == 12 * 120
    assert task_id("b", 0, "tiff", 7) == "b_tiff_7"


def test_a_completed_tiff_becomes_two_files() -> None:
    """The source is kept and tagged, the JPEG has the name of its key, also one with a number."""
    done = replace(TASK, status=TaskStatus.COMPLETED, output_r2_key="in/p-1.jpg", output_file_size=5)
    source, jpeg = PHASE.files_after(TIFF, done)
    assert source.preprocessor_tags == ("Earlier", "TiffConverter:source")
    assert (source.cid, source.file_size, source.processing_config) == ("bafy", 9, {"ocr": True})
    assert (jpeg.r2_key, jpeg.logical_path, jpeg.file_name) == ("in/p-1.jpg", "/box 1/p-1.jpg", "p-1.jpg")
    assert (jpeg.file_size, jpeg.content_type, jpeg.source_file, jpeg.cid) == (5, "image/jpeg", "p.tif", None)
    assert (jpeg.preprocessor_tags, jpeg.processing_config) == (("TiffConverter",), {"ocr": True})


def test_a_logical_path_without_folder_stays_without() -> None:
    """Nothing is put before a name that had nothing before it."""
    done = replace(TASK, status=TaskStatus.COMPLETED)
    _, jpeg = PHASE.files_after(FileRef(r2_key="p.tif", logical_path="p.tif", file_name="p.tif"), done)
    assert jpeg.logical_path == "p.jpg"


def test_a_failed_tiff_passes_through() -> None:
    """Unchanged and untagged, so that the receiver still has it."""
    assert PHASE.files_after(TIFF, replace(TASK, status=TaskStatus.FAILED)) == (TIFF,)


def test_the_environment_of_a_task_is_complete_and_signed() -> None:
    """Everything a worker of the originals reads, and a callback that is valid for this attempt only."""
    environment = task_environment("http://host:1", "secret", JOB, TASK)
    assert environment["TASK_ID"] == "b-1_tiff_3"
    assert environment["BATCH_ID"] == "b-1"
    assert (environment["INPUT_R2_KEY"], environment["OUTPUT_R2_KEY"]) == ("in/p.tif", "in/p.jpg")
    url = urlsplit(environment["CALLBACK_URL"])
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert url.path == "/callback/b-1/b-1_tiff_3"
    assert (query["run"], query["attempt"]) == ("1", "2")
    assert verify_task(("secret",), "b-1", "b-1_tiff_3", 1, 2, query["sig"])
    assert not verify_task(("secret",), "b-1", "b-1_tiff_3", 1, 3, query["sig"])


def test_a_machine_name_follows_from_its_assignment() -> None:
    """The same assignment, the same name (so that a spawn can be repeated); another attempt, run or batch, another."""
    names = [
        machine_name(JOB, TASK),
        machine_name(JOB, replace(TASK, attempt=3)),
        machine_name(JOB, replace(TASK, run=2)),
        machine_name(JOB, replace(TASK, task_id="b-1_tiff_4")),
        machine_name(replace(JOB, id="b-2"), TASK),
    ]
    assert len(set(names)) == len(names)
    assert machine_name(JOB, TASK) == names[0]


def test_a_machine_name_is_within_every_alphabet() -> None:
    """Lower-case letters, digits and dashes, at most 63: Fly's limit, whatever the batch is called."""
    long = replace(JOB, id="B_" + "x" * 62)
    name = machine_name(long, replace(TASK, task_id=f"{long.id}_tiff_4999999", attempt=1_000_000))
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,62}", name)
