"""Controls that two or more pages share."""
