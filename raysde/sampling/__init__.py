"""Samples and likelihoods from a score, for any SDE; imports torch alone."""
