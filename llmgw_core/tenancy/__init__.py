"""Use cases on organisations, teams, users, keys and grants, audited."""
