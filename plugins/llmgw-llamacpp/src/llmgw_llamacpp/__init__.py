"""Serve a GGUF file through a supervised llama.cpp server.

Imports nothing: the child process runs from this package and must stay small. The plugin is
`llmgw_llamacpp.plugin.LlamaCppPlugin`.
"""
