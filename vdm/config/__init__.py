"""Turns a ConfigDict into objects: defaults, plain values, components, checks."""
