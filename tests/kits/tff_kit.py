"""Small files in the forms of TensorFlow Federated's simulation data, and ``tf.train.Example`` by protobuf itself."""

from __future__ import annotations

import lzma
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Clients = Mapping[str, Mapping[str, Any]]
"""Of each client the fields' values, one a row: arrays of numbers, or texts."""


def _example_class() -> type[Any]:
    """``tensorflow.Example`` as its .proto files define it."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> descriptor_pb2.DescriptorProto:
        made = file.message_type.add(name=name)
        for field, number, kind, label, type_name in fields:
            made.field.add(name=field, number=number, type=kind, label=label, type_name=type_name or None)
        return made

    many, one, inner = kinds.LABEL_REPEATED, kinds.LABEL_OPTIONAL, kinds.TYPE_MESSAGE
    message("BytesList", ("value", 1, kinds.TYPE_BYTES, many, ""))
    message("FloatList", ("value", 1, kinds.TYPE_FLOAT, many, ""))
    message("Int64List", ("value", 1, kinds.TYPE_INT64, many, ""))
    feature = message(
        "Feature",
        ("bytes_list", 1, inner, one, ".tensorflow.BytesList"),
        ("float_list", 2, inner, one, ".tensorflow.FloatList"),
        ("int64_list", 3, inner, one, ".tensorflow.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", 1, inner, many, ".tensorflow.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=one)
    entry.field.add(name="value", number=2, type=inner, label=one, type_name=".tensorflow.Feature")
    message("Example", ("features", 1, inner, one, ".tensorflow.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))  # type: ignore[no-any-return]


Example = _example_class()


def example(**fields: Any) -> bytes:
    """As TFF serializes an element: texts, floats or integers, flattened."""
    made = Example()
    for name, value in fields.items():
        feature = made.features.feature[name]
        if isinstance(value, (str, bytes)):
            feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
            continue
        array = np.asarray(value)
        into = feature.float_list if array.dtype.kind == "f" else feature.int64_list
        into.value.extend(array.ravel().tolist())
    return bytes(made.SerializeToString())


def write_hdf5(path: Path, clients: Clients) -> Path:
    """``examples/CLIENT/FIELD``; a text is a string of variable length."""
    with h5py.File(path, "w") as file:
        for client, fields in clients.items():
            for name, values in fields.items():
                kind = h5py.string_dtype() if isinstance(values[0], str) else None
                file.create_dataset(f"examples/{client}/{name}", data=values, dtype=kind)
    return path


def write_sqlite(path: Path, splits: Mapping[str, Clients]) -> Path:
    """The two tables of TFF's SQL client data; with the suffix .lzma, compressed as TFF publishes it."""
    database = path.with_suffix("") if path.suffix == ".lzma" else path
    with sqlite3.connect(database) as connection:
        connection.execute(
            "CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL, "
            "serialized_example_proto BLOB NOT NULL)"
        )
        connection.execute(
            "CREATE TABLE client_metadata (client_id TEXT NOT NULL, split_name TEXT NOT NULL, "
            "num_examples INTEGER NOT NULL)"
        )
        for split, clients in splits.items():
            for client, fields in clients.items():
                rows = _rows(fields)
                connection.executemany("INSERT INTO examples VALUES (?, ?, ?)", [(split, client, row) for row in rows])
                connection.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", (client, split, len(rows)))
    connection.close()
    if database != path:
        path.write_bytes(lzma.compress(database.read_bytes(), lzma.FORMAT_ALONE))
        database.unlink()
    return path


def _rows(fields: Mapping[str, Sequence[Any]]) -> list[bytes]:
    return [example(**dict(zip(fields, values, strict=True))) for values in zip(*fields.values(), strict=True)]
