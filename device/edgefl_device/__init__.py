"""The device agent: examples, session with the server, local training, inference. The command ``edgefl-device``."""
