"""``digits``: 1,797 handwritten digits of 8 x 8 pixels, 0 (paper) to 16 (ink).

Features are the pixels as stored, uint8 with scale 1/16: 0 is paper, 1 is ink. No writer is recorded. The file is not
in random order (neighbours are of one writer), so the test part is its end, not a random draw: the first 1,437
examples train, the last 360 test.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(its test set), as packed in the wheels of scikit-learn (BSD). The wheel that is pinned is the smallest that has it; it
is of another platform, which does not matter: it is fetched as data.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from array import array

from edgefl.datasets.central import CentralDataset
from edgefl.datasets.fetch import pinned_bytes
from edgefl.datasets.pinned import PinnedWheel
from edgefl.types import DType, Examples, Quantization

WHEEL = PinnedWheel(
    project="scikit-learn",
    version="0.24.2",
    file_name="scikit_learn-0.24.2-cp36-cp36m-win32.whl",
    sha256="f74429a07fedb36a03c159332b914e6de757176064f9fed94b5f79ebac07d913",
    size_bytes=6_063_592,
    target=("--platform", "win32", "--python-version", "3.6", "--implementation", "cp", "--abi", "cp36m"),
)
MEMBER = "sklearn/datasets/data/digits.csv.gz"

NUM_FEATURES = 64
NUM_CLASSES = 10
NUM_TRAIN = 1437
"""Four fifths of 1,797."""

INK = 16
"""The largest pixel."""


def load() -> CentralDataset:
    """The data set; fetched on first use. Raises what ``edgefl.datasets.fetch.pinned_bytes`` raises."""
    with zipfile.ZipFile(io.BytesIO(pinned_bytes(WHEEL))) as archive:
        text = gzip.decompress(archive.read(MEMBER)).decode("ascii")
    features, labels = bytearray(), array("i")
    for line in text.splitlines():
        *pixels, label = map(float, line.split(","))  # whole numbers, written as 5.0e+00
        features.extend(map(int, pixels))
        labels.append(int(label))
    cut = NUM_TRAIN * NUM_FEATURES
    return CentralDataset(
        name="digits",
        num_classes=NUM_CLASSES,
        classes=tuple(str(digit) for digit in range(NUM_CLASSES)),
        train=_examples(bytes(features[:cut]), labels[:NUM_TRAIN]),
        test=_examples(bytes(features[cut:]), labels[NUM_TRAIN:]),
        license="BSD-3-Clause (the package); the data: UCI Machine Learning Repository, CC BY 4.0",
        source=f"{WHEEL.project} {WHEEL.version}, {MEMBER}",
    )


def _examples(features: bytes, labels: array[int]) -> Examples:
    return Examples(NUM_FEATURES, features, labels.tobytes(), DType.UINT8, Quantization(1 / INK))
