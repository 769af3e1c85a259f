"""The pixel histograms of all classes in one file, written and read a class at a time: NumPy's .npz, with arrays `CLASS/normal` and so on."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from hvqray.atomic import replacing
from hvqray.errors import InputError
from hvqray.metrics.aupro import MaskRegions
from hvqray.metrics.pixel_histograms import PixelHistograms

_NAMES = [field.name for field in fields(PixelHistograms)]


class HistogramWriter:
    """Adds classes to a file that `writing_histograms` has opened."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def add_maps(
        self,
        class_name: str,
        maps_nHW: Float32[np.ndarray, "n H W"],
        regions: MaskRegions | None,
        metrics: Mapping[str, float | None],
    ) -> None:
        """Histograms of a class's maps, where its pixel `metrics` are defined; `regions` are those of its masks."""
        if regions is not None and None not in metrics.values():
            self.add(class_name, PixelHistograms.from_maps(maps_nHW, regions))

    def add(self, class_name: str, histograms: PixelHistograms) -> None:
        for name in _NAMES:
            with self._archive.open(f"{_key(class_name, name)}.npy", "w", force_zip64=True) as file:
                np.save(file, getattr(histograms, name), allow_pickle=False)


def is_whole(path: Path) -> bool:
    """Whether all that the file holds can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False


@contextmanager
def writing_histograms(path: Path) -> Iterator[HistogramWriter]:
    """Replace `path` when the block ends without an error."""
    with replacing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        yield HistogramWriter(archive)


@dataclass(frozen=True)
class StoredHistograms:
    """One class's histograms in a file, and what the metrics exactly are."""

    path: Path
    class_name: str
    exact: Mapping[str, float | None]
    """Each of `PIXEL_METRICS`, and `MAD`; None where undefined."""

    def read(self) -> PixelHistograms | None:
        """None where the file has none of the class: its pixel metrics are undefined.

        Raises InputError where the file is damaged.
        """
        try:
            # Opened here: NumPy would leave a file open that is no whole archive.
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                if _key(self.class_name, _NAMES[0]) not in archive:
                    return None
                return PixelHistograms(**{name: archive[_key(self.class_name, name)] for name in _NAMES})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"is damaged ({reason}); remove it, and pixel metrics have no interval over images",
                source=str(self.path),
            ) from error


def _key(class_name: str, field_name: str) -> str:
    """`cookie/normal` of `normal_nB`."""
    return f"{class_name}/{field_name.rpartition('_')[0]}"
