"""After training: which average and which sampler settings of one model draw best, for the least work."""
