"""The front: HTTP on Ray Serve, the command line, the Python client."""
