"""Decoding of all pixel formats. Files that Pillow cannot write are written here byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageCms

from toolkit.dg import decoding
from toolkit.dg.unreadable import Unreadable

WIDE, COMPOSITED = "more than 8 bits per channel, scaled to 8", "transparent, composited on white"
WHITE, BLACK, RED, GREEN, BLUE = (255,) * 3, (0,) * 3, (255, 0, 0), (0, 255, 0), (0, 0, 255)
CYAN, HALF_GREEN = (0, 255, 255), (127, 255, 127)
RAMP = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
GREYS = [BLACK, (1, 1, 1), (128, 128, 128), WHITE]


def saved(image: Pillow.Image, kind: str, **more: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **more)
    return content.getvalue()


def png(bits: int, colours: int, width: int, row: bytes, **chunks: bytes) -> bytes:
    """A PNG file with one row of pixels."""
    header = struct.pack(">IIBBBBB", width, 1, bits, colours, 0, 0, 0)
    all_chunks = {"IHDR": header, **chunks, "IDAT": zlib.compress(b"\0" + row), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name.encode() + data + struct.pack(">I", zlib.crc32(name.encode() + data))
        for name, data in all_chunks.items()
    )


def tiff(bits: int, sample_format: int, photometric: int, pixels: bytes, width: int = 4) -> bytes:
    """A TIFF file with one row of grey pixels; `sample_format`: 1 unsigned, 2 signed, 3 floating-point."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 200, 277: 1, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in {**tags, 339: sample_format}.items())
    return (struct.pack("<2sHIH", b"II", 42, 8, 10) + entries + bytes(4)).ljust(200, b"\0") + pixels


def tiff48(*colour: int) -> bytes:
    """A TIFF file with one RGB pixel of 16 bits per channel."""
    tags = {256: 1, 257: 1, 259: 1, 262: 2, 273: 250, 277: 3, 278: 1, 279: 6}
    entries = {tag: struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items()}
    entries[258] = struct.pack("<HHII", 258, 3, 3, 200)
    head = struct.pack("<2sHIH", b"II", 42, 8, 9) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return (head.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16)).ljust(250, b"\0") + struct.pack("<3H", *colour)


def bmp565(pixel: int) -> bytes:
    """A BMP file with one pixel of 5 bits red, 6 bits green and 5 bits blue."""
    header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0) + struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    return b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + header + struct.pack("<H2x", pixel)


def rgba() -> Pillow.Image:
    """Four pixels: transparent red, half-transparent green, opaque blue, opaque black."""
    pixels = [[[255, 0, 0, 0], [0, 255, 0, 128], [0, 0, 255, 255], [0, 0, 0, 255]]]
    return Pillow.fromarray(np.array(pixels, dtype=np.uint8))


ON_WHITE = [WHITE, HALF_GREEN, BLUE, BLACK]
KEYED = {"PLTE": bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0])}
CASES: dict[str, tuple[bytes, list[tuple[int, ...]], tuple[str, ...]]] = {
    "16-bit PNG": (saved(Pillow.fromarray(RAMP), "PNG"), GREYS, (WIDE,)),
    "16-bit TIFF": (saved(Pillow.fromarray(RAMP), "TIFF"), GREYS, (WIDE,)),
    "16-bit JPEG 2000": (saved(Pillow.fromarray(RAMP), "JPEG2000"), GREYS, (WIDE,)),
    "16-bit PGM": (b"P5 4 1 65535\n" + RAMP.astype(">u2").tobytes(), GREYS, (WIDE,)),
    "12-bit TIFF": (tiff(12, 1, 1, bytes.fromhex("000010808fff")), GREYS, (WIDE,)),
    "16-bit TIFF, 0 is white": (tiff(16, 1, 0, (65535 - RAMP).tobytes()), GREYS, (WIDE,)),
    "8-bit TIFF, 0 is white": (tiff(8, 1, 0, bytes([255, 254, 127, 0])), GREYS, ()),
    "16-bit PNG, one grey transparent": (
        png(16, 0, 4, RAMP.astype(">u2").tobytes(), tRNS=struct.pack(">H", 257)),
        [BLACK, WHITE, (128, 128, 128), WHITE],
        (WIDE, COMPOSITED),
    ),
    "16-bit LA PNG": (png(16, 4, 2, struct.pack(">4H", 0, 0, 0, 65535)), [WHITE, BLACK], (WIDE, COMPOSITED)),
    "48-bit PNG": (png(16, 2, 1, struct.pack(">3H", 65535, 0, 0)), [RED], (WIDE,)),
    "64-bit PNG": (png(16, 6, 1, struct.pack(">4H", 65535, 0, 0, 65535)), [RED], (WIDE,)),
    "48-bit TIFF": (tiff48(65535, 0, 0), [RED], (WIDE,)),
    "48-bit PPM": (b"P6 1 1 65535\n" + struct.pack(">3H", 65535, 0, 0), [RED], (WIDE,)),
    "24-bit PPM": (b"P6 1 1 255\n" + bytes(RED), [RED], ()),
    "48-bit SGI": (
        struct.pack(">h2B4H2i404x", 474, 0, 2, 3, 1, 1, 3, 0, 65535).ljust(512, b"\0")
        + struct.pack(">3H", 65535, 0, 0),
        [RED],
        (WIDE,),
    ),
    "16-bit BMP": (bmp565(0b11111_000000_00000), [RED], ()),
    "2-bit PNG, black transparent": (
        png(2, 0, 4, bytes([0b00011011]), tRNS=struct.pack(">H", 0)),
        [WHITE, (85,) * 3, (170,) * 3, WHITE],
        (COMPOSITED,),
    ),
    "4-bit PNG, one grey transparent": (
        png(4, 0, 4, bytes([0x0A, 0xA3]), tRNS=struct.pack(">H", 10)),
        [BLACK, WHITE, WHITE, (51,) * 3],
        (COMPOSITED,),
    ),
    "1-bit PNG, black transparent": (
        png(1, 0, 4, bytes([0b01010000]), tRNS=struct.pack(">H", 0)), [WHITE] * 4, (COMPOSITED,)
    ),
    "48-bit PNG, blue transparent": (
        png(16, 2, 2, struct.pack(">6H", 0, 0, 65535, 65535, 0, 0), tRNS=struct.pack(">3H", 0, 0, 65535)),
        [WHITE, RED],
        (WIDE, COMPOSITED),
    ),
    "palette with alpha": (
        png(8, 3, 4, bytes([0, 1, 2, 3]), **KEYED, tRNS=bytes([0, 128])), ON_WHITE, (COMPOSITED,)
    ),
    "palette": (png(8, 3, 4, bytes([0, 1, 2, 3]), **KEYED), [RED, GREEN, BLUE, BLACK], ()),
    "RGBA PNG": (saved(rgba(), "PNG"), ON_WHITE, (COMPOSITED,)),
    "RGBA WebP": (saved(rgba(), "WEBP", lossless=True), ON_WHITE, (COMPOSITED,)),
    "LA PNG": (png(8, 4, 2, bytes([0, 0, 0, 255])), [WHITE, BLACK], (COMPOSITED,)),
    "opaque RGBA": (saved(Pillow.new("RGBA", (1, 1), RED), "PNG"), [RED], ()),
    "unused alpha": (
        saved(Pillow.new("RGBA", (1, 1), (*RED, 0)), "TGA"), [RED], ("fully transparent: alpha is ignored",)
    ),
    "CMYK TIFF": (saved(Pillow.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), [CYAN], ()),
    "CMYK JPEG, inverted like Adobe's": (saved(Pillow.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"), [CYAN] * 4, ()),
    "Lab": (
        saved(Pillow.frombytes("LAB", (3, 1), bytes([255, 0, 0, 0, 0, 0, 136, 80, 67])), "TIFF"),
        [WHITE, BLACK, (251, 3, 11)],
        (),
    ),
    "animation": (
        saved(Pillow.new("RGB", (1, 1), RED), "GIF", save_all=True, append_images=[Pillow.new("RGB", (1, 1), BLUE)]),
        [RED],
        ("only the first of several frames or pages is used",),
    ),
    "pages": (
        saved(Pillow.new("RGB", (1, 1), RED), "TIFF", save_all=True, append_images=[Pillow.new("RGB", (1, 1), BLUE)]),
        [RED],
        ("only the first of several frames or pages is used",),
    ),
    "MPO of a camera": (
        saved(Pillow.new("L", (8, 8), 255), "MPO", save_all=True, append_images=[Pillow.new("L", (8, 8))]), [WHITE], ()
    ),
    "12 bits in 16": (
        saved(Pillow.fromarray(RAMP // 16), "PNG"),
        [BLACK, BLACK, (8, 8, 8), (16, 16, 16)],
        ("more than 8 bits per channel, but only 1/16 of the range is used: nearly black",),
    ),
}  # fmt: skip


def decode(content: bytes, folder: Path, background: str = "white") -> decoding.DecodedImage:
    file = folder / "image"
    file.write_bytes(content)
    return decoding.decode(file, background)


def pixels_of(image: decoding.DecodedImage) -> list[tuple[int, ...]]:
    """The first pixels of the first row, at most four."""
    assert image.pixels.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image.pixels)[0, :4].tolist()]


@pytest.mark.parametrize("name", CASES)
def test_pixels_of_every_format(name: str, tmp_path: Path) -> None:
    content, expected, remarks = CASES[name]
    with decoding.without_warnings():
        image = decode(content, tmp_path)
    assert np.abs(np.subtract(pixels_of(image)[: len(expected)], expected)).max() <= 1
    assert image.remarks == remarks


@pytest.mark.parametrize(
    "content",
    [
        tiff(32, 3, 1, np.ones(4, dtype=np.float32).tobytes()),
        tiff(32, 1, 1, bytes(16)),
        tiff(16, 2, 1, bytes(8)),
        tiff(8, 2, 1, bytes(4)),
        b"Pf\n1 1\n-1.0\n" + bytes(4),
    ],
)
def test_pixels_without_a_defined_range_are_unreadable(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="without a defined white level"):
        decode(content, tmp_path)


def test_the_background_can_be_chosen(tmp_path: Path) -> None:
    assert pixels_of(decode(saved(rgba(), "PNG"), tmp_path, "black")) == [BLACK, (0, 128, 0), BLUE, BLACK]


@pytest.mark.parametrize("orientation", range(9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = Pillow.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 9)
    transpositions = dict(zip(range(2, 9), (0, 3, 1, 5, 2, 6, 4), strict=True))
    rotated = (
        upright.transpose(Pillow.Transpose(transpositions[orientation])) if orientation in transpositions else upright
    )
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        assert decode(saved(rotated, kind, exif=exif), tmp_path).pixels.tobytes() == upright.tobytes()


def test_damaged_exif_data_is_ignored(tmp_path: Path) -> None:
    content = saved(Pillow.new("RGB", (8, 8), RED), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with decoding.without_warnings():
        assert pixels_of(decode(content, tmp_path)) == [RED] * 4


def test_8_bit_srgb_images_are_decoded_bit_exactly(tmp_path: Path) -> None:
    noise = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind, more in (("PNG", {}), ("JPEG", {}), ("JPEG", {"icc_profile": srgb}), ("PNG", {"icc_profile": srgb})):
        content = saved(noise, kind, **more)
        expected = Pillow.open(io.BytesIO(content)).convert("RGB")
        assert decode(content, tmp_path).pixels.tobytes() == expected.tobytes()


def test_pillow_s_warnings_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.dg.image import Image

    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 3)  # Pillow warns of more than 3 pixels, and refuses more than 6
    file = tmp_path / "a.png"
    file.write_bytes(CASES["palette with alpha"][0])
    assert Image("a", "a", 0, file).decode().size == (4, 1)
