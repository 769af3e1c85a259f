"""Methods without training by gradient, measured on the same features, splits and metrics as the models."""
