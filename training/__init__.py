"""Fits, freezes, exports and reports; the only place that knows Keras."""
