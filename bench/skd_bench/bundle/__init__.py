"""A bundle's files: the manifest, hash checks, signatures and zip archives."""
