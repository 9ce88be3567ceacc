"""The configuration of ``edgefl-server``: a TOML file into a frozen, checked dataclass.

This version speaks plaintext, so it serves loopback addresses alone, and only when told so (``insecure``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgefl.address import require_loopback, split_address
from edgefl.errors import ConfigError
from edgefl.protocol.messages import MAX_UPLOAD_BYTES
from edgefl.settings import parse_toml, read_toml

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class ServerConfig:
    """Fields of the configuration file; server.example.toml shows each with its default.

    ``data_dir``              holds the database and its lock; a relative path is relative to the file.
    ``listen``                HOST:PORT, or [HOST]:PORT for IPv6; port 0 picks a free one.
    ``insecure``              plaintext and named callers without proof; loopback alone.
    ``gather_window_ms``      how long a report waits for others to share its fsync; 0 does not gather.
    ``retention_rounds``      reports of this many last rounds of a task keep their payload, for `check` and `replay`.
    ``checkpoint_every``      of the models of those rounds, each version that this number divides is kept; the others
                              are computed again by `replay`.
    ``history_rounds``        rounds, reports without payload and failures of this many last rounds of a task are kept.
    ``max_waiting_check_ins`` check-ins that wait for work; others are answered at once (one costs about 36 kB).
    ``max_reports_in_flight`` reports between receipt and answer; others are told to come back.
    ``max_uploads_bytes``     updates above 1 MiB that are kept until their report comes; others are told to come back.
    ``long_poll_s``           how long a check-in waits for work.
    ``idle_retry_min_s``, ``idle_retry_max_s``  when a device without work, or with an error, comes back (spread further
                              for a crowd).
    ``backoff_max_s``         how long a task's next round waits at most after abandoned rounds; 0: not at all.
    ``drain_s``               how long a stopping server lets calls in flight finish.
    """

    data_dir: Path
    listen: str = "127.0.0.1:7443"
    insecure: bool = False
    gather_window_ms: float = 5.0
    retention_rounds: int = 100
    checkpoint_every: int = 1
    history_rounds: int = 10_000
    max_waiting_check_ins: int = 128
    max_reports_in_flight: int = 64
    max_uploads_bytes: int = 1 << 30
    long_poll_s: float = 20.0
    idle_retry_min_s: float = 1.0
    idle_retry_max_s: float = 3.0
    backoff_max_s: float = 60.0
    drain_s: float = 10.0
    log_level: str = "info"

    def __post_init__(self) -> None:
        split_address(self.listen)
        for name, low, high in (
            ("gather_window_ms", 0, 1000),
            ("retention_rounds", 1, 1_000_000),
            ("checkpoint_every", 1, 1_000_000),
            ("history_rounds", self.retention_rounds, 10_000_000),
            ("max_waiting_check_ins", 1, 100_000),
            ("max_reports_in_flight", 1, 10_000),
            ("max_uploads_bytes", MAX_UPLOAD_BYTES, 1 << 50),
            ("long_poll_s", 0.1, 300),
            ("idle_retry_min_s", 0, 3600),
            ("idle_retry_max_s", 0, 3600),
            ("backoff_max_s", 0, 3600),
            ("drain_s", 0, 600),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}; expected {low} to {high}")
        if self.idle_retry_min_s > self.idle_retry_max_s:
            raise ConfigError(
                f"idle_retry_min_s {self.idle_retry_min_s} is above idle_retry_max_s {self.idle_retry_max_s}; lower it"
            )
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log_level is {self.log_level!r}; expected one of {', '.join(LOG_LEVELS)}")

    def check_transport(self) -> None:
        """Refuse what would put plaintext on a network. Raises ``ConfigError``."""
        if not self.insecure:
            raise ConfigError(
                "this version has no TLS; set insecure = true (or pass --insecure) to serve plaintext on loopback"
            )
        require_loopback(self.listen)


def load_config(path: Path, *, listen: str | None = None, insecure: bool = False) -> ServerConfig:
    """Read the file; ``listen`` and ``insecure`` come from the command line and win over it. Raises ``ConfigError``."""
    config = parse_toml(read_toml(path), ServerConfig, str(path))
    config = dataclasses.replace(
        config,
        data_dir=(path.parent / config.data_dir).absolute(),
        listen=config.listen if listen is None else listen,
        insecure=config.insecure or insecure,
    )
    config.check_transport()
    return config
