"""The report of a cross-validation: crossval.json, HTML and Markdown."""
