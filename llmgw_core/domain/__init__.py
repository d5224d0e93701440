"""Values and errors that every other package speaks in. Imports only stdlib and msgspec."""
