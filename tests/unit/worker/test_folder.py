"""Which files are found, where their JPEGs go, and what is told before anything is done."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.folder import conflicts, find, shown

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes empty files, with their folders, and returns the folder of all."""

    def make(*names: str) -> Path:
        root = tmp_path / "in"
        root.mkdir(exist_ok=True)
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        return root

    return make


def pairs(root: Path, results: Path | None = None) -> list[tuple[str, str]]:
    below = results or root
    jobs = find([root], results).jobs
    return [(str(job.source.relative_to(root)), str(job.target.relative_to(below))) for job in jobs]


def test_tiffs_are_known_by_their_ending_in_any_case(tree: Tree) -> None:
    """.tif and .tiff, in any case, at any depth; nothing else, and not what macOS leaves beside a file."""
    root = tree("a.tif", "B.TIFF", "c.Tif", "d/e/f.tiff", "x.jpg", "tif", "y.tif.txt", "._a.tif")
    assert pairs(root) == [("B.TIFF", "B.jpg"), ("a.tif", "a.jpg"), ("c.Tif", "c.jpg"), ("d/e/f.tiff", "d/e/f.jpg")]


def test_the_results_keep_the_folders(tree: Tree, tmp_path: Path) -> None:
    """With a folder for the results, each stands there at the place that its TIFF has below the source."""
    root = tree("a.tif", "d/e/f.tiff")
    assert pairs(root, tmp_path / "out") == [("a.tif", "a.jpg"), ("d/e/f.tiff", "d/e/f.jpg")]


def test_a_file_that_is_named_is_taken_whatever_its_ending(tree: Tree, tmp_path: Path) -> None:
    """Its JPEG gets `.jpg` appended, so that nothing is replaced."""
    root = tree("scan.bin", "photo.jpg")
    jobs = find([root / "scan.bin", root / "photo.jpg"]).jobs
    assert [job.target.name for job in jobs] == ["scan.bin.jpg", "photo.jpg.jpg"]
    (only,) = find([root / "scan.bin"], tmp_path / "out").jobs
    assert only.target == tmp_path / "out" / "scan.bin.jpg"


def test_a_file_that_is_met_twice_counts_once(tree: Tree) -> None:
    """Named itself, within a folder, and by another way to the same folder: one job."""
    root = tree("a.tif", "d/b.tif")
    found = find([root, root / "a.tif", root / "d" / ".." / "a.tif", root / "d"])
    assert [job.source.name for job in found.jobs] == ["a.tif", "b.tif"]
    assert conflicts(found.jobs) == []


def test_links_to_folders_are_told_and_not_followed(tree: Tree) -> None:
    """A loop of links ends nothing and repeats nothing; links to files are followed."""
    root = tree("a.tif", "d/b.tif")
    (root / "d" / "loop").symlink_to(root, target_is_directory=True)
    (root / "link.tif").symlink_to(root / "a.tif")
    found = find([root])
    assert [job.source.name for job in found.jobs] == ["a.tif", "link.tif", "b.tif"]
    assert found.links == [root / "d" / "loop"]


def test_a_link_that_is_named_is_followed(tree: Tree, tmp_path: Path) -> None:
    """Whoever names a link means the folder."""
    tree("a.tif")
    (tmp_path / "link").symlink_to(tmp_path / "in", target_is_directory=True)
    assert [job.source for job in find([tmp_path / "link"]).jobs] == [tmp_path / "link" / "a.tif"]


def test_the_folder_of_the_results_is_no_source(tree: Tree) -> None:
    """It may lie within a source; what it holds is not converted. It may also be the source itself."""
    root = tree("a.tif", "out/old.tif")
    assert pairs(root, root / "out") == [("a.tif", "a.jpg")]
    assert pairs(root, root) == [("a.tif", "a.jpg"), ("out/old.tif", "out/old.jpg")]


def test_two_tiffs_that_would_become_one_jpeg_are_told(tree: Tree, tmp_path: Path) -> None:
    """Within a folder, and from two folders into one; each pair in a sentence."""
    root = tree("a.tif", "a.tiff", "d/a.tif")
    first, second = find([root]).jobs[:2]
    assert conflicts(find([root]).jobs) == [f"{first.source} and {second.source} would both become {root / 'a.jpg'}"]
    assert len(conflicts(find([root, root / "d"], tmp_path / "out").jobs)) == 2


def test_a_jpeg_that_would_replace_a_source_is_told(tree: Tree) -> None:
    """`a.tif` must not overwrite the `a.jpg` that is to be converted itself."""
    root = tree("a.tif", "a.jpg")
    (sentence,) = conflicts(find([root, root / "a.jpg"]).jobs)
    assert sentence == f"{root / 'a.tif'} would become {root / 'a.jpg'}, which is to be converted itself"


def test_a_folder_that_cannot_be_read_is_a_problem(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with the system's reason, and the others are read."""
    root = tree("a.tif", "closed/b.tif")
    scan = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find([root])
    assert [job.source.name for job in found.jobs] == ["a.tif"]
    (problem,) = found.problems
    assert (problem.path, problem.sentence) == (root / "closed", "The folder cannot be read: Permission denied")


@pytest.mark.parametrize(
    ("name", "line"),
    [("a b", "a b"), ("é€.tif", "é€.tif"), ("a\nb", r"a\nb"), ("\x1b[31m", r"\x1b[31m"), ("x\udcff", r"x\xff")],
)
def test_every_name_is_shown_on_one_line(name: str, line: str) -> None:
    """Line breaks, escape sequences and bytes that are no UTF-8 are escaped; letters are not."""
    assert shown(Path(name)) == line
