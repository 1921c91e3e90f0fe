"""What a simulated round costs beside a bare loop, and how it grows."""
