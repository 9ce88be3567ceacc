"""A folder of images of a user's own, read by Pillow, which is imported only here.

    folder/CLASS/*.png                                   or
    folder/train/CLASS/*.png, folder/held_out/CLASS/*.png

Classes are the folders' names in the order of their code points; so are the files of each. Pixels are kept as they are,
uint8 with scale 1/255, row by row, an RGB pixel as three features. What all readers refuse: ``edgefl.datasets.own``.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgefl.datasets.central import CentralDataset
from edgefl.datasets.own import HELD_OUT, TRAIN, Kind, Part, make_central
from edgefl.errors import DataError, UnavailableError
from edgefl.types import MAX_FEATURES, DType, Quantization

if TYPE_CHECKING:
    from PIL import Image

BYTES_A_PIXEL = {"L": 1, "RGB": 3}
"""Pillow's names of 8-bit grey and of colour. Others (palettes, transparency, 16 bits) need a person's choice."""

WHITE = 255


@dataclass(frozen=True)
class _Picture:
    """What the first image is and all others must be."""

    path: Path
    width: int
    height: int
    mode: str

    def __str__(self) -> str:
        return f"{self.width} x {self.height} {self.mode}"


def from_images(path: str | Path) -> CentralDataset:
    """Read a folder of images, one folder per class.

    All images are 8-bit grey or all RGB, of one size: nothing is resized or converted. Files and folders whose names
    begin with a dot are passed over. Without a folder ``held_out`` nothing is held out.

    Raises ``DataError``, which names the file, for what cannot be used, and ``UnavailableError`` when Pillow is not
    installed.
    """
    path = Path(path)
    try:
        import PIL.Image  # noqa: F401 - here, so that its absence is told before anything is read
    except ImportError as error:
        raise UnavailableError(
            f"cannot read images of {path}: {error}; install Pillow, or EdgeFL with its extra 'data'"
        ) from None
    try:
        top = _visible(path)
        is_split = {entry.name for entry in top} == {TRAIN, HELD_OUT}
        folders = _classes(path / TRAIN if is_split else path)
        kept = _classes(path / HELD_OUT) if is_split else None
        if kept is not None and [folder.name for folder in kept] != [folder.name for folder in folders]:
            raise DataError(
                f"{path}: {HELD_OUT} has the classes {_names(kept)}, {TRAIN} has {_names(folders)}; expected the same"
            )
        first = _first(folders)
        train = _read(folders, first)
        test = None if kept is None else _read(kept, first)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    kind = Kind(first.width * first.height * BYTES_A_PIXEL[first.mode], DType.UINT8, Quantization(1 / WHITE))
    names = tuple(folder.name for folder in folders)
    places = {name: str(folder) for name, folder in zip(names, folders, strict=True)}
    return make_central(path, kind, train, test, places, client_column=None, classes=names)


def _classes(path: Path) -> list[Path]:
    entries = _visible(path)
    stray = next((entry for entry in entries if not entry.is_dir()), None)
    if stray is not None or not entries:
        found = f"the file {stray.name!r}" if stray is not None else "nothing"
        raise DataError(f"{path} has {found}; expected only folders, one per class")
    return entries


def _visible(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))


def _names(folders: list[Path]) -> str:
    return ", ".join(folder.name for folder in folders)


def _first(folders: list[Path]) -> _Picture:
    files = _visible(folders[0])
    if not files:
        raise DataError(f"{folders[0]} has no image; expected at least one in each class")
    picture, _ = _load(files[0])
    return picture


def _read(folders: list[Path], first: _Picture) -> Part:
    features, labels = bytearray(), array("i")
    for label, folder in enumerate(folders):
        files = _visible(folder)
        if not files:
            raise DataError(f"{folder} has no image; expected at least one in each class")
        for file in files:
            picture, pixels = _load(file)
            if str(picture) != str(first):
                raise DataError(f"{file} is {picture}, {first.path} is {first}; expected images of one size and kind")
            features += pixels
            labels.append(label)
    return Part(bytes(features), labels.tobytes(), ())


def _load(file: Path) -> tuple[_Picture, bytes]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return _check(file, image), image.tobytes()
    except UnidentifiedImageError:
        raise DataError(
            f"{file} is not an image that Pillow can read; expected only images in a class folder"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that decoders raise
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split())}; expected a whole image") from error


def _check(file: Path, image: Image.Image) -> _Picture:
    """By the header, before anything is decoded."""
    picture = _Picture(file, image.width, image.height, image.mode)
    if image.mode not in BYTES_A_PIXEL:
        raise DataError(f"{file} is of Pillow's mode {image.mode}; expected 8-bit grey (L) or RGB: convert it")
    if image.width * image.height * BYTES_A_PIXEL[image.mode] > MAX_FEATURES:
        raise DataError(f"{file} is {picture}; expected at most {MAX_FEATURES} numbers an image: make it smaller")
    return picture
