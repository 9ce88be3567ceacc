"""``fashion_mnist``: 60,000 + 10,000 pictures of clothes, 28 x 28 grey pixels, ten classes.

Features are the pixels as stored, uint8 with scale 1/255: 0 is background, 1 is white. Nobody's name is on a picture:
``edgefl.datasets.partition`` makes clients.

Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms", 2017 (Expat), as packed in Debian's dataset-fashion-mnist. Its files are of the IDX format (Y. LeCun's
MNIST page): a big-endian header, then the bytes.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from array import array
from collections.abc import Mapping

from edgefl.datasets.central import CentralDataset
from edgefl.datasets.fetch import pinned_bytes
from edgefl.datasets.pinned import PinnedDeb
from edgefl.errors import VerificationError
from edgefl.types import DType, Examples, Quantization

DEB = PinnedDeb(
    project="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    file_name="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    size_bytes=30_900_652,
)
FOLDER = "./usr/share/datasets/fashion-mnist/"

CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

SIDE = 28
NUM_FEATURES = SIDE * SIDE
WHITE = 255

_IMAGES, _LABELS = 0x0803, 0x0801
"""IDX: unsigned bytes of three dimensions, and of one."""


def load() -> CentralDataset:
    """The data set; fetched on first use. Raises what ``edgefl.datasets.fetch.pinned_bytes`` raises."""
    files = _unpack(pinned_bytes(DEB))
    return CentralDataset(
        name="fashion_mnist",
        num_classes=len(CLASSES),
        classes=CLASSES,
        train=_examples(files, "train"),
        test=_examples(files, "t10k"),
        license="MIT (Expat), Copyright (c) 2017 Zalando SE",
        source=f"{DEB.project} {DEB.version}, {FOLDER[1:]}",
    )


def _examples(files: Mapping[str, bytes], part: str) -> Examples:
    images, labels = files[f"{part}-images-idx3-ubyte.gz"], files[f"{part}-labels-idx1-ubyte.gz"]
    count = max(0, len(labels) - 8)
    if images[:16] != struct.pack(">4I", _IMAGES, count, SIDE, SIDE) or labels[:8] != struct.pack(
        ">2I", _LABELS, count
    ):
        raise VerificationError(
            f"{DEB.file_name}: the headers of part {part!r} are {images[:16].hex()} and {labels[:8].hex()}; expected "
            f"those of {count} pictures of {SIDE} x {SIDE} bytes and their labels; this is a defect of EdgeFL's pin"
        )
    stored = array("i", list(labels[8:]))
    return Examples(NUM_FEATURES, images[16:], stored.tobytes(), DType.UINT8, Quantization(1 / WHITE))


def _unpack(deb: bytes) -> dict[str, bytes]:
    """The unzipped files of the data set by name, out of a package *whose digest was checked*."""
    with tarfile.open(fileobj=io.BytesIO(_data_member(deb)), mode="r:xz") as archive:
        files = {}
        for member in archive:
            content = archive.extractfile(member) if member.isfile() and member.name.startswith(FOLDER) else None
            if content is not None:
                files[member.name.removeprefix(FOLDER)] = gzip.decompress(content.read())
        return files


def _data_member(deb: bytes) -> bytes:
    """``data.tar.xz`` of a .deb: an ar archive, whose members have headers of 60 bytes and even sizes (deb(5))."""
    offset = len(b"!<arch>\n")
    while offset < len(deb):
        header = deb[offset : offset + 60]
        size = int(header[48:58])
        offset += 60
        if header[:16].rstrip() == b"data.tar.xz":
            return deb[offset : offset + size]
        offset += size + size % 2
    raise VerificationError(f"{DEB.file_name} holds no data.tar.xz; this is a defect of EdgeFL's pin")
