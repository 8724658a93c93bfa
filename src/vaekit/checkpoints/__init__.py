"""Files <-> state dicts: safe reading, layouts, architecture, baked VAEs, fingerprints."""
