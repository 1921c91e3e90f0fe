"""What defenses cost as clients, parameters and nodes grow: measured cell by cell, fitted, drawn."""
