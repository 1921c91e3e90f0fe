"""What defenses and attacks cost on one matrix, stage by stage, beside limits and peers."""
