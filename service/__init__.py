"""The service: loads exported models, checks them, and answers pictures over HTTP."""
