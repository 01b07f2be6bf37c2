"""Load on a service as people would put it there: sessions come at random, walk, watch, and leave.

The only knob is how many sessions arrive a second: how many there are at a time, and how often they ask, follows from
how fast they are served. `worldkv bench serve` runs it; docs/load.md says what its figures mean.
"""
