"""Models that draw nothing and take their time: keys and values of the real ones' size, for the data path alone."""
