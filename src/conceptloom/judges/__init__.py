"""Judges of pictures: what is in them, and whose drawing it is."""
