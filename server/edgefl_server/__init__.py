"""The server daemon of EdgeFL: rounds over gRPC, with every accepted report durable before its receipt leaves."""
