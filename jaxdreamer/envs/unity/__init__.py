"""Unity ML-Agents players, through a process that has mlagents-envs."""
