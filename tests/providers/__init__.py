"""Providers of bars, each against the server it talks to."""
