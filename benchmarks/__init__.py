"""Claims of speed and quality as programs: what is measured, against which baseline, and the bar it must meet.

    worldkv bench --list             ids, bars and what they are about
    worldkv bench rope.bf16          one of them, as a table
    worldkv bench rope.bf16 --json   the same, a JSON line per case

A benchmark is a function marked with `benchmarks.registry.bench`, in any module of this package.
"""
