"""The shape of a device's examples, to protobuf and back. Refusals as in ``edgefl.wire.fleet``."""

from __future__ import annotations

from edgefl.errors import ConfigError, DataError, RemoteProtocolError
from edgefl.proto.v1 import fleet_pb2
from edgefl.protocol.shape import ExampleShape
from edgefl.types import DType, Quantization, check_shape
from edgefl.wire.plan import DTYPES, FEATURE_TYPES


def shape_to_proto(shape: ExampleShape) -> fleet_pb2.ExampleShape:
    message = fleet_pb2.ExampleShape(
        num_features=shape.num_features, num_classes=shape.num_classes, feature_type=FEATURE_TYPES[shape.dtype]
    )
    if shape.dtype is not DType.FLOAT32:
        message.scale, message.zero_point = shape.quantization.scale, shape.quantization.zero_point
    return message


def shape_from_proto(message: fleet_pb2.ExampleShape) -> ExampleShape | None:
    """None for features of a type that a newer agent has: nothing is known of its examples."""
    dtype = DTYPES.get(message.feature_type)
    if dtype is None:
        return None
    try:
        check_shape(message.num_classes, message.num_features)
        meaning = Quantization() if dtype is DType.FLOAT32 else Quantization(message.scale, message.zero_point)
    except (ConfigError, DataError) as error:
        raise RemoteProtocolError(f"shape: {error}") from None
    return ExampleShape(message.num_features, message.num_classes, dtype, meaning)
