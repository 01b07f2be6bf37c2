"""The retriever: an index of chunk poses behind gRPC."""
