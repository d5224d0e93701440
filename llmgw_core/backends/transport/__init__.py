"""HTTP exchanges with upstreams: one port, two implementations, one conformance suite."""
