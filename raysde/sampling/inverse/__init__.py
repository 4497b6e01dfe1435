"""Images from a measurement of them: inpainting, super-resolution, colour."""
