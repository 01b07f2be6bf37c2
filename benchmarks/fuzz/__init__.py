"""Whatever reads bytes that others wrote, fed with a million that nobody meant."""
