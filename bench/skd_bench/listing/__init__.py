"""What lists of videos have in common: walking folders, reading tables, class names, paths of other tools."""
