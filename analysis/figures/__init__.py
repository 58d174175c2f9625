"""Data in, figure out: every function here draws what an analysis returned and computes nothing new."""
