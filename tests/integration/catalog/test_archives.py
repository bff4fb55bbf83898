"""Archives of the files that a catalog names, whoever's it is: its rows are read, and its exports are told of."""

import json
from pathlib import Path

import pytest

from actors.errors import Conflict, InvalidInput
from actors.rules import archive
from tests.integration.catalog.places import USER, Place, Sqlite, file_row
from tests.integration.test_archives import World, names


async def test_what_it_names_is_archived(place: Place, tmp_path: Path) -> None:
    """A row that waits is started, and tells of its end; the same again is refused; what is deleted is not there."""
    world = World(tmp_path / "service", catalog=place.catalog)
    world.put("k/1", "k/2", "k/4", size=100)
    await place.add(
        file_row(1, product="blog"), file_row(2, product="ivy"), file_row(3), file_row(4, deleted=True),
        file_row(5, user=USER + 1),
    )  # fmt: skip
    await place.add_export(9, 1_700_000_000_000)
    job = await world.completed(await world.create(export_id=place.id(9)))
    assert job.message["user_id"] == place.id(USER)
    zipped = world.opened(archive.archive_key(job, 0, 1))
    assert names(zipped) == {"blog/1.md", "ivy/2.md"}
    assert [each["r2_key"] for each in json.loads(zipped.read("manifest.json"))["missing"]] == ["k/3"]
    row = await place.catalog.export(place.id(9))
    assert row is not None
    assert (row.status, row.r2_key, row.file_count) == ("completed", archive.archive_key(job, 0, 1), 2)
    with pytest.raises(Conflict):
        await world.create(export_id=place.id(9))
    await world.close()


async def test_an_export_gets_a_row_there(place: Place, tmp_path: Path) -> None:
    """Where ids are not numbers: those its owner gives, and who asks is told so."""
    world = World(tmp_path / "service", catalog=place.catalog)
    world.put("k/1")
    await place.add(file_row(1, product="blog"))
    wanted = {"user_id": place.id(USER), "export_type": "blog"}
    if isinstance(place, Sqlite) and place.is_numbered:
        with pytest.raises(InvalidInput, match="insert a row"):
            await world.create(**wanted)
    else:
        job = await world.completed(await world.create(**wanted))
        row = await place.catalog.export(job.id)
        assert row is not None
        assert (row.status, row.user_id, row.file_count) == ("completed", place.id(USER), 1)
    await world.close()


async def test_a_cancelled_one_is_told_there(place: Place, tmp_path: Path) -> None:
    world = World(tmp_path / "service", catalog=place.catalog)
    world.put("k/1")
    await place.add(file_row(1))
    await place.add_export(9, 1_700_000_000_000)
    job = await world.verified(await world.create(export_id=place.id(9)))
    await world.ask(job, "cancel", reason="wrong files")
    await world.told(job)
    row = await place.catalog.export(place.id(9))
    assert row is not None
    assert (row.status, row.error_message) == ("failed", "Cancelled: wrong files")
    await world.close()
