"""Measurements: `make bench`. Not collected by pytest."""
