"""``fed_sgd``: each client gives the gradient over all its examples, and the server takes one step along their mean.

The delta is minus the gradient: one step at rate 1 on a single batch, which is as large as a client may be. So the rate
is the server's, and the mean weighs clients by their examples, which makes it the gradient over all examples of the
round. The gradient is clipped to a norm that it cannot reach, for then the kernel sums it apart from the weights: an
example's share that is subtracted from a weight loses what lies below the weight's last place.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, section 2
(FederatedSGD).
"""

from __future__ import annotations

from dataclasses import replace

from edgefl.errors import ConfigError
from edgefl.learning.parts import LocalSgd
from edgefl.learning.processes import ProcessType
from edgefl.learning.processes._averaging import averaging, averaging_spec, check_server_optimizer, training_work
from edgefl.learning.training import TrainingProcess
from edgefl.models.model import Model
from edgefl.optimizers import ServerOptimizer, sgd
from edgefl.protocol.task import ClientSpec, TaskKind, TaskSpec
from edgefl.types import MAX_BATCH, Standardization

NO_CLIPPING = 2.0**100
"""A gradient norm that no client reaches: features and weights are float32, and their products must be."""


def build(spec: TaskSpec, standardization: Standardization | None, _: Model | None) -> TrainingProcess:
    client = ClientSpec(1.0) if spec.client is None else spec.client
    if replace(client, l2=0.0) != ClientSpec(1.0):
        raise ConfigError(
            "process 'fed_sgd' takes one step at rate 1 over all examples of a client; leave [client] out, or give it "
            "only learning_rate = 1.0 and l2"
        )
    batch = spec.aggregator.max_weight
    if batch > MAX_BATCH:
        raise ConfigError(f"max_weight is {batch}; expected at most {MAX_BATCH}, the most examples in a batch")
    work = training_work(client, batch, batch_size=batch, shuffle=False, clip_norm=NO_CLIPPING)
    return averaging(spec, standardization, client_work=LocalSgd(work))


PROCESS = ProcessType(TaskKind.TRAINING, build)


def build_fed_sgd(
    model: Model,
    server_optimizer: ServerOptimizer,
    *,
    l2: float = 0.0,
    norm_bound: float = 64.0,
    update_clip_norm: float = 0.0,
    max_weight: int = 100_000,
    encoding: str = "float32",
) -> TrainingProcess:
    """FedSGD with the rate of ``server_optimizer``, ``sgd(0.1)`` say.

    Options as in ``build_weighted_fed_avg``; ``max_weight`` is at most 2**20, the most examples in a batch: a client
    that has more is refused, for it would take several steps. Raises ``ConfigError`` for an option out of range.
    """
    check_server_optimizer(server_optimizer)
    spec = averaging_spec(
        "fed_sgd",
        model,
        sgd(1.0),
        server_optimizer=server_optimizer,
        l2=l2,
        norm_bound=norm_bound,
        update_clip_norm=update_clip_norm,
        max_weight=max_weight,
        encoding=encoding,
    )
    return build(spec, model.standardization, None)
