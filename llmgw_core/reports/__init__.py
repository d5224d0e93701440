"""What the books say, in the shapes that others read: OpenAI's usage API."""
