"""Networks cut into substages."""
