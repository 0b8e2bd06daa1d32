"""The sampler with its schedules, and the densities that training draws its timesteps from."""
