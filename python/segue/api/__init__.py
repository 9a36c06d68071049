"""The HTTP API's vocabulary, shared by the controller, the Python client and the command line."""
