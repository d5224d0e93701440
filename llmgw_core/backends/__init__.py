"""Speaking to upstreams: the adapter port (sans-IO) and the transport port."""
