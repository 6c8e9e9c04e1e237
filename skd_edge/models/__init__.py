"""Networks divided into substages: the built-in families, and adapters around external networks."""
