"""One file per world model family: what turns its weights into a `WorldModel`."""
