"""Draws worlds: model adapters, the session loop, and what is served on top of them."""
