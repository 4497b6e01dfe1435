"""Search for the weight average and the sampler settings of a trained model that give the best images at least cost."""
