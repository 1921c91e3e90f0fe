"""What a run found: tables for a terminal, progress, and the report, one self-contained HTML page."""
