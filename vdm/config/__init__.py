"""From a ConfigDict to objects: defaults, plain values, components, checks."""
