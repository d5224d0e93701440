"""The admin pages: one module for each subject, put together in `assembly`."""
