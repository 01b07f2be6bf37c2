"""Speed and memory of the real models, chunk by chunk: published shape, random weights, real session, memory and store.

What is drawn means nothing, and what it costs is what it would cost. `worldkv bench shape` runs it; docs/models.md says
what its figures mean.
"""
