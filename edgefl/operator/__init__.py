"""The operator's side of a server's `Control` service: a connection, and what is read from it."""
