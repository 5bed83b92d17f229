"""What is minimised and how: losses, their kernels, optimizers and learning rates."""
