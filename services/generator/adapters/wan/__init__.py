"""Causal world models grown from Wan 2.1 and 2.2: one backbone, and what each of them adds to it."""
