"""Gradient traffic."""
