"""The built-in model: its artwork, its trainings, its export and its check."""
