"""Dataclasses to protobuf and back: the only place that validates wire data.

This face gives what both shells need of the ``Fleet`` service; operators' messages are in ``edgefl.wire.control``,
which a device never imports.
"""

from __future__ import annotations

from edgefl.wire.fleet import (
    answer_from_proto,
    answer_to_proto,
    check_in_from_proto,
    check_in_to_proto,
    parse_report,
    receipt_from_proto,
    receipt_to_proto,
    refused_report,
    report_from_proto,
    report_to_proto,
    retry_from_proto,
    retry_to_proto,
)
from edgefl.wire.status import (
    DOWNLOAD_CHUNK_BYTES,
    ERROR_KEY,
    IDENTITY_KEY,
    MAX_MESSAGE_BYTES,
    RETRY_KEY,
    UPLOAD_CHUNK_BYTES,
    error_from_status,
    error_to_status,
)
from edgefl.wire.upload import (
    have_from_proto,
    query_from_proto,
    query_to_proto,
    reference_from_proto,
    referring_report_to_proto,
    upload_data_from_proto,
    upload_start_from_proto,
    upload_start_to_proto,
)

__all__ = [
    "DOWNLOAD_CHUNK_BYTES",
    "ERROR_KEY",
    "IDENTITY_KEY",
    "MAX_MESSAGE_BYTES",
    "RETRY_KEY",
    "UPLOAD_CHUNK_BYTES",
    "answer_from_proto",
    "answer_to_proto",
    "check_in_from_proto",
    "check_in_to_proto",
    "error_from_status",
    "error_to_status",
    "have_from_proto",
    "parse_report",
    "query_from_proto",
    "query_to_proto",
    "receipt_from_proto",
    "receipt_to_proto",
    "reference_from_proto",
    "referring_report_to_proto",
    "refused_report",
    "report_from_proto",
    "report_to_proto",
    "retry_from_proto",
    "retry_to_proto",
    "upload_data_from_proto",
    "upload_start_from_proto",
    "upload_start_to_proto",
]
