"""The service: loads exported models, checks them, and answers pictures over HTTP."""

__version__ = "0.1.0"
