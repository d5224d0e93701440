"""The conformance suite of the transport port, one module per subject."""
