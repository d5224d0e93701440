"""The gateway inside another Python program: calls without a server, a port or a socket."""
