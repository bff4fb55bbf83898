"""`arke zip`: how it is called, what it shows, and what it leaves."""

import io
import json
import os
import zipfile
from pathlib import Path

import click
import pytest

from orchestrator.cli import main
from worker.objects.local import LocalObjects

OBJECTS = ("OBJECTS_DIR", "R2_ENDPOINT_URL", "R2_ACCOUNT_ID", "R2_BUCKET", "SOURCE_DATE_EPOCH")


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OBJECTS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one below."""
    (tmp_path / "scans" / "b").mkdir(parents=True)
    (tmp_path / "scans" / "a.txt").write_text("a" * 1000)
    (tmp_path / "scans" / "b" / "c.txt").write_text("c")
    return tmp_path / "scans"


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    with pytest.raises(SystemExit) as ended:
        main.main(["zip", *arguments])
    code = ended.value.code
    out, err = capsys.readouterr()
    return (code if isinstance(code, int) else 0), out, err


def test_a_folder_becomes_an_archive(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    """The same one each time, also within the folder itself, of which it is no part."""
    code, out, err = called(capsys, str(folder), "-o", str(folder / "a.zip"))
    assert (code, out) == (0, "")
    assert f"{folder}/a.zip: 2 files, 0.0 MB in 0.0 MB." in err
    first = (folder / "a.zip").read_bytes()
    called(capsys, str(folder), "-o", str(folder / "a.zip"))
    assert (folder / "a.zip").read_bytes() == first
    with zipfile.ZipFile(folder / "a.zip") as archive:
        assert archive.namelist() == ["README.txt", "a.txt", "b/c.txt", "manifest.json"]
        assert json.loads(archive.read("manifest.json"))["title"] == "Archive of scans"


def test_it_is_no_part_of_itself(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the two are named."""
    monkeypatch.chdir(folder)
    for source, output in ((".", "a.zip"), (".", "a.zip"), ("../scans", "./a.zip"), (".", str(folder / "a.zip"))):
        assert called(capsys, source, "-o", output)[0] == 0
        with zipfile.ZipFile(folder / "a.zip") as archive:
            assert archive.namelist() == ["README.txt", "a.txt", "b/c.txt", "manifest.json"]


def test_what_else_is_in_a_file_stays(tmp_path: Path) -> None:
    """Standard output is not ours to begin anew."""
    from orchestrator.cli.zipping import _Target

    with (tmp_path / "out").open("w+b") as opened:
        opened.write(b"precious")
        with pytest.raises(click.ClickException, match="Start again, or write to a file"):
            _Target(opened, may_restart=False).restart()
        assert opened.tell() == 8


def test_what_cannot_be_read_is_told(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    """Exit code 1, and the archive has the rest."""
    os.mkfifo(folder / "pipe")
    code, _, err = called(capsys, str(folder), "-o", str(tmp_path / "a.zip"))
    assert code == 1
    assert "2 files, 1 left out" in err
    assert "left out: pipe: it is no regular file" in err
    assert zipfile.ZipFile(tmp_path / "a.zip").testzip() is None


def test_objects_below_a_prefix_and_of_a_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the store that the environment names."""
    monkeypatch.setenv("OBJECTS_DIR", str(tmp_path / "objects"))
    objects = LocalObjects(tmp_path / "objects", "arke-staging")
    for key in ("in/a.txt", "in/b.txt", "other"):
        objects.put(key, key.encode(), "text/plain")
    target, keys = tmp_path / "a.zip", tmp_path / "keys"
    assert called(capsys, "in/", "-o", str(target))[0] == 0
    assert zipfile.ZipFile(target).namelist()[1:-1] == ["a.txt", "b.txt"]
    keys.write_text("other\nin/a.txt\nnone\n")
    code, _, err = called(capsys, "--keys", str(keys), "-o", str(target))
    assert code == 1
    assert "left out: none: it is not there" in err
    assert zipfile.ZipFile(target).namelist()[1:-1] == ["other", "in/a.txt"]
    code, _, err = called(capsys, "nothing/", "-o", str(tmp_path / "b.zip"))
    assert (code, (tmp_path / "b.zip").exists()) == (1, False)
    assert "There is no object whose key begins with nothing/." in err


def test_standard_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Nothing else is written there."""
    with pytest.raises(SystemExit):
        main.main(["zip", str(folder), "-o", "-"])
    out = capfdbinary.readouterr().out
    assert zipfile.ZipFile(io.BytesIO(out)).testzip() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x"], "-o"),
        (["-o", "a.zip"], "Name a folder, a prefix, or with --keys"),
        (["nowhere", "-o", "a.zip"], "There is no folder nowhere. For objects set OBJECTS_DIR"),
        ([".", "--level", "10", "-o", "a.zip"], "--level"),
        ([".", "--codec", "lzma", "-o", "a.zip"], "--codec"),
        ([".", "--keys", "none", "-o", "a.zip"], "none"),
        ([".", "-o", "."], "is a folder"),
        ([".", "-o", "none/a.zip"], "not there"),
        (["", "-o", "a.zip"], "For objects set"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    code, out, err = called(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert list(tmp_path.iterdir()) == []
