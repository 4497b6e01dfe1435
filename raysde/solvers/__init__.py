"""Steps of the reverse process: predictors that move in time, correctors that do not."""
