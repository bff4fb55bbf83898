"""Durable actors: the engine that keeps a batch of tasks alive across every crash."""
