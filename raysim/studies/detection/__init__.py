"""What every defense catches."""
