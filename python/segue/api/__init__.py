"""The HTTP API's vocabulary, shared by the controller, the Python client and the command line.

One file a resource; one struct a body (JSON objects of the same field names).  Sizes are bytes.
New fields are added with a default; a field's meaning never changes.
"""
