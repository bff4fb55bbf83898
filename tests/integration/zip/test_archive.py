"""Whole archives, opened by everything that opens archives, and compared byte by byte."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from worker.errors import BadInput, ObjectMissing, Unavailable
from worker.kinds.zip import container, packing
from worker.kinds.zip.archive import FILE_BYTES, WINDOW_BYTES, Progress, Summary, write
from worker.kinds.zip.codec import codec
from worker.kinds.zip.folder import Folder
from worker.kinds.zip.manifest import About
from worker.kinds.zip.names import Names
from worker.kinds.zip.source import Member
from worker.objects.base import ObjectInfo, Part
from worker.objects.local import LocalObjects

ABOUT = About(title="Test", created_at="2026-01-02T03:04:05Z", user_id="u-1", export_type="full")
OWN = {"README.txt", "manifest.json"}
BLOCK = 1024 * 1024


class Memory(io.BytesIO):
    """A sink that counts how often it was begun again."""

    restarts = 0

    def mark(self, *state: object) -> None:
        """Nobody goes on."""

    def restart(self) -> None:
        self.restarts += 1
        self.seek(0)
        self.truncate()


class Objects:
    """A store whose objects are bytes; tests change them under the hands of the writer."""

    def __init__(self, **bodies: bytes) -> None:
        self.bodies = {key.replace("_", "."): body for key, body in bodies.items()}
        self.etags: dict[str, str] = {}
        self.reads = 0
        self.before_read: Any = lambda key, start: None

    def read_part(self, key: str, start: int, length: int) -> Part:
        self.reads += 1
        self.before_read(key, start)
        if key not in self.bodies:
            raise ObjectMissing
        body = self.bodies[key]
        return Part(body[start : start + length], len(body), self.etags.get(key, "1"), 1_700_000_000.0)

    def members(self) -> list[Member]:
        return [Member(key=key, path=key, size=len(body), etag="1") for key, body in sorted(self.bodies.items())]


def made(
    objects: Any, members: list[Member], sink: Any = None, *, threads: int = 2, **more: Any
) -> tuple[bytes, Summary]:
    sink = Memory() if sink is None else sink
    summary = write(lambda: members, objects, sink, about=ABOUT, codec=codec(), threads=threads, **more)
    return sink.getvalue(), summary


def text(size: int, seed: int = 1) -> bytes:
    words = [b"alpha ", b"beta ", b"gamma\n", b"delta "]
    return b"".join(random.Random(seed).choices(words, k=size // 5))[:size].ljust(size, b".")


def bodies() -> dict[str, bytes]:
    """Small and large, packed and not, at the edges of blocks, in many scripts."""
    noise = random.Random(5).randbytes
    return {
        "empty": b"", "one": b"1", "a.txt": text(10_000), "b.jpg": noise(20_000), "c.bin": noise(30_000),
        "d.txt": text(BLOCK), "e.txt": text(BLOCK + 1), "f.txt": text(3 * BLOCK), "g.mp4": noise(2 * BLOCK + 17),
        "h.bin": noise(BLOCK + 70_000), "日本/עברית/😀.txt": text(500), "ü/é.txt": text(70_000),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Them as files."""
    root = tmp_path_factory.mktemp("files")
    for name, body in bodies().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
        os.utime(root / name, (1_700_000_000, 1_700_000_000))
    return root


@pytest.fixture(scope="module")
def archive(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of them."""
    files = Folder(folder)
    path = tmp_path_factory.mktemp("archive") / "a.zip"
    path.write_bytes(made(files, files.members(Names(*OWN)))[0])
    return path


def unpacked(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in OWN
    }


def needs(tool: str) -> Any:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not here")


@pytest.mark.parametrize(
    ("words", "unpack"),
    [
        pytest.param(
            ["unzip", "-t", "{archive}"], ["unzip", "-q", "{archive}", "-d", "{target}"], marks=needs("unzip")
        ),
        pytest.param(["7z", "t", "{archive}"], ["7z", "x", "-y", "-o{target}", "{archive}"], marks=needs("7z")),
        pytest.param(
            ["bsdtar", "-tf", "{archive}"], ["bsdtar", "-xf", "{archive}", "-C", "{target}"], marks=needs("bsdtar")
        ),
    ],
)
def test_every_tool_opens_it(archive: Path, tmp_path: Path, words: list[str], unpack: list[str]) -> None:
    """And gives back every byte."""
    given = {"archive": str(archive), "target": str(tmp_path)}
    env = os.environ | {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
    for command in (words, unpack):
        subprocess.run([word.format(**given) for word in command], check=True, capture_output=True, env=env, timeout=60)
    assert unpacked(tmp_path) == bodies()


@needs("bsdtar")
def test_it_is_read_as_a_stream(archive: Path, tmp_path: Path) -> None:
    """From front to back, without a look at the directory: what is stored, too, has its end."""
    env = os.environ | {"LC_ALL": "C.UTF-8"}
    with archive.open("rb") as source:
        process = subprocess.Popen(["bsdtar", "-xf", "-", "-C", str(tmp_path)], stdin=subprocess.PIPE, env=env)
        assert process.stdin is not None
        shutil.copyfileobj(source, process.stdin)
        process.stdin.close()
        assert process.wait(60) == 0
    assert unpacked(tmp_path) == bodies()


def test_python_opens_it(archive: Path) -> None:
    """README.txt is first and manifest.json last; times are UTC, modes 0644, names UTF-8."""
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        infos = opened.infolist()
        assert (infos[0].filename, infos[-1].filename) == ("README.txt", "manifest.json")
        assert {info.filename: opened.read(info) for info in infos[1:-1]} == bodies()
        assert {info.external_attr >> 16 for info in infos} == {0o100644}
        assert infos[1].date_time == (2023, 11, 14, 22, 13, 20)
        assert b"Of:      u-1" in opened.read("README.txt")


def test_the_manifest_tells_all(archive: Path) -> None:
    """Each file with its size and checksums, and by what it was packed."""
    with zipfile.ZipFile(archive) as opened:
        manifest = json.loads(opened.read("manifest.json"))
    assert {file["path"]: (file["size"], file["crc32"], file["sha256"]) for file in manifest["files"]} == {
        path: (len(body), f"{zlib.crc32(body):08x}", hashlib.sha256(body).hexdigest())
        for path, body in bodies().items()
    }
    assert manifest["summary"] == {"files": 12, "bytes": sum(map(len, bodies().values())), "missing": 0}
    assert (manifest["version"], manifest["created_at"], manifest["codec"]["name"]) == (1, ABOUT.created_at, "zlib-ng")


def test_what_is_packed_already_is_stored(archive: Path) -> None:
    """By its ending, or by a sample; large ones are wrapped, so that streams have their end."""
    with zipfile.ZipFile(archive) as opened:
        sizes = {info.filename: (info.compress_type, info.compress_size - info.file_size) for info in opened.infolist()}
    assert sizes["b.jpg"] == sizes["c.bin"] == sizes["empty"] == (0, 0)
    assert sizes["g.mp4"][0] == sizes["h.bin"][0] == 8
    assert 0 < sizes["g.mp4"][1] < 1000
    assert sizes["f.txt"][1] < -2 * BLOCK


@pytest.mark.parametrize("threads", [1, 3, 16])
def test_the_same_files_give_the_same_bytes(folder: Path, archive: Path, threads: int) -> None:
    """However many threads there are."""
    files = Folder(folder)
    assert made(files, files.members(Names(*OWN)), threads=threads)[0] == archive.read_bytes()


def test_no_files_are_an_archive_too() -> None:
    """With README.txt and manifest.json."""
    data, summary = made(Objects(), [])
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.namelist() == ["README.txt", "manifest.json"]
    assert (summary.files, summary.size) == (0, len(data))


def test_seventy_thousand_files() -> None:
    """More than the plain directory can count."""
    objects = Objects()
    objects.bodies = {f"{n:05}": b"%d" % n for n in range(70_000)}
    data, summary = made(objects, objects.members())
    assert summary.files == 70_000
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert len(opened.namelist()) == 70_002
        assert opened.read("69999") == b"69999"


def test_large_sizes_are_wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With lowered limits: Zip64 in headers, descriptors, directory and end."""
    monkeypatch.setattr(container, "LARGE", BLOCK)  # readers know the real limits: wide where none needs to be is valid
    objects = Objects(a_txt=text(3 * BLOCK), b_bin=random.Random(1).randbytes(2 * BLOCK), c=b"small")
    data, _ = made(objects, objects.members())
    (tmp_path / "a.zip").write_bytes(data)
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.testzip() is None
        assert opened.read("a.txt") == objects.bodies["a.txt"]
    assert data.count(b"\x01\x00\x10\x00" + bytes(16)) == 2
    for words in (["unzip", "-tq", "a.zip"], ["7z", "t", "a.zip"]):
        if shutil.which(words[0]):
            subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    if shutil.which("bsdtar"):
        told = subprocess.run(["bsdtar", "-xOf", "-", "b.bin"], input=data, check=True, capture_output=True)
        assert told.stdout == objects.bodies["b.bin"]


def test_sizes_beyond_four_gigabytes() -> None:
    """As the format has them, without writing so much."""
    entry = container.Entry("a", 8, 0.0, 5_000_000_000, 1, 6_000_000_000, 4_999_999_999, is_streamed=True)
    assert container.local_header(entry)[-20:] == b"\x01\x00\x10\x00" + bytes(16)
    assert len(container.descriptor(entry, is_wide=True)) == 24
    directory = container.directory_entry(entry)
    assert directory[-28:-24] == b"\x01\x00\x18\x00"
    end = container.end(1, 5_000_000_000, len(directory))
    with zipfile.ZipFile(Sparse(5_000_000_000, directory + end)) as opened:
        (info,) = opened.infolist()
    assert (info.file_size, info.compress_size, info.header_offset) == (6_000_000_000, 4_999_999_999, 5_000_000_000)


class Sparse(io.RawIOBase):
    """A file of so many zeros, and then this."""

    def __init__(self, zeros: int, data: bytes) -> None:
        self._zeros, self._data, self._at = zeros, data, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._zeros + len(self._data))[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._zeros + len(self._data) if size < 0 else self._at + size
        gone, self._at = self._at, end
        return (
            bytes(max(0, min(end, self._zeros) - gone))
            + self._data[max(0, gone - self._zeros) : max(0, end - self._zeros)]
        )


def test_many_tiny_files_are_bounded_too() -> None:
    """They take some of the window each, though they have next to no bytes."""
    objects = Objects(**{f"a{n:06}": b"" for n in range(30_000)})
    reads: list[int] = []

    def stop(progress: Progress) -> None:
        reads.append(objects.reads)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(objects, objects.members(), tell=stop)
    assert reads[0] <= WINDOW_BYTES // FILE_BYTES + packing.JOB_FILES


def has_no_gap(data: bytes) -> bool:
    """Whether each entry begins where the one before has ended, and the directory behind the last."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        at = 0
        for info in opened.infolist():
            if info.header_offset != at:
                return False
            header = data[at : at + 30]
            at += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            at += info.compress_size + (16 if info.flag_bits & 8 else 0)
        return at == opened.start_dir


# ---- files that are not what they were


def test_a_file_that_is_gone_is_told() -> None:
    """With its reason, once; the others are there."""
    objects = Objects(a_txt=b"a", b_txt=text(3 * BLOCK), c_txt=b"c", d_txt=b"d")
    members = objects.members()
    del objects.bodies["a.txt"], objects.bodies["b.txt"]
    objects.etags["c.txt"] = "2"
    data, summary = made(objects, members)
    assert [(each["r2_key"], each["reason"]) for each in summary.missing] == [
        ("a.txt", "it is not there"), ("b.txt", "it is not there"), ("c.txt", "it has changed since it was verified"),
    ]  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == ["README.txt", "d.txt", "manifest.json"]
        assert json.loads(opened.read("manifest.json"))["missing"] == summary.missing


@pytest.mark.parametrize("change", ["etag", "size", "gone"])
@pytest.mark.parametrize("at_block", [1, 5])
def test_a_large_file_that_changes_half_way_is_left_out(change: str, at_block: int) -> None:
    """A part of it was written: the archive is begun again without it, and is a whole one."""
    objects = Objects(a_txt=text(6 * BLOCK), b_txt=b"b")
    members = objects.members()

    def changed(key: str, start: int) -> None:
        if key == "a.txt" and start // BLOCK >= at_block - 1 and start > 3 * BLOCK - BLOCK * 2 * (at_block == 1):
            if change == "etag":
                objects.etags[key] = "2"
            elif change == "size":
                objects.bodies[key] = b"x"
            else:
                objects.bodies.pop(key, None)

    objects.before_read = changed
    sink = Memory()
    data, summary = made(objects, members, sink)
    assert [each["r2_key"] for each in summary.missing] == ["a.txt"]
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == ["README.txt", "b.txt", "manifest.json"]
    assert sink.restarts == (at_block == 5)
    assert has_no_gap(data)


def test_a_store_that_does_not_answer_is_no_reason_to_leave_a_file_out() -> None:
    """Another try may have it: the task fails."""
    objects = Objects(a=b"1", b=b"2")

    def away(key: str, start: int) -> None:
        raise Unavailable("away")

    objects.before_read = away
    with pytest.raises(Unavailable):
        made(objects, objects.members())


def test_who_is_told_may_end_it() -> None:
    """A task that is no longer wanted, say; nothing more is read."""
    objects = Objects(**{f"a{n:04}": text(200_000) for n in range(400)})

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(objects, objects.members(), tell=stop)
    assert objects.reads < 2 * WINDOW_BYTES // 200_000


def test_it_is_told_how_far_it_is() -> None:
    """All the time; in the end it is the sum."""
    objects = Objects(a_txt=text(3 * BLOCK), b=b"b")
    told: list[Progress] = []
    data, summary = made(objects, objects.members(), tell=told.append)
    assert told[-1] == Progress(2, 0, 3 * BLOCK + 1, len(data))
    assert [each.bytes for each in told] == sorted(each.bytes for each in told)
    assert summary.bytes == told[-1].bytes


def test_objects_of_a_store(tmp_path: Path) -> None:
    """As a prefix has them, from a local one."""
    from worker.kinds.zip.stored import below, named

    objects = LocalObjects(tmp_path, "bucket")
    for name in ("x/a.txt", "x/b/c.txt", "y/d.txt"):
        objects.put(name, name.encode(), "text/plain")
    members = below(objects, "x/", Names(*OWN))
    assert [(member.key, member.path) for member in members] == [("x/a.txt", "a.txt"), ("x/b/c.txt", "b/c.txt")]
    listed = named(objects, ["y/d.txt", "no", "y/d.txt"], Names(*OWN))
    data, summary = made(objects, listed)
    assert [each["r2_key"] for each in summary.missing] == ["no"]
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.read("y/d.txt") == b"y/d.txt"


def test_groups_keep_their_order_and_their_bounds() -> None:
    """Small files together, large ones alone."""
    sizes = [1, 300_000, 5, BLOCK + 1, *([10] * 70), 2 * BLOCK, 7]
    members = [Member(key=str(n), path=str(n), size=size) for n, size in enumerate(sizes)]
    groups = list(packing.groups(members))
    assert [member for group in groups for member in group] == members
    assert all(len(group) == 1 for group in groups if any(map(packing.is_large, group)))
    assert all(len(group) <= packing.JOB_FILES for group in groups)


def test_odd_entries_of_a_folder_end_nothing(tmp_path: Path) -> None:
    """Links that lead nowhere, in a ring, or to a folder, and what is no file: each is told of."""
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    for name, target in (("dead", "nowhere"), ("ring", "ring"), ("folder", "sub"), ("link", "a.txt")):
        (root / name).symlink_to(target)
    files = Folder(root)
    data, summary = made(files, files.members(Names(*OWN)))
    assert sorted(each["r2_key"] for each in summary.missing) == ["dead", "folder", "ring"]
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.namelist()[1:-1] == ["a.txt", "link"]
        assert opened.read("link") == b"a"


def test_keys_that_are_none_here(tmp_path: Path) -> None:
    """What consoles make for a folder is left out silently, any other with its reason."""
    from worker.kinds.zip.stored import below

    class Odd(Objects):
        def list(self, prefix: str, after: str | None, limit: int) -> Any:
            return [ObjectInfo("in/", 0, ""), ObjectInfo("in//a", 1, ""), ObjectInfo("in/b", 1, "1")]

        def read_part(self, key: str, start: int, length: int) -> Part:
            if "//" in key:
                raise BadInput("the key is not allowed")
            return super().read_part(key, start, length)

    objects = Odd()
    objects.bodies = {"in/b": b"b"}
    data, summary = made(objects, below(objects, "in/", Names(*OWN)))  # type: ignore[arg-type]
    assert [(each["r2_key"], each["reason"]) for each in summary.missing] == [("in//a", "the key is not allowed")]
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        assert opened.namelist()[1:-1] == ["b"]


@pytest.mark.parametrize("name", ["zlib-ng", "isal"])
def test_level_0_stores(name: str) -> None:
    """Whichever codec; large files are wrapped."""
    objects = Objects(a_txt=text(10_000), b_txt=text(2 * BLOCK))
    sink = Memory()
    write(objects.members, objects, sink, about=ABOUT, codec=codec(name, 0), threads=2)
    with zipfile.ZipFile(io.BytesIO(sink.getvalue())) as opened:
        assert opened.testzip() is None
        assert all(info.compress_size >= info.file_size for info in opened.infolist()[1:-1])
