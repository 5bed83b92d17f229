// Masks for instructions that take none: what lies past the end is neither read nor written.

#pragma once

#include <cstdint>

namespace {

constexpr int kLanes = 16;

struct Mask {  // the first so many lanes
  int lanes;
  explicit operator bool() const { return lanes > 0; }
};

constexpr Mask kAllLanes{kLanes}, kNoLanes{0};

inline Mask lane_mask(int64_t count) { return {count >= kLanes ? kLanes : static_cast<int>(count)}; }
inline bool is_whole(Mask mask) { return __builtin_expect(mask.lanes == kLanes, true); }

// The first lanes alone, the others 0. No call of memcpy, around which a loop would have to keep its sums in memory.
template <typename Number>
inline const Number* tail(const Number* from, Mask mask, Number (&room)[kLanes]) {
  for (Number& one : room) one = 0;
#pragma GCC unroll 1
  for (int i = 0; i < mask.lanes; ++i) {
    room[i] = from[i];
    asm volatile("");
  }
  return room;
}
template <typename Number>
inline void copy_tail(Number* to, Mask mask, const Number (&room)[kLanes]) {
#pragma GCC unroll 1
  for (int i = 0; i < mask.lanes; ++i) {
    to[i] = room[i];
    asm volatile("");
  }
}

}  // namespace
