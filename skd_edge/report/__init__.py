"""One result object to HTML, JSON and Markdown."""
