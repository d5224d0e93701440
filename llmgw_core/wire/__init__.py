"""OpenAI's wire format, sans-IO."""
