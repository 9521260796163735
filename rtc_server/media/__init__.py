"""Where calls live: the seam between signaling and the processes that carry media."""
