"""The questions one asks of a model, as pure functions: models and arrays in, arrays and DataFrames out."""
