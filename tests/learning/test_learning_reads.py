"""What each kind of work reads: an empty split fails the kinds that read it, by its name, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from small_fleet import fleet

import edgefl
from edgefl import learning
from edgefl.protocol.messages import (
    KINDS,
    Assignment,
    ClientUpdate,
    DescriptionWork,
    EvaluationWork,
    PersonalizationWork,
    Plan,
    ScaffoldWork,
    Split,
    StatisticsWork,
    TrainingWork,
    Work,
    WorkFailure,
)
from edgefl.types import Examples, SgdOptions, Weights

MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
START = Weights.from_bytes(np.linspace(-1, 1, 18).astype(np.float32).tobytes(), 3, 5)
TRAINING = TrainingWork(SgdOptions(0.1, batch_size=4), True, 50)
SUMS = StatisticsWork(1000.0, 8, 50)
TRAIN, HELD_OUT = (Split.TRAIN,), (Split.HELD_OUT,)
SAMPLES: dict[type, tuple[Work, tuple[Split, ...], str]] = {
    TrainingWork: (TRAINING, TRAIN, "float32"),
    ScaffoldWork: (ScaffoldWork(TRAINING), TRAIN, "float32"),
    EvaluationWork: (EvaluationWork(50), HELD_OUT, "int64"),
    PersonalizationWork: (PersonalizationWork(TRAINING), TRAIN + HELD_OUT, "int64"),
    StatisticsWork: (SUMS, TRAIN, "int64"),
    DescriptionWork: (DescriptionWork(SUMS, 4, True), TRAIN, "int64"),
}


def run(work: Work, encoding: str, empty: Split | None = None) -> ClientUpdate | WorkFailure | None:
    content = START.to_bytes() * (2 if isinstance(work, ScaffoldWork) else 1)
    some, none = fleet(1)[0].examples, Examples(5, b"", b"")
    train, held_out = (none if split is empty else some for split in (Split.TRAIN, Split.HELD_OUT))
    asked = Assignment("gestures", 7, 42, Plan(MODEL, work, encoding), START.digest, len(content), 60.0)
    return learning.run_plan(asked, content, train, held_out, "client-0")


def test_every_registered_kind_has_a_sample() -> None:
    assert SAMPLES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: KINDS[kind])
def test_an_empty_split_fails_the_kinds_that_read_it(kind: type) -> None:
    work, reads, encoding = SAMPLES[kind]
    assert work.reads == reads
    for split, name in ((Split.TRAIN, "training"), (Split.HELD_OUT, "held-out")):
        report = run(work, encoding, empty=split)
        if split in reads:
            assert isinstance(report, WorkFailure)
            assert report.message.startswith(f"this device has no {name} examples")
        else:
            assert isinstance(report, ClientUpdate)


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: KINDS[kind])
def test_an_encoding_of_the_other_format_is_refused(kind: type) -> None:
    work, _, encoding = SAMPLES[kind]
    report = run(work, "int64" if encoding == "float32" else "float32")
    assert isinstance(report, WorkFailure)
    assert report.message.endswith(f"which does not fit {kind.__name__}")
