"""Inverse problems: inpainting, super-resolution, colorisation, and edits of given images."""
