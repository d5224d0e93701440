"""Typed configuration: decode, validate, explain errors by path."""
