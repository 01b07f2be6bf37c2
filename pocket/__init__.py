"""The embedded default world: procedural rooms, a small world model, its training and weights."""
