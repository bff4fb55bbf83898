"""The encoders."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from worker import jpeg, vips
from worker.errors import BadInput, WorkerError


def test_jpegli_makes_the_same_picture(tmp_path: Path) -> None:
    """Alpha is flattened on black as mozjpeg's saver does; the file is progressive and has no metadata."""
    pytest.importorskip("pyjpegli")
    pytest.importorskip("mozjpeg_lossless_optimization")
    half = [220, 20, 20, 128]
    image = vips.load().Image.black(64, 48).new_from_image(half).copy(interpretation="srgb")
    size = jpeg.encode(image, tmp_path / "t.jpg", encoder=jpeg.JPEGLI)
    assert size == (tmp_path / "t.jpg").stat().st_size
    with Image.open(tmp_path / "t.jpg") as picture:
        assert (picture.size, picture.mode, picture.info.get("progressive")) == ((64, 48), "RGB", 1)
        pixel = picture.getpixel((30, 30))
    assert isinstance(pixel, tuple)
    assert all(abs(one - other) <= 3 for one, other in zip(pixel, (110, 10, 10), strict=True))


def test_jpegli_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the extra."""
    monkeypatch.setitem(sys.modules, "pyjpegli", None)
    image = vips.load().Image.black(8, 8, bands=3)
    with pytest.raises(WorkerError, match=r"pip install 'arke-orchestrator\[jpegli\]'"):
        jpeg.encode(image, tmp_path / "t.jpg", encoder=jpeg.JPEGLI)


@pytest.mark.parametrize(("quality", "encoder"), [(0, "mozjpeg"), (101, "mozjpeg"), (95, "webp")])
def test_other_values_are_refused(quality: int, encoder: str) -> None:
    """Before anything is decoded."""
    with pytest.raises(BadInput, match="JPEG_"):
        jpeg.check(quality, encoder)
