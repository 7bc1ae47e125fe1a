"""Decode image files to 8-bit sRGB.

| in the file | result |
|---|---|
| 16 bits per channel | scaled from the range of the format (0 to 65,535) to 8 bits, not truncated or normalised |
| transparency | composited on a background; alpha is ignored if it is 0 everywhere |
| palette, 1 bit, grey, YCbCr, Lab | RGB |
| CMYK | RGB, through the colour profile if there is one |
| colour profile other than sRGB | sRGB |
| EXIF orientation | applied |
| several frames or pages | the first one |
| float, signed or 32-bit pixels | refused: their white level is not defined |
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

from toolkit.dg.colours import UnusableProfile, to_srgb
from toolkit.dg.unreadable import Unreadable, decode_failure, open_failure

FORMATS = (
    "JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "QOI", "TGA", "PCX", "SGI",
)  # fmt: skip
"""Supported formats, by Pillow's names and regardless of suffixes. Excludes documents, videos, scientific data, and
formats that Pillow passes to external programs."""
DECODER_VERSION = 2
"""Increased when files decode to other pixels, so that results of earlier versions are out of date."""
TRANSPOSITIONS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""Transposition that undoes each EXIF orientation."""
GREY = ("1", "L", "LA", "La")
SIGNED, WHITE_IS_ZERO = 2, 0
"""Values of TIFF tags: SampleFormat and PhotometricInterpretation."""
DARK = 16
"""An image of more than 8 bits that uses at most 1/DARK of the range is nearly black in 8 bits."""
WIDE = "more than 8 bits per channel, scaled to 8"
NO_RANGE = "{kind} pixels without a defined white level (save it with 8 or 16 bits per channel)"


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image file."""

    pixels: Pillow.Image
    """RGB."""
    remarks: tuple[str, ...] = ()
    """Conversions that the user should know about."""


@cache
def formats() -> tuple[str, ...]:
    """The FORMATS that this installation of Pillow can read."""
    Pillow.init()
    return tuple(name for name in FORMATS if name in Pillow.OPEN)


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of these formats, in lower case, with the dot."""
    readable = formats()
    return frozenset(suffix for suffix, name in Pillow.registered_extensions().items() if name in readable)


def is_supported(kind: str) -> bool:
    """Whether this installation of Pillow reads the format with this common name: "JPEG 2000", "WebP"."""
    return kind.replace(" ", "").upper() in formats()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Hide Pillow's warnings: none concerns pixels that are used, as incompletely readable files are refused.

    Not thread-safe, because warning filters are global to the process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(path: Path, background: str) -> DecodedImage:
    """Decode an image file. Raises Unreadable with the reason. Call it inside `without_warnings`."""
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise Unreadable("empty")
            try:
                with Pillow.open(file, formats=formats()) as image:
                    return _to_rgb(image, background)
            except Pillow.DecompressionBombError as error:
                raise Unreadable(_too_large(error)) from error
            except Unreadable:
                raise
            except Exception as error:  # decoders raise nearly anything for damaged files: OSError, SyntaxError, ...
                if isinstance(error, OSError) and error.errno:
                    raise
                raise Unreadable(decode_failure(error, file)) from error
    except OSError as error:
        raise Unreadable(open_failure(error, path)) from error


def is_image(path: Path) -> bool:
    """Whether Pillow recognises the header of a file."""
    try:
        with without_warnings(), Pillow.open(path, formats=formats()):
            return True
    except Exception:  # decoders raise nearly anything
        return False


def _too_large(error: Pillow.DecompressionBombError) -> str:
    """Reason with the number of pixels, which only the message has."""
    numbers = [f"{int(number):,}" for number in re.findall(r"\d+", str(error))]
    return f"too large ({numbers[0]} pixels, limit {numbers[1]})" if len(numbers) > 1 else "too large"


def _to_rgb(image: ImageFile, background: str) -> DecodedImage:
    remarks = ["only the first of several frames or pages is used"] if _has_frames(image) else []
    _check_range(image)
    _scale_transparent_colour(image)
    wide = _is_wide(image)
    image.load()
    if image.mode.startswith("I"):
        plain, dark = _from_16_bits(image)
        remarks.append(
            f"more than 8 bits per channel, but only 1/{DARK} of the range is used: nearly black" if dark else WIDE
        )
    else:
        remarks += [WIDE] if wide else []
        with_alpha = "LA" if image.mode in GREY else "RGBA"
        plain = image.convert(with_alpha) if image.has_transparency_data else image
    pixels, alpha = _split_alpha(plain)
    try:
        pixels = _in_srgb(pixels, image.info.get("icc_profile"))
    except UnusableProfile:
        pixels = pixels.convert("RGB")
        remarks.append("colour profile does not match the pixels and is ignored")
    if alpha is not None and alpha.getextrema() == (0, 0):
        remarks.append("fully transparent: alpha is ignored")
    elif alpha is not None and alpha.getextrema() != (255, 255):
        pixels = Pillow.composite(pixels, Pillow.new("RGB", pixels.size, background), alpha)
        remarks.append(f"transparent, composited on {background}")
    transposition = TRANSPOSITIONS.get(_orientation(image))
    upright = pixels if transposition is None else pixels.transpose(transposition)
    return DecodedImage(upright, tuple(remarks))


def _split_alpha(image: Pillow.Image) -> tuple[Pillow.Image, Pillow.Image | None]:
    """Colour channels, and alpha if there is one."""
    if image.mode not in ("LA", "RGBA"):
        return image, None
    return image.convert(image.mode.removesuffix("A")), image.getchannel("A")


def _has_frames(image: Pillow.Image) -> bool:
    """Whether a file has several frames or pages; the second image of a camera (MPO) does not count."""
    if image.format == "MPO":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # frames after the first are damaged; they are not used
        return True


def _check_range(image: Pillow.Image) -> None:
    """Raise Unreadable for pixel types whose black and white levels are not defined."""
    if image.mode == "F":
        raise Unreadable(NO_RANGE.format(kind="floating-point"))
    if isinstance(image, TiffImageFile) and (image.mode == "I" or SIGNED in image.tag_v2.get(SAMPLEFORMAT, ())):
        raise Unreadable(NO_RANGE.format(kind="signed or 32-bit"))


def _is_wide(image: ImageFile) -> bool:
    """Whether an image that is not loaded yet has more than 8 bits per channel; Pillow does not tell for JPEG 2000 and
    AVIF in colour."""
    if isinstance(image, TiffImageFile):
        return bool(max(image.tag_v2.get(BITSPERSAMPLE, (1,))) > 8)
    codec, *_, args = image.tile[0] if image.tile else ("", "")
    if isinstance(image, PngImageFile):
        return str(args).endswith(";16B")
    return codec == "SGI16" or (codec == "ppm" and isinstance(args, tuple) and int(args[1]) > 255)


def _scale_transparent_colour(image: Pillow.Image) -> None:
    """Scale the transparent colour of a PNG to 8 bits: Pillow compares it with pixels already scaled to 8."""
    colour = image.info.get("transparency")
    if not isinstance(image, PngImageFile) or image.mode not in ("L", "RGB") or not isinstance(colour, int | tuple):
        return
    bits = str(image.tile[0].args).partition(";")[2].rstrip("B")  # "L;2", "RGB;16B"; "L" and "RGB" are of 8 bits
    if isinstance(colour, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in colour) if bits == "16" else colour
    elif bits:
        image.info["transparency"] = colour * 255 // (2 ** int(bits) - 1)


def _from_16_bits(image: Pillow.Image) -> tuple[Pillow.Image, bool]:
    """Convert grey of more than 8 bits to L, or LA if a colour is transparent; and whether it is nearly black."""
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
    """Convert an image without alpha to sRGB. Raises UnusableProfile for a profile that does not match its mode."""
    if pixels.mode not in ("L", "CMYK"):
        pixels = pixels.convert("RGB")
    return to_srgb(pixels, profile) if profile else pixels.convert("RGB")


def _orientation(image: Pillow.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata; the pixels are fine
        return 1
