// Sixteen numbers at a time under one set of names, in the instructions that a build is compiled for (`builds.py`).
// Everything else is written on these names, so that all builds are one source.

#pragma once

#if defined(__AVX512F__)
#include "avx512.h"
#elif defined(__ARM_NEON)
#include "neon.h"
#else
#include "avx2.h"
#endif
