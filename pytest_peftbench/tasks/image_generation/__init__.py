"""Image generation: teach a diffusion model a concept, drift on unrelated prompts."""
