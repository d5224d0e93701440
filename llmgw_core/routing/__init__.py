"""Where to: candidates in order and what to do after a failure. Pure."""
