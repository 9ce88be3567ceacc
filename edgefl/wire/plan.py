"""Plans: what a device executes, between dataclasses and protobuf. Refusals as in ``edgefl.wire.fleet``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields

from edgefl.errors import ConfigError, RemoteProtocolError
from edgefl.models.kinds import build_model
from edgefl.models.model import Model
from edgefl.proto.v1 import plan_pb2
from edgefl.protocol import messages as m
from edgefl.types import DType, Quantization, SgdOptions, Standardization
from edgefl.wire.limits import MAX_TEXT

FEATURE_TYPES = {
    DType.FLOAT32: plan_pb2.FEATURE_TYPE_FLOAT32,
    DType.UINT8: plan_pb2.FEATURE_TYPE_UINT8,
    DType.INT8: plan_pb2.FEATURE_TYPE_INT8,
}
SOFTMAX = "softmax"
"""Its first version has a field of its own in a plan, which every agent since 0.1 knows."""

NO_OPTIONS: Mapping[str, int] = {}

DTYPES = {number: dtype for dtype, number in FEATURE_TYPES.items()}


def _shape_to_proto(model: Model) -> plan_pb2.SoftmaxModel:
    message = plan_pb2.SoftmaxModel(
        num_features=model.num_features,
        num_classes=model.num_classes,
        feature_type=FEATURE_TYPES[model.dtype],
        classes=model.classes,
    )
    if model.dtype is not DType.FLOAT32:
        message.scale = model.quantization.scale
        message.zero_point = model.quantization.zero_point
    if model.standardization is not None:
        message.standardization.mean = model.standardization.mean
        message.standardization.inverse_spread = model.standardization.inverse_spread
    return message


def _named_to_proto(model: Model) -> plan_pb2.NamedModel:
    options = [plan_pb2.ModelOption(name=name, value=value) for name, value in sorted(model.options.items())]
    return plan_pb2.NamedModel(kind=model.kind, version=model.version, shape=_shape_to_proto(model), options=options)


def _named_from_proto(message: plan_pb2.NamedModel) -> Model:
    kind = message.kind[:MAX_TEXT]
    options = {option.name: option.value for option in message.options}
    try:
        return _model_from_proto(message.shape, kind, message.version, options)
    except ConfigError as error:
        raise RemoteProtocolError(
            f"the plan names a model that this agent does not know; update the agent: {error}"
        ) from None


def _model_from_proto(
    message: plan_pb2.SoftmaxModel, kind: str = SOFTMAX, version: int = 1, options: Mapping[str, int] = NO_OPTIONS
) -> Model:
    dtype = DTYPES.get(message.feature_type)
    if dtype is None:
        raise RemoteProtocolError(f"feature type {message.feature_type} is unknown; a newer agent may know it")
    quantization = Quantization()
    if dtype is not DType.FLOAT32:
        quantization = Quantization(message.scale, message.zero_point)
    standardization = None
    if message.HasField("standardization"):
        inner = message.standardization
        standardization = Standardization(inner.mean, inner.inverse_spread)
    classes = tuple(message.classes)
    return build_model(
        kind,
        version,
        options,
        num_features=message.num_features,
        num_classes=message.num_classes,
        dtype=dtype,
        quantization=quantization,
        standardization=standardization,
        classes=classes,
    )


def plan_to_proto(plan: m.Plan) -> plan_pb2.Plan:
    message = plan_pb2.Plan(encoding=plan.encoding)
    if plan.model.kind == SOFTMAX and plan.model.version == 1:
        message.softmax.CopyFrom(_shape_to_proto(plan.model))
    else:
        message.named.CopyFrom(_named_to_proto(plan.model))
    work = plan.work
    if isinstance(work, m.TrainingWork):
        message.training.CopyFrom(_training_to_proto(work))
    elif isinstance(work, m.EvaluationWork):
        message.evaluation.max_weight = work.max_weight
    elif isinstance(work, m.PersonalizationWork):
        message.personalization.training.CopyFrom(_training_to_proto(work.training))
    elif isinstance(work, m.ScaffoldWork):
        message.scaffold.training.CopyFrom(_training_to_proto(work.training))
    elif isinstance(work, m.LocalWork):
        raise ConfigError(f"{type(work).__name__} is work for processes in one Python process; it cannot be sent")
    elif isinstance(work, m.DescriptionWork):
        message.description.statistics.CopyFrom(plan_pb2.StatisticsWork(**vars(work.statistics)))
        message.description.num_bins, message.description.extremes = work.num_bins, work.extremes
    else:
        message.statistics.CopyFrom(plan_pb2.StatisticsWork(**vars(work)))
    return message


def plan_from_proto(message: plan_pb2.Plan) -> m.Plan:
    model_kind, work_kind = message.WhichOneof("model"), message.WhichOneof("work")
    if model_kind is None or work_kind is None:
        raise RemoteProtocolError("the plan names a model or a work that this agent does not know; update the agent")
    model = _model_from_proto(message.softmax) if model_kind == SOFTMAX else _named_from_proto(message.named)
    work: m.Work
    if work_kind == "training":
        work = _training_from_proto(message.training)
    elif work_kind == "evaluation":
        work = m.EvaluationWork(message.evaluation.max_weight)
    elif work_kind == "personalization":
        work = m.PersonalizationWork(_training_from_proto(message.personalization.training))
    elif work_kind == "scaffold":
        work = _scaffold_from_proto(message.scaffold)
    elif work_kind == "description":
        work = _description_from_proto(message.description, model.num_features)
    else:
        work = _statistics_from_proto(message.statistics, model.num_features)
    if not 1 <= work.max_weight <= m.MAX_WEIGHT:
        raise RemoteProtocolError(f"max_weight is {work.max_weight}; expected 1 to 2**32")
    return m.Plan(model, work, message.encoding[:MAX_TEXT])


def _statistics_from_proto(s: plan_pb2.StatisticsWork, num_features: int) -> m.StatisticsWork:
    if not 0 < s.feature_bound < math.inf:
        raise RemoteProtocolError(f"feature_bound is {s.feature_bound}; expected a finite number above 0")
    center = s.center if s.HasField("center") else None
    if center is not None and len(center) != 4 * num_features:
        raise RemoteProtocolError(f"a center of {len(center)} bytes; expected {4 * num_features}")
    return m.StatisticsWork(s.feature_bound, s.grid_shift, s.max_weight, center)


def _description_from_proto(d: plan_pb2.DescriptionWork, num_features: int) -> m.DescriptionWork:
    if d.num_bins > m.MAX_BINS:
        raise RemoteProtocolError(f"num_bins is {d.num_bins}; expected at most {m.MAX_BINS}")
    size = m.description_bytes(num_features, d.num_bins, d.extremes)
    if size > m.MAX_UPLOAD_BYTES:
        raise RemoteProtocolError(
            f"num_bins {d.num_bins} of {num_features} features make an update of {size} bytes; expected at most "
            f"{m.MAX_UPLOAD_BYTES}"
        )
    return m.DescriptionWork(_statistics_from_proto(d.statistics, num_features), d.num_bins, d.extremes)


def _scaffold_from_proto(s: plan_pb2.ScaffoldWork) -> m.ScaffoldWork:
    """A device remembers the mean gradient of the steps: so there must be some, and nothing else may move the model."""
    work = _training_from_proto(s.training)
    sgd = work.sgd
    if sgd.learning_rate <= 0 or sgd.local_epochs < 1 or sgd.momentum or sgd.proximal or sgd.clip_norm:
        raise RemoteProtocolError(
            f"scaffold with learning_rate {sgd.learning_rate}, local_epochs {sgd.local_epochs}, momentum "
            f"{sgd.momentum}, proximal {sgd.proximal}, clip_norm {sgd.clip_norm}; expected the first two above 0, "
            "and the others 0"
        )
    return m.ScaffoldWork(work)


def _training_to_proto(work: m.TrainingWork) -> plan_pb2.TrainingWork:
    return plan_pb2.TrainingWork(**vars(work.sgd), shuffle=work.shuffle, max_weight=work.max_weight)


def _training_from_proto(t: plan_pb2.TrainingWork) -> m.TrainingWork:
    """Raises ``ConfigError`` for options that the kernel would not take."""
    options = {one.name: getattr(t, one.name) for one in fields(SgdOptions)}
    return m.TrainingWork(SgdOptions(**options), t.shuffle, t.max_weight)
