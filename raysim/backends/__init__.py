"""Where the work runs: in this process or on Ray, timed alike."""
