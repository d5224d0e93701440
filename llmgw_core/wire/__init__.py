"""OpenAI's wire format, sans-IO: requests, SSE framing, usage, the error envelope."""
