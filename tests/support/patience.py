"""How long tests wait for an event: long enough that a timeout means an error and not a busy machine."""

PATIENCE = 900.0  # seconds
