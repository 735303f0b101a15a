"""Composed scenes with exact masks and loose captions: what the built-in model learns from and is measured on."""
