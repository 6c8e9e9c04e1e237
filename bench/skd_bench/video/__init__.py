"""Video files to clips: opening, choosing frames, decoding, resizing, and sliding windows over long videos."""
