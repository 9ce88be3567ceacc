"""Class names: what they may be, what a label column means, and a data set in a task's order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edgefl import SoftmaxModel, datasets
from edgefl.classes import MAX_NAME_BYTES, check_classes, class_index, class_name, infer_classes
from edgefl.errors import ConfigError, DataError
from edgefl.proto.v1 import plan_pb2
from edgefl.protocol.messages import EvaluationWork, Plan
from edgefl.protocol.task import ModelSpec, parse_task
from edgefl.settings import to_toml
from edgefl.wire.plan import plan_from_proto, plan_to_proto

ANIMALS = ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a", "b"], r"classes is \['a', 'b'\]; expected a tuple of names"),
        (("a", 1), r"classes\[1\] is 1; expected a name as text"),
        (("a", ""), r"classes\[1\] is ''; expected printable text"),
        (("a", " b"), r"classes\[1\] is ' b'; expected printable text, without blanks"),
        (("a", "b\n"), r"classes\[1\] is 'b\\n'"),
        (("a", "\udcff"), r"classes\[1\] is '\\udcff'"),
        (("a", "é" * 65), "expected at most 128 bytes"),
        (("a", "a"), "classes has 'a' twice; expected distinct names"),
        (("a", "b", "c"), "classes has 3 names and num_classes is 2; expected as many"),
    ],
)
def test_names_that_cannot_be(classes: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_classes(classes, 2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        SoftmaxModel(3, 2, classes=classes)  # type: ignore[arg-type]
    check_classes((), 2)
    check_classes(("é" * (MAX_NAME_BYTES // 2), "ROW 2"), 2)


def test_what_an_undeclared_label_column_means() -> None:
    def classes(*labels: str) -> tuple[str, ...]:
        return infer_classes(dict.fromkeys(labels, "here"))

    assert classes("1", "0", "2") == ()
    assert classes("0") == ()
    assert classes("walk", "Run", "sit") == ("Run", "sit", "walk")  # by code point
    assert classes("10", "9", "1") == ("1", "9", "10")  # by value: 1-based, so names
    assert classes("1", "-1") == ("-1", "1")
    for wrong in (("0", "NA"), ("0.5",), ("1e3",), ("nan",), ("",), ("9" * 19,)):
        with pytest.raises(DataError, match=r"^here is "):
            classes(*wrong)


def test_what_a_label_means_under_a_declared_list() -> None:
    def index(label: str, classes: tuple[str, ...] = ANIMALS) -> int:
        return class_index(label, classes, "line 7")

    assert [index(name) for name in ANIMALS] == [0, 1, 2]
    assert [index(text) for text in ("0", "1", "2")] == [0, 1, 2]  # indexes, as ever
    assert index("1", ("1", "2", "3")) == 0  # and never the index 1: a file of labels 1 and 2 means one thing
    with pytest.raises(DataError, match="line 7 is '0'; expected '1', '2', '3'"):
        index("0", ("1", "2", "3"))
    with pytest.raises(DataError, match="line 7 is 'brid'; did you mean 'bird'"):
        index("brid")
    with pytest.raises(DataError, match="line 7 is '3'; expected an index from 0 to 2, or 'cat'"):
        index("3")
    with pytest.raises(DataError, match=r"line 7 is '1\.0'; expected 'cat'"):
        index("1.0")
    assert [class_name(ANIMALS, 2), class_name((), 2)] == ["bird", "2"]


def table(folder: Path, kind: str, labels: list[str] | list[int]) -> str:
    path = folder / f"mine.{kind}"
    split = ["train"] * (len(labels) - 1) + ["held_out"]
    if kind == "csv":
        rows = (f"{label},{index},{part}" for index, (label, part) in enumerate(zip(labels, split, strict=True)))
        path.write_text("\n".join(["label,f,split", *rows]) + "\n", encoding="utf-8")
    elif kind == "parquet":
        features = [float(index) for index in range(len(labels))]
        pq.write_table(pa.table({"label": labels, "f": features, "split": split}), path)
    else:
        held_out = [part == "held_out" for part in split]
        np.savez(path, labels=labels, features=np.arange(len(labels), dtype="f4")[:, None], held_out=held_out)
    return str(path)


def labels_of(data: datasets.CentralDataset | datasets.FederatedDataset) -> tuple[list[int], list[int]]:
    assert isinstance(data, datasets.CentralDataset)
    assert data.test is not None
    return data.train.labels_view.tolist(), data.test.labels_view.tolist()


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_files_with_names(tmp_path: Path, kind: str) -> None:
    pets = table(tmp_path, kind, ["dog", "cat", "dog", "bird"])
    found = datasets.load(pets)
    assert (found.classes, found.num_classes, labels_of(found)) == (("bird", "cat", "dog"), 3, ([2, 1, 2], [0]))
    found = datasets.load(pets, classes=("cat", "dog", "fish", "bird"))  # fish has no example
    assert (found.num_classes, labels_of(found)) == (4, ([1, 0, 1], [3]))
    with pytest.raises(
        DataError, match=r"(line 5, column 'label'|row 3|labels\[3\]) is 'bird'; did you mean 'birds'\?"
    ):
        datasets.load(pets, classes=("cat", "dog", "birds"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_files_with_whole_numbers(tmp_path: Path, kind: str) -> None:
    from_one = datasets.load(table(tmp_path, kind, [3, 1, 10, 3]))
    assert (from_one.classes, labels_of(from_one)) == (("1", "3", "10"), ([1, 0, 2], [1]))
    from_zero = datasets.load(table(tmp_path, kind, [2, 0, 1, 0]))
    assert (from_zero.classes, from_zero.num_classes, labels_of(from_zero)) == ((), 3, ([2, 0, 1], [0]))
    named = datasets.load(table(tmp_path, kind, [1, 1, 2, 1]), classes=ANIMALS)  # declared: indexes, in each file alike
    assert (named.classes, labels_of(named)) == (ANIMALS, ([1, 1, 2], [1]))


def test_more_names_than_classes_can_be(tmp_path: Path) -> None:
    file = table(tmp_path, "csv", [f"word {number}" for number in range(4097)])
    with pytest.raises(DataError, match=r"mine\.csv has 4097 different labels; expected at most 4096 classes"):
        datasets.load(file)
    with pytest.raises(DataError, match=r"mine\.csv: .*classes\[0\] is 'a\\tb'"):
        datasets.load(table(tmp_path, "csv", ["a\tb", "c", "c"]))


def test_a_folder_of_images_in_a_declared_order(tmp_path: Path) -> None:
    for index, name in enumerate(ANIMALS):
        (tmp_path / name).mkdir()
        Image.new("L", (1, 1), index).save(tmp_path / name / "a.png")
    found = datasets.load(str(tmp_path), classes=ANIMALS)
    assert isinstance(found, datasets.CentralDataset)
    pixels = [row[0] for row in found.train.features_view.tolist()]
    assert [ANIMALS[label] for label in found.train.labels_view] == [ANIMALS[pixel] for pixel in pixels]
    with pytest.raises(DataError, match="has the classes 'bird', 'cat', 'dog': 'cat' is unknown; did you mean 'cats'"):
        datasets.load(str(tmp_path), classes=("cats", "dog", "bird"))


def test_a_federated_set_in_a_declared_order() -> None:
    people = datasets.load("watch")
    assert people.classes == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
    turned = datasets.with_classes(people, people.classes[::-1])
    assert datasets.with_classes(turned, people.classes).digest == people.digest != turned.digest
    for before, after in zip((*people.clients, *people.held_out), (*turned.clients, *turned.held_out), strict=True):
        assert [6 - label for label in before.examples.labels_view] == after.examples.labels_view.tolist()
    assert datasets.with_classes(people, ()) is people
    kept = datasets.partition(datasets.pooled(turned), datasets.iid(3))
    assert kept.classes == datasets.pooled(turned).classes == turned.classes


def test_a_set_without_names_gets_the_declared_ones(tmp_path: Path) -> None:
    unnamed = datasets.load(table(tmp_path, "csv", [0, 1, 2, 0]))
    named = datasets.with_classes(unnamed, ANIMALS)
    assert (named.classes, labels_of(named)) == (ANIMALS, ([0, 1, 2], [0]))
    with pytest.raises(DataError, match="mine has 3 classes; expected at most 2: 'cat', 'dog'"):
        datasets.with_classes(unnamed, ANIMALS[:2])


TASK = """
name = "pets"
kind = "training"
population = "home"
round = { goal = 1, minimum = 1 }
client = { learning_rate = 0.1 }
[model]
num_features = 3
"""


def test_a_task_declares_its_classes() -> None:
    spec = parse_task(TASK + 'classes = ["cat", "dog", "bird"]\n', "a.toml")
    assert spec.model is not None
    assert (spec.model.num_classes, spec.model.classes, spec.model.build().classes) == (3, ANIMALS, ANIMALS)
    again = parse_task(to_toml(spec), "again")
    assert again == spec
    assert parse_task(TASK + 'num_classes = 3\nclasses = ["cat", "dog", "bird"]\n', "a.toml") == spec


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "a.toml: model: num_classes is 0 and there are no classes; expected num_classes, or the classes' names"),
        ('classes = ["a", "b"]\nnum_classes = 3', "a.toml: model: classes has 2 names and num_classes is 3"),
        ('classes = ["a", "a"]', "classes has 'a' twice"),
        ('classes = ["a", 1]', r"model: classes\[1\] is 1; expected text"),
        ('classes = "a"', "model: classes is 'a'; expected a list"),
        ('clases = ["a", "b"]', "unknown key 'clases'; did you mean 'classes'"),
    ],
)
def test_classes_of_a_task_that_cannot_be(keys: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_task(TASK + keys, "a.toml")


def test_the_plan_carries_the_names_and_stays_the_same_without() -> None:
    named, unnamed = (
        Plan(SoftmaxModel(3, 3, classes=classes), EvaluationWork(7), "int64") for classes in (ANIMALS, ())
    )
    assert plan_from_proto(plan_pb2.Plan.FromString(plan_to_proto(named).SerializeToString())) == named
    # The bytes that EdgeFL 0.1 sends: an agent of it, and every digest over a plan, see no difference.
    assert plan_to_proto(unnamed).SerializeToString().hex() == "0a06080310031801" + "1a020807" + "2a05696e743634"
    message = plan_to_proto(named)
    message.softmax.classes.append("fish")
    with pytest.raises(ConfigError, match="classes has 4 names and num_classes is 3"):
        plan_from_proto(message)


def test_a_definition_made_from_a_model_keeps_the_names() -> None:
    from edgefl.learning.shapes import model_spec

    assert model_spec(SoftmaxModel(3, 3, classes=ANIMALS)) == ModelSpec(3, classes=ANIMALS)
