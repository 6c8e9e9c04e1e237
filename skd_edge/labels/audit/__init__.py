"""The audit of training labels: probable errors, noise estimates, and the report's section on labels."""
