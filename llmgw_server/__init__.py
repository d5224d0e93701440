"""The proxy: a thin ASGI application and a command line around `llmgw_core`."""
