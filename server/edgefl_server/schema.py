"""The database's layout, its versions, and the steps from each version to the next.

A step is a tuple of statements; step ``k`` (from 0) leads from version ``k`` to ``k + 1``. A step that was released is
never edited: a change is a new step. All steps of an upgrade run in one transaction.
"""

from __future__ import annotations

APPLICATION_ID = 0x45444746
"""``PRAGMA application_id``: "EDGF". A database without it is somebody else's."""

_VERSION_1 = (
    # One row. Each server that opens the database makes the epoch grow; one that sees another epoch stops.
    "CREATE TABLE server (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL)",
    "INSERT INTO server VALUES (1, 0)",
    # Bytes by digest: models and releases. What devices download.
    "CREATE TABLE content (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL)",
    # version: committed rounds. goal: as in the definition, for listings. pruned: payloads are gone up to this round.
    """CREATE TABLE tasks (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        definition TEXT NOT NULL,
        status TEXT NOT NULL,
        goal INTEGER NOT NULL,
        next_round INTEGER NOT NULL,
        version INTEGER NOT NULL,
        pruned INTEGER NOT NULL DEFAULT 0)""",
    # A task's state after each committed round (round 0: the beginning). sha256 is '' for a task without a model.
    # extra (the server optimizer's state, or sums) is NULL once it is older than retention.
    """CREATE TABLE states (
        task TEXT NOT NULL,
        version INTEGER NOT NULL,
        round INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        extra BLOB,
        PRIMARY KEY (task, version))""",
    # candidates, cohort: JSON lists of device names. metrics: JSON, NULL until committed.
    # accepted, failed: counts, written when the round ends. version: the state that it made, 0 for none.
    """CREATE TABLE rounds (
        task TEXT NOT NULL,
        round INTEGER NOT NULL,
        phase TEXT NOT NULL,
        base_version INTEGER NOT NULL,
        remaining_s REAL NOT NULL,
        version INTEGER NOT NULL DEFAULT 0,
        accepted INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        reason TEXT NOT NULL DEFAULT '',
        metrics TEXT,
        cohort_size INTEGER NOT NULL,
        cohort TEXT NOT NULL,
        candidates TEXT NOT NULL,
        PRIMARY KEY (task, round))""",
    # The ledger. payload stands last, so that looking up a key never reads it; it is NULL once older than retention.
    """CREATE TABLE reports (
        task TEXT NOT NULL,
        round INTEGER NOT NULL,
        device TEXT NOT NULL,
        sequence INTEGER NOT NULL UNIQUE,
        attempt INTEGER NOT NULL,
        counted INTEGER NOT NULL DEFAULT 0,
        base_model TEXT NOT NULL,
        encoding TEXT NOT NULL,
        weight INTEGER NOT NULL,
        num_examples INTEGER NOT NULL,
        num_correct INTEGER NOT NULL,
        loss_grid INTEGER NOT NULL,
        payload_sha256 TEXT NOT NULL,
        payload BLOB,
        PRIMARY KEY (task, round, device))""",
    """CREATE TABLE failures (
        task TEXT NOT NULL,
        round INTEGER NOT NULL,
        device TEXT NOT NULL,
        kind TEXT NOT NULL,
        message TEXT NOT NULL,
        PRIMARY KEY (task, round, device))""",
    """CREATE TABLE devices (
        device TEXT PRIMARY KEY,
        population TEXT NOT NULL,
        agent_version TEXT NOT NULL,
        session INTEGER NOT NULL,
        num_train INTEGER NOT NULL,
        num_held_out INTEGER NOT NULL,
        suspect INTEGER NOT NULL)""",
    """CREATE TABLE releases (
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        sha256 TEXT NOT NULL REFERENCES content (sha256),
        size_bytes INTEGER NOT NULL,
        population TEXT NOT NULL,
        task TEXT NOT NULL,
        model_version INTEGER NOT NULL,
        PRIMARY KEY (name, version))""",
)

_VERSION_2 = (
    # What devices may have seen of a database that a backup replaced: no release gets a version up to this one.
    "ALTER TABLE server ADD COLUMN release_floor INTEGER NOT NULL DEFAULT 0",
    # Sequences up to this one were given, whether or not their reports are still there.
    "ALTER TABLE server ADD COLUMN sequence_floor INTEGER NOT NULL DEFAULT 0",
    # Numbers from_round to to_round - 1 were left out when a backup was restored: a server that is lost ran them.
    """CREATE TABLE jumps (
        task TEXT NOT NULL,
        from_round INTEGER NOT NULL,
        to_round INTEGER NOT NULL,
        PRIMARY KEY (task, from_round))""",
    # Payloads by their report's sequence, apart from its row: what is noted with a payload would write a page of it
    # again, and to drop one no longer writes any of it.
    "CREATE TABLE payloads (sequence INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "INSERT INTO payloads SELECT sequence, payload FROM reports WHERE payload IS NOT NULL",
    "ALTER TABLE reports DROP COLUMN payload",
    # JSON list: the shares of the latency quartiles in a committed round (edgefl.protocol.latency).
    "ALTER TABLE rounds ADD COLUMN latency_shares TEXT NOT NULL DEFAULT '[]'",
    # forgotten: rounds up to this one, and what belongs to them, have no rows any more.
    "ALTER TABLE tasks ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0",
    # kept: whether the model is in content; the digest stays.
    "ALTER TABLE states ADD COLUMN kept INTEGER NOT NULL DEFAULT 1",
    "CREATE INDEX kept_states ON states (task, version) WHERE kept",
    "CREATE INDEX kept_models ON states (sha256) WHERE kept",
)

_VERSION_3 = (
    # What a round's model may depend on besides its reports (edgefl.protocol.process.RoundConditions); 0 in rounds that
    # were selected before there was any.
    "ALTER TABLE rounds ADD COLUMN population INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE rounds ADD COLUMN learning_rate REAL NOT NULL DEFAULT 0",
    # JSON list: the training examples of each candidate, where the task's sampling reads them.
    "ALTER TABLE rounds ADD COLUMN num_examples TEXT NOT NULL DEFAULT '[]'",
)

_VERSION_4 = (
    # What a device says of its examples, and the releases that it runs: JSON, shape NULL where it does not say it.
    "ALTER TABLE devices ADD COLUMN shape TEXT",
    "ALTER TABLE devices ADD COLUMN running TEXT NOT NULL DEFAULT '[]'",
    # When it was last heard of (a quarter of an hour near), and its last failure: seconds since 1970 by the server's
    # clock, NULL for never.
    "ALTER TABLE devices ADD COLUMN seen_at REAL",
    "ALTER TABLE devices ADD COLUMN error_kind TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE devices ADD COLUMN error TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE devices ADD COLUMN error_at REAL",
    # Why a task is suspended, and what kept it from committing since its last commit (edgefl.protocol.backoff).
    "ALTER TABLE tasks ADD COLUMN suspended TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE tasks ADD COLUMN abandoned INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE tasks ADD COLUMN fruitless INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE tasks ADD COLUMN setback TEXT NOT NULL DEFAULT ''",
)

RELEASE_FLOOR_SINCE = 2
"""The version since which table ``server`` has its floors."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
"""The steps in order."""

TABLES = (
    "server",
    "content",
    "tasks",
    "states",
    "rounds",
    "reports",
    "payloads",
    "failures",
    "devices",
    "releases",
    "jumps",
)
"""What a database of the newest version must have."""
