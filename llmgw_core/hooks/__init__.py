"""Hook specifications, the plugin manager, compiled dispatch; the only user of pluggy."""
