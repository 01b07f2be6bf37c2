"""Keeps chunks: bytes by key in host memory and Redis, served over gRPC to the rest of the project."""
