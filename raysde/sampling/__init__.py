"""From a score to samples and likelihoods, for any SDE; imports torch alone."""
