"""txt2img and img2img, and a view into the latent space while it happens."""
