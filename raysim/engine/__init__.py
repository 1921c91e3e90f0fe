"""Rounds: the hosts that train, crafting, the defense's judgement, what a round leaves behind."""
