"""The report of a run as JSON, HTML and Markdown, the comparison of several, and the page of a label audit."""
