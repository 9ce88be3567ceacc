"""The files that ``edgefl new`` writes: what is known of a data set in, the text of each file out. No I/O.

Invariant: the parsers of ``edgefl``, ``edgefl-server`` and ``edgefl-device`` take every text. Task files are parsed
here; the tests parse all of them.

The numbers are where to begin, not the best ones. They come from trainings of ``watch``, ``digits`` and
``fashion_mnist`` at rates of 0.01 to 0.3, in which standardized features always beat raw ones on held-out examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgefl.errors import ConfigError, DataError
from edgefl.protocol.messages import MAX_WEIGHT
from edgefl.protocol.task import NAME, TaskSpec, check_name, parse_task
from edgefl.settings import toml_value
from edgefl.types import DType, Quantization

ROUNDS = 50

LARGE_WIDTH = 1000
"""Features above which the learning rate is the smaller one: a step changes a logit by rate times |x| squared, which is
their number where features are standardized."""

RATE, SMALL_RATE = 0.1, 0.03

SMALL_CLIENT = 320
"""Examples of a client below which batches are small, for a round of ten steps or more."""

ALL_IN_A_ROUND = 20
"""Up to so many clients, all train in each round; above, a tenth of them, within these bounds."""

MOST_IN_A_ROUND = 100

HEADROOM = 4.0
"""How much larger than here features and updates of other devices may be before they are refused."""

MAX_FEATURE_BOUND = 2.0**20
"""As ``statistics.feature_bound``."""

MIN_NORM_BOUND = 8.0

LONGEST_ENDING = "-statistics"


@dataclass(frozen=True)
class Facts:
    """What the files need to know of a data set.

    ``num_clients``, ``num_held_out``  clients with training examples, and those with held-out ones.
    ``classes``        the names of the classes in index order; () where they have none.
    ``usual_client``   the median number of training examples of a client; ``largest_client``: the largest part of one.
    ``largest_value``  the largest magnitude of a feature.
    """

    source: str
    num_clients: int
    num_held_out: int
    num_features: int
    num_classes: int
    classes: tuple[str, ...]
    dtype: DType
    quantization: Quantization
    usual_client: int
    largest_client: int
    largest_value: float


def name_of(stem: str) -> str:
    """A task's name made of a file's: small letters, and a hyphen for what a name cannot hold.

    Raises ``ConfigError`` where nothing is left.
    """
    letters = [c if NAME.fullmatch(f"a{c}") else "-" for c in stem.lower()]
    name = "-".join(part for part in "".join(letters).split("-") if part)
    name = name.lstrip("._-")[: _longest_name()].rstrip("._-")
    if not name:
        raise ConfigError(f"no task name can be made of {stem!r}; give one (--name)")
    return name


def check_task_name(name: str) -> str:
    """Raises ``ConfigError`` for a name that cannot begin the names of all tasks."""
    check_name("name", name)
    if len(name) > _longest_name():
        raise ConfigError(f"name is {name!r}, of {len(name)} characters; expected at most {_longest_name()}")
    return name


def _longest_name() -> int:
    return 64 - len(LONGEST_ENDING)


def statistics_task(facts: Facts, name: str) -> str:
    return f"""\
# Mean and spread of the features, over all devices, without any device showing its own: two rounds of exact sums.
name = "{name}-statistics"
kind = "statistics"
population = "{name}"
rounds = 2

{_round(min(facts.num_clients, MOST_IN_A_ROUND))}
{_model(facts)}
[statistics]
# A device with a feature of a larger magnitude takes no part. The largest here is {facts.largest_value:.6g}.
feature_bound = {_feature_bound(facts)!r}

[aggregator]
{_max_weight(facts)}
"""


def training_task(facts: Facts, name: str, largest_update: float) -> str:
    """``largest_update``: the largest L2 norm that a client's first update has."""
    bound = max(MIN_NORM_BOUND, _power_of_two(HEADROOM * largest_update))
    return f"""\
# Federated averaging of a softmax layer over {facts.source}.
# All keys: docs/reference/task.md of EdgeFL.
name = "{name}"
kind = "training"
population = "{name}"
seed = 1
rounds = {ROUNDS}

{_round(_training_goal(facts.num_clients))}
{_model(facts)}standardize_by = "{name}-statistics"

[client]
learning_rate = {learning_rate(facts)}
batch_size = {batch_size(facts)}
local_epochs = 1

[aggregator]
norm_bound = {bound!r}  # a larger update is refused; here the first ones are up to {largest_update:.3g}
{_max_weight(facts)}
"""


def evaluation_task(facts: Facts, name: str) -> str:
    return f"""\
# After each training round, every device counts right and wrong answers on its own held-out examples.
name = "{name}-evaluation"
kind = "evaluation"
population = "{name}"
rounds = {ROUNDS}
evaluates = "{name}"

{_round(min(facts.num_held_out, MOST_IN_A_ROUND))}
[aggregator]
{_max_weight(facts)}
"""


def server_config() -> str:
    return """\
# edgefl-server run --config FILE. All keys: server/server.example.toml of EdgeFL.
data_dir = "server-data"   # relative to this file
listen = "127.0.0.1:7443"
insecure = true            # plaintext, on this machine alone
"""


def device_config(facts: Facts, name: str) -> str:
    return f"""\
# edgefl-device run --config FILE: one such file for each device. All keys: device/device.example.toml of EdgeFL.
[device]
name = "device-1"          # each device has a name of its own
population = "{name}"
state_dir = "state"        # relative to this file; one folder for each device

[server]
address = "127.0.0.1:7443"
insecure = true            # plaintext, to a server on this machine alone

[examples]
{_shape(facts)}{_classes(facts)}"""


def parse(text: str, source: str) -> TaskSpec:
    """Our own text. Raises ``DataError`` where the data has what no task can hold."""
    try:
        return parse_task(text, source)
    except ConfigError as error:
        raise DataError(f"no task fits this data: {error}") from error


def learning_rate(facts: Facts) -> float:
    return RATE if facts.num_features <= LARGE_WIDTH else SMALL_RATE


def batch_size(facts: Facts) -> int:
    return 10 if facts.usual_client < SMALL_CLIENT else 32


def _training_goal(clients: int) -> int:
    return clients if clients <= ALL_IN_A_ROUND else min(max(ALL_IN_A_ROUND, clients // 10), MOST_IN_A_ROUND)


def _round(goal: int) -> str:
    """A round of two devices or fewer needs all; a larger one goes on without a third of them."""
    minimum = goal if goal <= 2 else -(-2 * goal // 3)
    return f"""\
[round]
goal = {goal}  # a round ends with so many reports
minimum = {minimum}  # so many are enough when the time of the round is over
"""


def _model(facts: Facts) -> str:
    return f"[model]\n{_shape(facts)}{_classes(facts)}"


def _classes(facts: Facts) -> str:
    return f"classes = {toml_value(facts.classes)}\n" if facts.classes else ""


def _shape(facts: Facts) -> str:
    lines = [
        f"num_features = {facts.num_features}",
        f"num_classes = {facts.num_classes}",
        f"dtype = {toml_value(facts.dtype)}",
    ]
    if facts.dtype is not DType.FLOAT32:
        lines.append(f"scale = {facts.quantization.scale!r}")
        lines.append(f"zero_point = {facts.quantization.zero_point}")
    return "\n".join(lines) + "\n"


def _feature_bound(facts: Facts) -> float:
    return min(MAX_FEATURE_BOUND, _power_of_two(HEADROOM * facts.largest_value))


def _max_weight(facts: Facts) -> str:
    """The power of ten that leaves room for ten times as many examples, where the sums hold it."""
    wanted = 10 ** max(4, math.ceil(math.log10(10 * facts.largest_client)))
    most = MAX_WEIGHT // MOST_IN_A_ROUND
    return f"max_weight = {max(min(wanted, most), facts.largest_client)}  # a device has at most so many examples"


def _power_of_two(value: float) -> float:
    """The least that is not below ``value``; at least 1."""
    return 2.0 ** max(0, math.ceil(math.log2(value))) if value > 1 else 1.0
