"""Alembic migrations, one file each in `versions/`; the file name begins with the revision."""
