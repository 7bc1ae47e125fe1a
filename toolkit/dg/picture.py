"""A picture file as RGB: what its pixels mean, and not what is left when they are cut to 8 bits.

| in the file | becomes |
|---|---|
| 16 bits a channel | 8 bits, by the range of the format (0 to 65,535) and not by the brightest pixel |
| transparency | the picture laid on a background; where alpha is 0 everywhere, what is under it |
| palette, 1 bit, grey, YCbCr, Lab | RGB |
| CMYK | RGB, through its colour profile where it has one |
| a colour profile other than sRGB | sRGB |
| EXIF orientation | the picture the right way up |
| several frames or pages | the first |
| float, signed or 32-bit pixels | refused: nothing says which of their values is white |
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags
from PIL import Image as Pillow
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, TiffImageFile

from toolkit.dg.colours import NoProfile, to_srgb
from toolkit.dg.unreadable import Unreadable, why_not_decoded, why_not_opened

FORMATS = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "QOI", "TGA", "PCX", "SGI",
)  # fmt: skip
"""Pillow's names of the formats that are read, whatever a file is called. Not among them: documents, videos, scientific
data, and formats that Pillow hands to another program."""
READING = 2
"""Raised when files are read as other pixels than before: what was made of the former is made again."""
UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""EXIF orientation, and what undoes it."""
GREY = ("1", "L", "LA", "La")
SIGNED, WHITE_IS_ZERO = 2, 0
"""Values of TIFF's tags."""
DARK = 16
"""A picture of more than 8 bits whose brightest pixel is not above 1/DARK of the range is all but black in 8."""
WIDE = "more than 8 bits, scaled to 8"
NO_RANGE = "{kind} pixels, whose white no format defines (save it with 8 or 16 bits)"


@dataclass(frozen=True)
class Picture:
    """A picture that was read."""

    pixels: Pillow.Image
    """In RGB."""
    remarks: tuple[str, ...] = ()
    """What was done to it that its owner should know."""


@cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that Pillow can read in this installation."""
    Pillow.init()
    return tuple(name for name in FORMATS if name in Pillow.OPEN)


@cache
def suffixes() -> frozenset[str]:
    """Ends of the names of files in these formats, in lower case, with the dot."""
    known = formats()
    return frozenset(suffix for suffix, name in Pillow.registered_extensions().items() if name in known)


def can_read(kind: str) -> bool:
    """Whether Pillow reads a format here; its name is as people write it: "JPEG 2000", "WebP"."""
    return kind.replace(" ", "").upper() in formats()


@contextmanager
def unwarned() -> Iterator[None]:
    """No warnings of Pillow, of which none concerns pixels that are then used: a file that it cannot read whole is
    refused. Not for use in several threads at once: Python keeps one list of filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read(path: Path, background: str) -> Picture:
    """The picture in a file. Raises Unreadable saying why there is none. Inside `unwarned`."""
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise Unreadable("empty")
            try:
                with Pillow.open(file, formats=formats()) as image:
                    return _picture_of(image, background)
            except Pillow.DecompressionBombError as error:
                raise Unreadable(_too_large(error)) from error
            except Unreadable:
                raise
            except Exception as error:  # decoders of damaged files raise nearly anything: OSError, SyntaxError, ...
                if isinstance(error, OSError) and error.errno:
                    raise
                raise Unreadable(why_not_decoded(error, file)) from error
    except OSError as error:
        raise Unreadable(why_not_opened(error, path)) from error


def is_picture(path: Path) -> bool:
    """Whether a file begins as a picture does."""
    try:
        with unwarned(), Pillow.open(path, formats=formats()):
            return True
    except Exception:  # as above
        return False


def _too_large(error: Pillow.DecompressionBombError) -> str:
    """Only the message says how large."""
    said = [f"{int(number):,}" for number in re.findall(r"\d+", str(error))]
    return f"too large ({said[0]} pixels; at most {said[1]} are read)" if len(said) > 1 else "too large"


def _picture_of(image: ImageFile, background: str) -> Picture:
    remarks = ["the first of several frames or pages"] if _has_frames(image) else []
    _refuse_what_has_no_range(image)
    _scale_transparent_colour(image)
    wide = _is_wide(image)
    image.load()
    if image.mode.startswith("I"):
        plain, dark = _from_16_bits(image)
        remarks.append(f"more than 8 bits, of whose range only 1/{DARK} is used: all but black" if dark else WIDE)
    else:
        remarks += [WIDE] if wide else []
        alpha_too = "LA" if image.mode in GREY else "RGBA"
        plain = image.convert(alpha_too) if image.has_transparency_data else image
    pixels, alpha = _apart(plain)
    try:
        pixels = _in_srgb(pixels, image.info.get("icc_profile"))
    except NoProfile:
        pixels = pixels.convert("RGB")
        remarks.append("a colour profile that does not fit and is ignored")
    if alpha is not None and alpha.getextrema() == (0, 0):
        remarks.append("wholly transparent: read as if it were not")
    elif alpha is not None and alpha.getextrema() != (255, 255):
        pixels = Pillow.composite(pixels, Pillow.new("RGB", pixels.size, background), alpha)
        remarks.append(f"transparent, laid on {background}")
    turn = UPRIGHT.get(_orientation(image))
    return Picture(pixels if turn is None else pixels.transpose(turn), tuple(remarks))


def _apart(picture: Pillow.Image) -> tuple[Pillow.Image, Pillow.Image | None]:
    """Colours, and alpha where there is one."""
    if picture.mode not in ("LA", "RGBA"):
        return picture, None
    return picture.convert(picture.mode.removesuffix("A")), picture.getchannel("A")


def _has_frames(image: Pillow.Image) -> bool:
    """An animation, or a file of several pages; a camera's second picture (MPO) belongs to the first."""
    if image.format == "MPO":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the frames after the first are damaged, and not looked at
        return True


def _refuse_what_has_no_range(image: Pillow.Image) -> None:
    """Raises Unreadable for pixels of which no format says what is black and what is white."""
    if image.mode == "F":
        raise Unreadable(NO_RANGE.format(kind="floating-point"))
    if isinstance(image, TiffImageFile) and (image.mode == "I" or SIGNED in image.tag_v2.get(SAMPLEFORMAT, ())):
        raise Unreadable(NO_RANGE.format(kind="signed or 32-bit"))


def _is_wide(image: ImageFile) -> bool:
    """Whether a picture that is not loaded yet has more than 8 bits a channel; of JPEG 2000 and AVIF in colour, Pillow
    does not tell."""
    if isinstance(image, TiffImageFile):
        return bool(max(image.tag_v2.get(BITSPERSAMPLE, (1,))) > 8)
    codec, *_, args = image.tile[0] if image.tile else ("", "")
    if isinstance(image, PngImageFile):
        return str(args).endswith(";16B")
    return codec == "SGI16" or (codec == "ppm" and isinstance(args, tuple) and int(args[1]) > 255)


def _scale_transparent_colour(image: Pillow.Image) -> None:
    """A PNG names its transparent colour in its own bits; Pillow compares it with pixels that it has scaled to 8."""
    colour = image.info.get("transparency")
    if not isinstance(image, PngImageFile) or image.mode not in ("L", "RGB") or not isinstance(colour, int | tuple):
        return
    bits = str(image.tile[0].args).partition(";")[2].rstrip("B")  # "L;2", "RGB;16B"; "L" and "RGB" are of 8 bits
    if isinstance(colour, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in colour) if bits == "16" else colour
    elif bits:
        image.info["transparency"] = colour * 255 // (2 ** int(bits) - 1)


def _from_16_bits(image: Pillow.Image) -> tuple[Pillow.Image, bool]:
    """A grey picture of more than 8 bits as L, or as LA where a colour is transparent; whether it is all but black."""
    values = np.asarray(image).astype(np.uint32)  # [height, width], below 2**16
    top, key = 65535, image.info.get("transparency")
    if isinstance(image, TiffImageFile):
        top = 2 ** image.tag_v2[BITSPERSAMPLE][0] - 1
        if image.tag_v2[PHOTOMETRIC_INTERPRETATION] == WHITE_IS_ZERO:
            values = top - values
    grey = Pillow.fromarray(((values * 255 + top // 2) // top).astype(np.uint8))
    if isinstance(key, int):
        grey.putalpha(Pillow.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey, int(values.max()) <= top // DARK


def _in_srgb(pixels: Pillow.Image, profile: bytes | None) -> Pillow.Image:
    """A picture without alpha in RGB. Raises NoProfile where there is a profile that does not fit."""
    if pixels.mode not in ("L", "CMYK"):
        pixels = pixels.convert("RGB")
    return to_srgb(pixels, profile) if profile else pixels.convert("RGB")


def _orientation(image: Pillow.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # what else a camera has noted may be damaged; the pixels are whole
        return 1
