"""Sessions that are walked through the wire: they outlive connections, and generators."""
