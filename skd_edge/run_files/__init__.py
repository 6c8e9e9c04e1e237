"""Files of a run folder that have a format of their own."""
