"""Does every configured limit bite? Canary calls through the real admission prove it."""
