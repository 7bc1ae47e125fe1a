"""What each mode of pixels means. Files that Pillow cannot write are written here, byte by byte."""

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

from toolkit.dg import picture
from toolkit.dg.unreadable import Unreadable

WIDE, LAID = "more than 8 bits, scaled to 8", "transparent, laid on white"
WHITE, BLACK, RED, GREEN, BLUE = (255,) * 3, (0,) * 3, (255, 0, 0), (0, 255, 0), (0, 0, 255)
CYAN, HALF_GREEN = (0, 255, 255), (127, 255, 127)
RAMP = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
GREYS = [BLACK, (1, 1, 1), (128, 128, 128), WHITE]


def saved(image: Pillow.Image, kind: str, **more: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **more)
    return content.getvalue()


def png(bits: int, colours: int, width: int, row: bytes, **chunks: bytes) -> bytes:
    """One row of pixels."""
    header = struct.pack(">IIBBBBB", width, 1, bits, colours, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(b"\0" + row), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name.encode() + part + struct.pack(">I", zlib.crc32(name.encode() + part))
        for name, part in parts.items()
    )


def tiff(bits: int, number: int, photometric: int, pixels: bytes, width: int = 4) -> bytes:
    """One row of grey pixels; `number` is 1 for unsigned, 2 for signed, 3 for floating-point ones."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 200, 277: 1, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in {**tags, 339: number}.items())
    return (struct.pack("<2sHIH", b"II", 42, 8, 10) + entries + bytes(4)).ljust(200, b"\0") + pixels


def tiff48(*colour: int) -> bytes:
    """One pixel of 16 bits a channel."""
    tags = {256: 1, 257: 1, 259: 1, 262: 2, 273: 250, 277: 3, 278: 1, 279: 6}
    entries = {tag: struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items()}
    entries[258] = struct.pack("<HHII", 258, 3, 3, 200)
    head = struct.pack("<2sHIH", b"II", 42, 8, 9) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    return (head.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16)).ljust(250, b"\0") + struct.pack("<3H", *colour)


def bmp565(pixel: int) -> bytes:
    """One pixel of 5 bits for red, 6 for green and 5 for blue."""
    header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0) + struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    return b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + header + struct.pack("<H2x", pixel)


def rgba() -> Pillow.Image:
    """Red that is not there, half of green, blue, black."""
    pixels = [[[255, 0, 0, 0], [0, 255, 0, 128], [0, 0, 255, 255], [0, 0, 0, 255]]]
    return Pillow.fromarray(np.array(pixels, dtype=np.uint8))


ON_WHITE = [WHITE, HALF_GREEN, BLUE, BLACK]
KEYED = {"PLTE": bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0])}
MEANT: dict[str, tuple[bytes, list[tuple[int, ...]], tuple[str, ...]]] = {
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
        (WIDE, LAID),
    ),
    "16-bit grey and alpha PNG": (png(16, 4, 2, struct.pack(">4H", 0, 0, 0, 65535)), [WHITE, BLACK], (WIDE, LAID)),
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
    "16 bits a pixel, BMP": (bmp565(0b11111_000000_00000), [RED], ()),
    "2-bit PNG, black transparent": (
        png(2, 0, 4, bytes([0b00011011]), tRNS=struct.pack(">H", 0)),
        [WHITE, (85,) * 3, (170,) * 3, WHITE],
        (LAID,),
    ),
    "4-bit PNG, one grey transparent": (
        png(4, 0, 4, bytes([0x0A, 0xA3]), tRNS=struct.pack(">H", 10)),
        [BLACK, WHITE, WHITE, (51,) * 3],
        (LAID,),
    ),
    "1-bit PNG, black transparent": (
        png(1, 0, 4, bytes([0b01010000]), tRNS=struct.pack(">H", 0)), [WHITE] * 4, (LAID,)
    ),
    "48-bit PNG, blue transparent": (
        png(16, 2, 2, struct.pack(">6H", 0, 0, 65535, 65535, 0, 0), tRNS=struct.pack(">3H", 0, 0, 65535)),
        [WHITE, RED],
        (WIDE, LAID),
    ),
    "palette with alpha": (
        png(8, 3, 4, bytes([0, 1, 2, 3]), **KEYED, tRNS=bytes([0, 128])), ON_WHITE, (LAID,)
    ),
    "palette": (png(8, 3, 4, bytes([0, 1, 2, 3]), **KEYED), [RED, GREEN, BLUE, BLACK], ()),
    "RGBA PNG": (saved(rgba(), "PNG"), ON_WHITE, (LAID,)),
    "RGBA WebP": (saved(rgba(), "WEBP", lossless=True), ON_WHITE, (LAID,)),
    "LA PNG": (png(8, 4, 2, bytes([0, 0, 0, 255])), [WHITE, BLACK], (LAID,)),
    "opaque RGBA": (saved(Pillow.new("RGBA", (1, 1), RED), "PNG"), [RED], ()),
    "alpha that is not used": (
        saved(Pillow.new("RGBA", (1, 1), (*RED, 0)), "TGA"), [RED], ("wholly transparent: read as if it were not",)
    ),
    "CMYK TIFF": (saved(Pillow.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), [CYAN], ()),
    "CMYK JPEG, inverted as Adobe's": (saved(Pillow.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"), [CYAN] * 4, ()),
    "Lab": (
        saved(Pillow.frombytes("LAB", (3, 1), bytes([255, 0, 0, 0, 0, 0, 136, 80, 67])), "TIFF"),
        [WHITE, BLACK, (251, 3, 11)],
        (),
    ),
    "animation": (
        saved(Pillow.new("RGB", (1, 1), RED), "GIF", save_all=True, append_images=[Pillow.new("RGB", (1, 1), BLUE)]),
        [RED],
        ("the first of several frames or pages",),
    ),
    "pages": (
        saved(Pillow.new("RGB", (1, 1), RED), "TIFF", save_all=True, append_images=[Pillow.new("RGB", (1, 1), BLUE)]),
        [RED],
        ("the first of several frames or pages",),
    ),
    "two pictures of one camera": (
        saved(Pillow.new("L", (8, 8), 255), "MPO", save_all=True, append_images=[Pillow.new("L", (8, 8))]), [WHITE], ()
    ),
    "12 bits in 16": (
        saved(Pillow.fromarray(RAMP // 16), "PNG"),
        [BLACK, BLACK, (8, 8, 8), (16, 16, 16)],
        ("more than 8 bits, of whose range only 1/16 is used: all but black",),
    ),
}  # fmt: skip


def read(content: bytes, folder: Path, background: str = "white") -> picture.Picture:
    file = folder / "image"
    file.write_bytes(content)
    return picture.read(file, background)


def pixels_of(found: picture.Picture) -> list[tuple[int, ...]]:
    """The first row, four at most."""
    assert found.pixels.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(found.pixels)[0, :4].tolist()]


@pytest.mark.parametrize("name", MEANT)
def test_pixels_are_what_the_file_means(name: str, tmp_path: Path) -> None:
    content, expected, remarks = MEANT[name]
    with picture.unwarned():
        found = read(content, tmp_path)
    assert np.abs(np.subtract(pixels_of(found)[: len(expected)], expected)).max() <= 1
    assert found.remarks == remarks


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
def test_numbers_without_a_range_are_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="whose white no format defines"):
        read(content, tmp_path)


def test_the_background_is_a_choice(tmp_path: Path) -> None:
    assert pixels_of(read(saved(rgba(), "PNG"), tmp_path, "black")) == [BLACK, (0, 128, 0), BLUE, BLACK]


@pytest.mark.parametrize("orientation", range(9))
def test_a_camera_s_orientation_is_undone(orientation: int, tmp_path: Path) -> None:
    upright = Pillow.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 9)
    lying = dict(zip(range(2, 9), (0, 3, 1, 5, 2, 6, 4), strict=True))
    turned = upright.transpose(Pillow.Transpose(lying[orientation])) if orientation in lying else upright
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        assert read(saved(turned, kind, exif=exif), tmp_path).pixels.tobytes() == upright.tobytes()


def test_damaged_notes_of_a_camera_do_no_harm(tmp_path: Path) -> None:
    content = saved(Pillow.new("RGB", (8, 8), RED), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with picture.unwarned():
        assert pixels_of(read(content, tmp_path)) == [RED] * 4


def test_ordinary_pictures_stay_bit_for_bit(tmp_path: Path) -> None:
    noise = Pillow.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind, more in (("PNG", {}), ("JPEG", {}), ("JPEG", {"icc_profile": srgb}), ("PNG", {"icc_profile": srgb})):
        content = saved(noise, kind, **more)
        plain = Pillow.open(io.BytesIO(content)).convert("RGB")
        assert read(content, tmp_path).pixels.tobytes() == plain.tobytes()


def test_pillow_s_warnings_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.dg.image import Image

    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 3)  # four are worth a warning, and more than six are refused
    file = tmp_path / "a.png"
    file.write_bytes(MEANT["palette with alpha"][0])
    assert Image("a", "a", 0, file).decode().size == (4, 1)
