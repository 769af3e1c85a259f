"""What the readers of all layouts share: which files are images, which folders count, which classes are wanted."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from hvqray.atomic import expanded
from hvqray.errors import InputError, counted, did_you_mean

MEAN = "mean"
"""What the mean over classes is called in all results, so that no class can be."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
UNREAD_SUFFIXES = frozenset(
    {".gif", ".jp2", ".j2k", ".jpx", ".jxl", ".jfif", ".jpe", ".avif", ".heic", ".heif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".dib", ".ico", ".psd", ".svg", ".exr", ".hdr"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
)
"""Of image formats that are not read, so that their files are told of and not taken for something else."""
MASK_SUFFIXES = ("_mask", "_GT")
"""What a mask's stem has after that of its image."""
PARTS = ("train", "test")
VALIDATION = "validation"
"""The part that few datasets have beside `PARTS`."""
ALL_PARTS = ("train", VALIDATION, "test")
NORMAL_ONLY = "training is on normal images alone"
"""Why defective images of a training part are left out."""


def dataset_root(root: str | Path) -> Path:
    """The absolute path of a dataset's folder.

    Raises:
        InputError: it is no folder, or its name is not UTF-8.
    """
    path = expanded(root).absolute()
    check_name(path)
    if not path.is_dir():
        raise InputError(
            f"{path} is not a folder; give the folder that holds the class folders", field="data.root"
        )
    return path


def choose_classes(root: Path, known: Collection[str], classes: Sequence[str] | None) -> list[str]:
    """The classes to read, in alphabetical order: all that `root` has, or those in `classes`.

    Raises:
        InputError: there is none, `classes` is empty or names one that `root` does not have, or a class is called `mean` or not by UTF-8.
    """
    if not known:
        raise InputError(
            f"{root} has the folder of no class; give the folder in which all of the dataset is unpacked",
            field="data.root",
        )
    if classes is not None and not classes:
        raise InputError("[] names no class; leave it out (or null) to use all", field="data.classes")
    for name in classes or ():
        if name not in known:
            raise InputError(f"{root} has no class {name!r}{did_you_mean(name, known)}", field="data.classes")
    names = sorted(set(known if classes is None else classes))
    for name in names:
        check_name(root / name)
    if MEAN in names:
        raise InputError(
            f"{root / MEAN} is a class called {MEAN!r}, which stands for the mean over classes in all results; rename the folder",
            field="data.root",
        )
    return names


def image_files(folder: Path) -> list[Path]:
    """Image files directly in `folder` by their extension, sorted by name; none where there is no such folder.

    Raises:
        InputError: the name of one is not UTF-8.
    """
    return sorted(
        _listed(entry) for entry in _visible(folder) if is_image(Path(entry.name)) and _is_file(entry)
    )


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """Mask files directly in `folder` by the stem of the image that they belong to: STEM_mask.EXT, or else STEM.EXT."""
    masks = {path.stem: path for path in image_files(folder)}
    named = {stem.removesuffix("_mask"): path for stem, path in masks.items() if stem.endswith("_mask")}
    return masks | named


def image_stem(mask: Path) -> str:
    """The stem of the image that a mask belongs to, by the mask's name."""
    suffix = next((suffix for suffix in MASK_SUFFIXES if mask.stem.endswith(suffix)), "")
    return mask.stem.removesuffix(suffix)


def refuse_masks_among(images: Sequence[Path], masks_folder: Path | None) -> None:
    """See that no mask lies beside its image, where it would be taken for an image.

    `masks_folder` is where the layout has the masks of these images; None for normal ones, which need none.

    Raises:
        InputError: STEM_mask.EXT or STEM_GT.EXT is among `images` together with STEM.EXT.
    """
    stems = {path.stem: path for path in images}
    masks = [path for path in images if image_stem(path) != path.stem and image_stem(path) in stems]
    if not masks:
        return
    first = masks[0]
    others = f", like {counted(len(masks) - 1, 'other')} here" if len(masks) > 1 else ""
    stem = image_stem(first)
    mend = f"move it to {masks_folder / f'{stem}_mask{first.suffix}'}" if masks_folder else "remove it"
    raise InputError(
        f"a mask beside its image {stems[stem].name}, where it would be taken for an image{others}; {mend}",
        source=str(first),
    )


def unread_images(folder: Path) -> list[Path]:
    """Files directly in `folder` that are of an image format which is not read, by their extension, sorted by name."""
    return sorted(Path(entry.path) for entry in _visible(folder) if has_unread_format(Path(entry.name)))


def told_of_formats(names: Sequence[str]) -> str:
    """`2 images in formats that are not read (a.gif, ...); save them as PNG`."""
    formats, them = ("a format that is", "it") if len(names) == 1 else ("formats that are", "them")
    return f"{counted(len(names), 'image')} in {formats} not read ({first_of(names)}); save {them} as PNG"


def first_of(names: Sequence[str]) -> str:
    """`a.png`, or `a.png, ...` where it is not the only one."""
    return f"{names[0]}{', ...' if len(names) > 1 else ''}"


def holds_masks(name: str) -> bool:
    """Whether a folder of this name holds masks, be it spelt as a layout has it or not."""
    return re.sub("[^a-z]", "", name.lower()) in {"groundtruth", "gt", "mask", "masks"}


def has_unread_format(path: Path) -> bool:
    """Whether a path is, by its name alone, that of an image in a format that is not read."""
    return path.suffix.lower() in UNREAD_SUFFIXES and not path.name.startswith(".")


def is_image(path: Path) -> bool:
    """Whether a path is that of an image, by its name alone; hidden files are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in `folder`, sorted by name, hidden ones left out.

    Raises:
        InputError: the name of one is not UTF-8.
    """
    return sorted(_listed(entry) for entry in _visible(folder) if Path(entry.path).is_dir())


def check_name(path: Path) -> None:
    """See that results can name a file or folder: Parquet, JSON and CSV files hold UTF-8, and a name is any bytes.

    Raises:
        InputError: `path` is not UTF-8, as in archives that Windows has packed.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise InputError(
            "its name is not UTF-8, as the results that bear it must be; rename it"
            " (all at once, if they are of encoding cp1252: convmv -r -f cp1252 -t utf8 --notest FOLDER)",
            source=shown,
        ) from None


def inside(folder: Path, relative: str, *, source: Path) -> Path:
    """`folder / relative`, where `relative` is a path that the file `source` names.

    Raises:
        InputError: the path leads out of `folder`, or is not UTF-8.
    """
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise InputError(
            f"{relative!r} leads out of {folder}; give a path inside the dataset", source=str(source)
        )
    check_name(folder / relative)
    return folder / relative


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _listed(entry: os.DirEntry[str]) -> Path:
    path = Path(entry.path)
    check_name(path)
    return path


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A file or a link to one, or a link that leads nowhere, which is told of when it is opened; a pipe would be waited for."""
    if not entry.is_symlink():
        return entry.is_file()
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True
