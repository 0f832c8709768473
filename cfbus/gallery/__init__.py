"""Captions next to their pictures, as a page in a browser."""
