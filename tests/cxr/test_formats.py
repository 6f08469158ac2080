"""Pictures are PNG, JPEG, GIF or BMP, whatever else the name hides."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctglip.cxr.io import read_radiograph
from ctglip.cxr.recipe import CxrRecipe
from ctglip.errors import ScanError

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(x) run\n%%EOF\n"
PIXELS = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("content", [POSTSCRIPT, picture("TIFF"), picture("WEBP")])
def test_other_formats_are_not_opened(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: pytest.fail("started a program"))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ScanError) as caught:
        read_radiograph(tmp_path / "a.png", CxrRecipe())
    assert caught.value.code == "not_an_image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_named_formats_are(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(kind))
    assert read_radiograph(tmp_path / "a.png", CxrRecipe())[0].pixels.shape == (64, 64)


def test_a_small_file_of_a_huge_picture_is_refused(tmp_path: Path) -> None:
    data = bytearray(picture("PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ScanError):
        read_radiograph(tmp_path / "a.png", CxrRecipe())
