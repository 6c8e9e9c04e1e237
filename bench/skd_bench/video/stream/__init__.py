"""One video stream: its packets and key frames, the pictures that FFmpeg makes of them, and their times."""
