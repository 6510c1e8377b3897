"""The OpenAPI document, made of what the views declare and of real examples, and its page."""
