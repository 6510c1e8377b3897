"""HTTP/1.1 on an event loop, up to a WSGI application; nothing here knows pictures or models."""
