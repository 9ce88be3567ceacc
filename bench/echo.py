"""A bare asyncio gRPC server that receives a report and answers with an empty one: what Python and gRPC alone take.

``python bench/echo.py``: prints its address, serves until its standard input closes.
"""

from __future__ import annotations

import asyncio
import sys

import grpc

from edgefl.proto.v1 import fleet_pb2, fleet_pb2_grpc
from edgefl.wire import MAX_MESSAGE_BYTES


class Echo(fleet_pb2_grpc.FleetServicer):
    async def Report(self, request: fleet_pb2.ReportRequest, context: object) -> fleet_pb2.ReportResponse:  # noqa: ARG002
        return fleet_pb2.ReportResponse()


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    fleet_pb2_grpc.add_FleetServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
