"""Whole exports of the sample archive: valid, in order, the same each time, with an account of what went wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mods.bench import exported, records
from tests.stand_ins.arke_api import ROOT, ArkeStandIn, InMemory, Large, pi_of, sample
from tests.unit.worker.mods.records import schemas
from worker.errors import BadInput, Unavailable
from worker.kinds.mods import export as export_module
from worker.kinds.mods import reading
from worker.kinds.mods.export import Progress
from worker.kinds.mods.options import FORMATS, Format
from worker.kinds.mods.validation import validate

FAILED = {
    pi_of("deleted"): "Failed to fetch manifest: deleted",
    pi_of("nowhere"): "Failed to fetch manifest: 404 Not Found",
}
INCOMPLETE = 3


@pytest.mark.parametrize("format", FORMATS)
async def test_the_sample_archive_is_valid_in_every_format(format: Format, tmp_path: Path) -> None:
    """More than two hundred entities in many scripts, and all that is wrong with them."""
    body, metrics = await exported(ArkeStandIn(sample()), ROOT, format=format, schemas=schemas())
    assert (metrics.entities_exported, metrics.entities_failed, metrics.entities_incomplete) == (242, 2, INCOMPLETE)
    assert metrics.validated
    assert {failure["pi"]: failure["reason"] for failure in metrics.failures} == FAILED
    path = tmp_path / "all.xml"
    path.write_bytes(body)
    report = validate(path, schemas())
    assert (report.records, report.faults, report.is_valid) == (242, [], True)


async def test_two_runs_give_the_same_bytes() -> None:
    """However many are fetched at once, whatever fails and heals meanwhile."""
    bodies = {
        (await exported(ArkeStandIn(sample(), fault_rate=rate, seed=seed), ROOT, parallel_batch_size=at_once))[0]
        for rate, seed, at_once in ((0.0, 1, 1), (0.05, 2, 10), (0.1, 3, 40))
    }
    assert len(bodies) == 1


async def test_what_was_left_out_or_changed_is_counted_with_its_reason() -> None:
    """And nothing of the data is in a reason."""
    _, metrics = await exported(ArkeStandIn(sample()), ROOT)
    assert metrics.changes["characters removed that XML cannot hold"] > 100
    assert metrics.changes["access_url written as an identifier only: it is no URI"] == 1
    assert metrics.changes["entities left out that are another one, which is here"] == 1
    assert metrics.changes["types left out that are none of DCMI's"] == 1
    assert metrics.warnings == {
        "*.ref.json: 404 Not Found": 1, "cheimarros.json: 404 Not Found": 1, "pinax.json: no JSON object": 1,
        "pinax.json: no valid JSON": 1,
    }  # fmt: skip


async def test_shared_children_and_cycles_come_once() -> None:
    """Their other parents point to them; the file has no ID twice."""
    body, _ = await exported(ArkeStandIn(sample()), ROOT)
    ids = [record.get("ID") for record in records(body)]
    assert len(set(ids)) == len(ids)
    assert ids.count(f"entity-{pi_of('shared')}") == 1
    assert ids.index(f"entity-{pi_of('shared-a')}") + 1 == ids.index(f"entity-{pi_of('shared')}")
    assert body.count(f">{pi_of('shared')}</identifier>".encode()) >= 3  # its own, and one in each parent


async def test_merged_entities_are_what_they_were_merged_into() -> None:
    """Through more than one step; the record has the id of the one that is there."""
    body, metrics = await exported(ArkeStandIn(sample()), pi_of("merged-away"), recursive=False)
    assert [record.get("ID") for record in records(body)] == [f"entity-{pi_of('merged')}"]
    assert metrics.entities_failed == 0


@pytest.mark.parametrize(
    ("name", "error"),
    [("nothing", "Failed to fetch manifest: 404 Not Found"), ("deleted", "Failed to fetch manifest: deleted")],
)
async def test_a_root_that_is_not_there_fails_the_export(name: str, error: str) -> None:
    """The original called that a success. Another try cannot help."""
    with pytest.raises(BadInput, match=error) as raised:
        await exported(ArkeStandIn(sample()), pi_of(name))
    assert str(raised.value) == error
    assert not raised.value.retryable


async def test_merges_in_a_circle_end() -> None:
    """With a reason."""
    archive = InMemory()
    archive.entities = {pi_of(a): {"merged": True, "merged_into": pi_of(b)} for a, b in (("a", "b"), ("b", "a"))}
    with pytest.raises(BadInput, match="circle"):
        await exported(ArkeStandIn(archive), pi_of("a"))


async def test_a_fault_that_heals_counts_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not: a child is counted; for the root another try may help."""
    monkeypatch.setattr("worker.kinds.mods.arke_api.BASE_S", 0.0001)
    archive = Large(30)
    _, metrics = await exported(ArkeStandIn(archive, fault_rate=0.5, most_faults=4), archive.root)
    assert (metrics.entities_exported, metrics.entities_failed, metrics.warnings) == (30, 0, {})
    broken = ArkeStandIn(archive)
    broken.statuses[archive.pi(5)] = 500
    _, metrics = await exported(broken, archive.root)
    assert (metrics.entities_exported, metrics.entities_failed) == (29, 1)
    assert metrics.failures[0]["reason"] == "Failed to fetch manifest: 500 Internal Server Error"
    broken.statuses[archive.root] = 503
    with pytest.raises(Unavailable, match="503"):
        await exported(broken, archive.root)


async def test_fifty_megabytes_of_ocr_are_notes_that_default_readers_take() -> None:
    """Cut at line ends; every character is there."""
    archive = InMemory()
    ocr = "\n".join(f"{n:07} {'é' * 45}" for n in range(500_000))
    pi = archive.add("scan", pinax={"title": "Scan"}, others={"page.ref.json": {"url": "http://a.test/1", "ocr": ocr}})
    body, metrics = await exported(ArkeStandIn(archive), pi, schemas=schemas())
    assert metrics.entities_exported == 1
    (record,) = records(body)
    notes = [note.text for note in record.iterfind(".//{*}note[@type='ocr']")]
    assert len(notes) == 50
    assert "\n".join(notes) == ocr


async def test_a_record_that_is_not_valid_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not in the file, and is counted with the reason; where none is left the export fails."""
    archive = Large(5)

    def faulty(format: Format, element: Any) -> list[str]:
        return ["planted"] if element.get("ID") == f"entity-{archive.pi(3)}" else []

    monkeypatch.setattr(export_module.structure, "faults", faulty)
    body, metrics = await exported(ArkeStandIn(archive), archive.root)
    assert (len(records(body)), metrics.entities_exported, metrics.entities_failed) == (4, 4, 1)
    assert metrics.failures == [{"pi": archive.pi(3), "reason": "the record is not valid: planted"}]
    with pytest.raises(BadInput, match="No record can be made of the entity: the record is not valid: planted"):
        await exported(ArkeStandIn(archive), archive.pi(3))


async def test_a_pinax_that_cannot_be_had_now_is_not_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an outage of the gateway would make hundreds of records that say that there is none."""
    monkeypatch.setattr("worker.kinds.mods.arke_api.BASE_S", 0.0001)
    archive = Large(5)
    stand_in = ArkeStandIn(archive)
    stand_in.statuses["bafk0x3"] = 522
    _, metrics = await exported(stand_in, archive.root)
    assert (metrics.entities_exported, metrics.entities_failed, metrics.entities_incomplete) == (4, 1, 0)
    assert metrics.failures[0]["reason"].startswith("Failed to fetch pinax.json: 522")
    stand_in.statuses["bafk0x0"] = 503
    with pytest.raises(Unavailable, match=r"pinax\.json: 503"):
        await exported(stand_in, archive.root)


async def test_children_that_are_no_ids_cost_themselves_only() -> None:
    """Whatever is in them; they are not asked for, and no record has one as its own id."""
    archive = InMemory()
    root = archive.add("root", pinax={"title": "Root"}, children=("good",))
    archive.add("good", pinax={"title": "Good"}, parent="root")
    hostile = ["\ud800", 'x" y="', "../entities/x", " ", "a" * 10_000]
    archive.entities[root]["children_pi"] = [*hostile, pi_of("good")]
    body, metrics = await exported(ArkeStandIn(archive), root, schemas=schemas())
    assert [record.get("ID") for record in records(body)] == [f"entity-{root}", f"entity-{pi_of('good')}"]
    assert (metrics.entities_exported, metrics.entities_failed) == (2, len(hostile))
    assert all(failure["reason"] == "Failed to fetch manifest: it is no entity id" for failure in metrics.failures)
    json.dumps([failure["pi"] for failure in metrics.failures], ensure_ascii=False).encode()


async def test_components_are_fetched_side_by_side() -> None:
    """And no more entities at once than asked for; what is not wanted is not fetched."""
    archive = sample()
    stand_in = ArkeStandIn(archive, latency_s=0.005)
    await exported(stand_in, pi_of("letters"), parallel_batch_size=2)
    assert 2 < stand_in.most_in_flight <= 3 * 3
    with_graph, without = ArkeStandIn(archive), ArkeStandIn(archive)
    await exported(with_graph, pi_of("letters"), recursive=False)
    await exported(without, pi_of("letters"), recursive=False, cheimarros_mode="skip")
    assert with_graph.asked["ipfs"] == without.asked["ipfs"] + 1


async def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then, and at the end."""
    monkeypatch.setattr(export_module, "TELL_EVERY_S", 0.0)
    told: list[Progress] = []
    await exported(ArkeStandIn(Large(20)), Large(20).root, tell=told.append)
    assert [progress.entities_exported for progress in told] == [*range(1, 21), 20]


async def test_parents_are_named_by_title_only_where_they_are_in_the_export() -> None:
    """The root's own parent is not."""
    body, _ = await exported(ArkeStandIn(sample()), pi_of("letters-0"))
    titles = [record.findtext("{*}relatedItem[@type='host']/{*}titleInfo/{*}title") for record in records(body)[:3]]
    assert titles == [None, "Letters of the Harbour Master's Office (1)", "Letters of the Harbour Master's Office (1)"]


async def test_an_answer_that_is_too_large_is_refused_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs its component only."""
    monkeypatch.setattr("worker.kinds.mods.arke_api.COMPONENT_BYTES", 1_500)
    archive = Large(3, ocr_bytes=4_000)
    _, metrics = await exported(ArkeStandIn(archive), archive.pi(2), recursive=False)
    assert metrics.warnings == {"*.ref.json: the answer has more than 1500 bytes": 1}


def test_the_reason_of_a_missing_root_is_the_originals() -> None:
    """Their clients look for it."""
    assert str(reading.NotRead("manifest", BadInput("404 Not Found"))) == "Failed to fetch manifest: 404 Not Found"
