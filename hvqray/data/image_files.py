"""Opening image files: a limit of our own on their size in place of Pillow's, and one line for what cannot be read."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from PIL.ImageFile import ImageFile

from hvqray.errors import InputError

MAX_PIXELS = 2**28
"""Of one image, such as 16384 x 16384: decoded it takes 4 bytes a pixel in colour (1 GB), in as many threads as there are cores."""

Oddity = tuple[str, str, str]
"""What looks odd of image files and is no fault: of one file, of several, and the mend."""
PAGES: Oddity = (
    "image has several pages, of which the first alone is read",
    "images have several pages, of which the first alone is read",
    "save each page as a file of its own",
)


class _PillowLimit:
    """Pillow's own limit, a variable of its module: taken away while any thread reads a file here, put back by the last.

    Above it Pillow warns, above twice it refuses; 179 million pixels are the scan of a plate, and no attack.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_without_pillows_limit = _PillowLimit()


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
    """The image of which the header is read; what is done with the file within the block may read the rest of it.

    Raises:
        InputError: the file is no image, or breaks off.
    """
    try:
        with _without_pillows_limit, Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(
            f"not a readable image ({error or type(error).__name__}); replace or remove it", source=str(path)
        ) from None


def decode(image: Image.Image, path: Path) -> None:
    """Reads the pixels of an open image.

    Raises:
        InputError: there are more than `MAX_PIXELS`.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{width}x{height} are {width * height / 1e6:.0f} million pixels, and at most {MAX_PIXELS / 1e6:.0f} million are read;"
            " scale it down or cut it into tiles, and its mask likewise",
            source=str(path),
        )
    image.load()


def image_dimensions(path: Path) -> tuple[int, int]:
    """(width, height) from the file's header.

    Raises:
        InputError: the file is no image.
    """
    with open_image(path) as image:
        return image.size


def told_of_files(odd: Oddity, paths: Sequence[Path]) -> str:
    """One line: how many files look odd so, and the first."""
    one, many, mend = odd
    return f"{len(paths)} {one if len(paths) == 1 else many} (first: {paths[0]}); {mend}"


def has_more_pages(path: Path) -> bool:
    """Whether a TIFF file has several pages, or a WebP one several frames, of which the first is read.

    Raises:
        InputError: the file is no image.
    """
    if path.suffix.lower() not in {".tif", ".tiff", ".webp"}:
        return False  # phones' JPEG files hold small copies of the picture, which nobody misses
    with open_image(path) as image:
        return bool(getattr(image, "n_frames", 1) > 1)
