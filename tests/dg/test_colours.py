"""Conversion to sRGB, with colour profiles that are written here tag by tag (ICC.1:2001-04)."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image as Pillow

from toolkit.dg.colours import UnusableProfile, to_srgb

ADOBE = {"r": (0.60974, 0.31111, 0.01947), "g": (0.20528, 0.62567, 0.06087), "b": (0.14919, 0.06322, 0.74457)}
"""Primaries of Adobe RGB (1998), adapted to D50."""
D50 = (0.9642, 1.0, 0.8249)


def profile(space: bytes, connection: bytes, **tags: bytes) -> bytes:
    tags = {"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x" + bytes(80), "wtpt": numbers(b"XYZ ", D50), **tags}
    table, content = b"", b""
    for name, tag in tags.items():
        table += name.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    body = struct.pack(">I", len(tags)) + table + content
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), bytes(4), 0x02400000, b"prtr", space, connection)
    return (head + bytes(12) + b"acsp" + bytes(28) + numbers(b"", D50)[4:]).ljust(128, b"\0") + body


def numbers(kind: bytes, values: tuple[float, ...]) -> bytes:
    return kind + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def gamma(power: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(power * 256))


ADOBE_RGB = profile(
    b"RGB ",
    b"XYZ ",
    **{f"{one}XYZ": numbers(b"XYZ ", values) for one, values in ADOBE.items()},
    **{f"{one}TRC": gamma(2.2) for one in ADOBE},
)
LINEAR_GREY = profile(b"GRAY", b"XYZ ", kTRC=gamma(1.0))
PAPER, BLUISH, DARK = [255, 128, 128], [128, 138, 90], [0, 128, 128]  # Lab
BLUISH_INK = profile(  # of the 16 corners of the CMYK cube, only magenta is bluish
    b"CMYK",
    b"Lab ",
    A2B0=b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + numbers(b"", (1, 0, 0, 0, 1, 0, 0, 0, 1))[4:]
    + bytes(range(256)) * 4 + bytes(PAPER + 3 * DARK + BLUISH + 11 * DARK) + bytes(range(256)) * 3,
)  # fmt: skip


def converted(mode: str, pixel: tuple[int, ...], icc: bytes) -> list[int]:
    rgb: list[int] = np.asarray(to_srgb(Pillow.new(mode, (1, 1), pixel), icc))[0, 0].tolist()
    return rgb


def test_a_wide_gamut_is_converted_to_srgb() -> None:
    linear = np.array([200, 50, 50]) / 255
    xyz = np.array(list(ADOBE.values())).T @ linear ** (563 / 256)  # gamma as rounded in the profile
    srgb = np.array([[3.13386, -1.61687, -0.49061], [-0.97877, 1.91614, 0.03345], [0.07195, -0.22899, 1.40524]]) @ xyz
    expected = 255 * np.where(srgb > 0.0031308, 1.055 * np.maximum(srgb, 0) ** (1 / 2.4) - 0.055, 12.92 * srgb)
    assert np.abs(converted("RGB", (200, 50, 50), ADOBE_RGB) - expected).max() <= 1
    assert converted("RGB", (255, 255, 255), ADOBE_RGB) == [255, 255, 255]


def test_a_grey_profile_applies_to_grey_images_only() -> None:
    assert converted("L", (55,), LINEAR_GREY) == [128] * 3
    with pytest.raises(UnusableProfile):
        converted("RGB", (55, 55, 55), LINEAR_GREY)


def test_an_rgb_profile_applies_to_grey_images() -> None:
    assert converted("L", (128,), ADOBE_RGB) == converted("RGB", (128,) * 3, ADOBE_RGB)


def test_cmyk_is_converted_through_its_profile() -> None:
    assert converted("CMYK", (0, 0, 0, 0), BLUISH_INK) == [255, 255, 255]
    red, green, blue = converted("CMYK", (0, 255, 0, 0), BLUISH_INK)
    assert blue > red + 40
    assert blue > green + 40


@pytest.mark.parametrize("icc", [b"", b"no profile", ADOBE_RGB[:200], profile(b"Lab ", b"XYZ "), BLUISH_INK])
def test_a_profile_that_does_not_match_is_unusable(icc: bytes) -> None:
    with pytest.raises(UnusableProfile):
        converted("RGB", (1, 2, 3), icc)
