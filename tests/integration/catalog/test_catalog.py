"""What every catalog does, wherever it is."""

import asyncio
import random

import msgspec
import pytest

from actors.errors import InvalidInput
from actors.store.catalog_rows import CHANGES, COMPLETED, PROCESSING, CatalogExport, CatalogFile, Selection
from tests.integration.catalog.places import USER, Place, file_row

NOW = 1_764_201_600_000  # 27 November 2025, on the second
DAY = 86_400_000
change = msgspec.structs.replace


def of_user(place: Place, **fields: str) -> Selection:
    return Selection(user_id=place.id(USER), **fields)


async def walk(place: Place, selection: Selection, limit: int = 7) -> list[CatalogFile]:
    """All pages, one after the other."""
    found: list[CatalogFile] = []
    while page := await place.catalog.files(selection, found[-1].id if found else None, limit):
        assert len(page) <= limit
        found += page
    return found


async def test_pages_are_complete_and_in_order(place: Place) -> None:
    """Each file once, with all that is known of it; nobody else's, and none that is deleted."""
    rows = [file_row(n, deleted=n % 5 == 0, product="blog" if n % 2 else None, category="a") for n in range(1, 60)]
    rows += [file_row(n, user=8) for n in range(60, 90)]
    random.Random(1).shuffle(rows)
    await place.add(*rows)
    found = await walk(place, of_user(place))
    kept = [n for n in range(1, 60) if n % 5]
    assert [file.id for file in found] == [place.id(n) for n in kept]
    assert found[0] == CatalogFile(
        id=place.id(1), r2_key="k/1", filename="1.md", size_bytes=1, product="blog", category="a"
    )
    assert (await walk(place, Selection(user_id=place.id(9)))) == []


async def test_pages_while_files_come_and_go(place: Place) -> None:
    """What is there from before the first page until after the last is found once, whatever else changes."""
    await place.add(*(file_row(n) for n in range(2, 400, 2)))
    found: list[CatalogFile] = []

    async def insert() -> None:
        for n in range(1, 400, 8):
            await place.add(file_row(n))
            await asyncio.sleep(0)

    inserting = asyncio.create_task(insert())
    while page := await place.catalog.files(of_user(place), found[-1].id if found else None, 10):
        found += page
        await asyncio.sleep(0.001)
    await inserting
    ids = [file.id for file in found]
    assert len(ids) == len(set(ids))
    assert {place.id(n) for n in range(2, 400, 2)} <= set(ids)
    order = {place.id(n): n for n in range(400)}
    assert [order[one] for one in ids] == sorted(order[one] for one in ids)


@pytest.mark.parametrize("by", ["product", "category"])
async def test_files_of_a_product_or_a_category(place: Place, by: str) -> None:
    """Only those that have it."""
    await place.add(*(file_row(n, **{by: ["ivy", "blog", None][n % 3]}) for n in range(1, 40)))  # type: ignore[arg-type]
    found = await walk(place, of_user(place, **{by: "ivy"}), limit=3)
    assert [file.id for file in found] == [place.id(n) for n in range(1, 40) if n % 3 == 0]
    assert await walk(place, of_user(place, **{by: "themes"})) == []


async def test_an_export_is_put_and_found(place: Place) -> None:
    """Every field comes back; a second time changes nothing."""
    row = CatalogExport(
        id=place.id(1), user_id=place.id(USER), status=COMPLETED, export_type="category",
        filter_params={"category": "é", "n": [1, None]}, r2_key="exports/é.zip", size_bytes=5_000_000_000, file_count=3,
        created_at=NOW, completed_at=NOW + 2000, expires_at=NOW + 7 * DAY, error_message="1 of 4 is missing",
    )  # fmt: skip
    assert await place.catalog.export(row.id) is None
    if place.step_ms > 1:
        await place.add_export(2, NOW)  # which tells that times are seconds there
    await place.catalog.put_export(row)
    once = place.export(1)
    await place.catalog.put_export(row)
    assert await place.catalog.export(row.id) == row
    assert place.export(1) == once


async def test_times_keep_what_the_column_can(place: Place) -> None:
    """Milliseconds, or the second that has begun."""
    await place.add_export(1, NOW)
    row = await place.catalog.export(place.id(1))
    assert row is not None
    await place.catalog.put_export(change(row, completed_at=NOW + 1789))
    after = await place.catalog.export(row.id)
    assert after is not None
    assert after.completed_at == NOW + 1789 // place.step_ms * place.step_ms


async def test_only_its_progress_is_written_over_a_row(place: Place) -> None:
    """What the row's owner wrote stays."""
    await place.add_export(1, NOW)
    before = place.export(1)
    row = CatalogExport(
        id=place.id(1), user_id=place.id(8), status=PROCESSING, export_type="blog", filter_params={"x": 1},
        created_at=NOW + DAY, size_bytes=4, file_count=2, r2_key="k", completed_at=NOW, expires_at=NOW + DAY,
        error_message="e",
    )  # fmt: skip
    await place.catalog.put_export(row)
    found = await place.catalog.export(row.id)
    expected = change(row, user_id=place.id(USER), export_type="full", filter_params={}, created_at=NOW)
    assert found == expected
    after = place.export(1)
    assert {name for name in after if after[name] != before[name]} == set(CHANGES)


@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_what_is_over_does_not_begin_again(place: Place, end: str) -> None:
    """Who tells late that an export has begun changes nothing; another end is written over one."""
    await place.add_export(1, NOW)
    row = CatalogExport(
        id=place.id(1), user_id=place.id(USER), status=end, export_type="full", created_at=NOW, file_count=2
    )
    await place.catalog.put_export(row)
    for status in ("pending", "processing"):
        await place.catalog.put_export(change(row, status=status, file_count=None))
    found = await place.catalog.export(row.id)
    assert found is not None
    assert (found.status, found.file_count) == (end, 2)
    await place.catalog.put_export(change(row, status="failed", file_count=None))
    found = await place.catalog.export(row.id)
    assert found is not None
    assert (found.status, found.file_count) == ("failed", None)


async def test_two_put_the_same_new_row_at_once(place: Place) -> None:
    """One inserts it, the others find it."""
    row = CatalogExport(id=place.id(1), user_id=place.id(USER), export_type="full", created_at=NOW)
    await place.catalog.export(row.id)
    await asyncio.gather(*(place.catalog.put_export(row) for _ in range(8)))
    assert place.export(1)["status"] == "pending"


async def test_exports_newest_first(place: Place) -> None:
    """Pages by creation and id: those of one moment come once each."""
    times = {n: NOW + n // 3 * 1000 for n in range(1, 30)}
    for n, created_at in times.items():
        await place.add_export(n, created_at)
    await place.add_export(90, NOW, user=8)
    found, cursor = await place.catalog.exports(place.id(USER), limit=4)
    while cursor is not None:
        page, cursor = await place.catalog.exports(place.id(USER), limit=4, cursor=cursor)
        found += page
    expected = sorted(times, key=lambda n: (times[n], n), reverse=True)
    assert [row.id for row in found] == [place.id(n) for n in expected]
    assert [row.created_at for row in found] == [times[n] for n in expected]


@pytest.mark.parametrize("cursor", ["x", "WzEsMl0", "bnVsbA", "WzEsIjEiLCJcdTAwMDAiXQ"])
async def test_a_wrong_cursor_is_named(place: Place, cursor: str) -> None:
    """What no list has given is refused."""
    with pytest.raises(InvalidInput) as raised:
        await place.catalog.exports(place.id(USER), cursor=cursor)
    assert raised.value.field == "cursor"


async def test_nobody_known_has_nothing(place: Place) -> None:
    """An id that the columns cannot hold is nobody's."""
    await place.add_export(1, NOW)
    assert await place.catalog.files(Selection(user_id="O'Brien %s"), None, 5) == []
    assert await place.catalog.files(of_user(place, product="\0"), None, 5) == []
    assert await place.catalog.exports("O'Brien %s") == ([], None)
    assert await place.catalog.export("O'Brien %s") is None


def test_a_selection_is_of_one_thing() -> None:
    """Of a product or of a category: no index serves both."""
    with pytest.raises(ValueError, match="product or of a category"):
        Selection(user_id="u", product="blog", category="a")
