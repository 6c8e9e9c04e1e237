"""Where clips come from: folders, lists and the generated set."""
