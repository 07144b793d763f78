"""How long tests wait for what must come: so long that it says something is wrong, and not that a machine is busy."""

PATIENCE = 900.0  # seconds
