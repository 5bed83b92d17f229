"""The network in C++ for processors with AVX2, AVX-512 or NEON; without any, or without a compiler, torch computes."""
