"""Model versions from the server."""

from __future__ import annotations

from edgefl.operator.connection import Connection
from edgefl.proto.v1 import control_pb2

FORMATS = {
    "weights": control_pb2.MODEL_FORMAT_WEIGHTS,
    "tflite": control_pb2.MODEL_FORMAT_TFLITE_FLOAT32,
    "tflite-int8": control_pb2.MODEL_FORMAT_TFLITE_INT8,
}


def download_model(server: Connection, task: str, version: int, form: str) -> bytes:
    """The bytes of one model version in one of ``FORMATS``; version 0 is the latest."""
    request = control_pb2.ExportModelRequest(task=task, version=version, format=FORMATS[form])
    return b"".join(part.data for part in server.stream(server.control.ExportModel, request))
