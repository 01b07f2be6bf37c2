"""Memory for interactive video world models: shared library, client and command line."""
