"""The network in C++ for processors with AVX2 or AVX-512; without either, or without a compiler, torch computes."""
