"""Draws chunks of many sessions together: one model, one thread that runs it, and whose turn it is."""

from services.generator.engine.config import EngineConfig
from services.generator.engine.engine import Engine, EngineStats

__all__ = ["Engine", "EngineConfig", "EngineStats"]
