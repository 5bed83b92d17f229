"""What is measured against whom: see README.md. Nothing here is part of the package or runs in the tests' way."""
