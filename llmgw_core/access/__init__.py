"""Who is calling, and what they may use: pure decisions over organisation → team → user → key."""
