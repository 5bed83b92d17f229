"""The network in C++ for processors with AVX-512; what lacks them, or the compiled library, computes with torch."""
