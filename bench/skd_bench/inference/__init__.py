"""Running a bundle: single videos, long videos, streams, and the reject option."""
