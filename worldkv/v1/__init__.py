"""Generated from protos/worldkv/v1 by `make protos`: never edited by hand."""
