"""Texts that users write: probe definitions, call arguments, interrupt plans, operation scripts."""
