"""Defenses replayed on recorded updates."""
