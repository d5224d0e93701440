"""llmgw: an embeddable LLM gateway. The public names are re-exported here."""
