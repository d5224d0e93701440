"""For authors of plugins: fakes, the scriptable upstream and conformance suites."""
