"""Servers on loopback that stand in for the world: they speak its protocols, and misbehave on request."""
