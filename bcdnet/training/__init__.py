"""Training: recipes, distillation and the two-step schedule, on Lightning."""
