"""Upstreams that fail, for tests of plugins, gateways and whatever stands before them.

`server.FaultServer` is an OpenAI-compatible upstream on a real socket; `catalog.FAULTS` is
everything that it can do wrong, by name; `scenario.Scenario` says when; `control.Control` lets
another process say so; `fixtures` has all of it for pytest.
"""
