"""Evaluation: benchmark scenes, methods, metrics, statistics and the report."""
