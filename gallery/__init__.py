"""Draws the example pictures of the service's page: ``python -m gallery``."""
