#include "team.h"

#include <algorithm>

#include <system_error>

namespace bcdnet {
namespace {

constexpr int kSpins = 4000;  // tens of microseconds

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Team::Team(int threads) {
  members_.reserve(threads - 1);
  try {
    for (int member = 1; member < threads; ++member) members_.emplace_back([this, member] { work(member); });
  } catch (const std::system_error&) {
    // The system gives no more threads: the team is as large as it could be.
  }
}

Team::~Team() {
  end_ = true;
  ++round_;
  round_.notify_all();
  for (auto& member : members_) member.join();
}

void Team::loop(size_t count, Body body) {
  if (members_.empty() || count < 2) {
    if (count) body(0, count, 0);
    return;
  }
  body_ = &body;
  count_ = count;
  // Small enough that a member that comes late, or shares its core with another program, holds nobody up for long.
  piece_ = std::max<size_t>(1, count / (8 * threads()));
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<uint32_t>(members_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  take_pieces(0);
  for (int spins = 0; busy_.load(std::memory_order_acquire);) {
    if (++spins < kSpins)
      pause();
    else
      std::this_thread::yield();
  }
}

void Team::take_pieces(int member) {
  for (;;) {
    const size_t begin = next_.fetch_add(piece_, std::memory_order_relaxed);
    if (begin >= count_) return;
    (*body_)(begin, begin + piece_ < count_ ? begin + piece_ : count_, member);
  }
}

void Team::work(int member) {
  for (uint32_t seen = 0;;) {
    uint32_t now = seen;
    for (int spins = 0; (now = round_.load(std::memory_order_acquire)) == seen && spins < kSpins; ++spins) pause();
    if (now == seen) {
      round_.wait(seen, std::memory_order_acquire);
      continue;
    }
    seen = now;
    if (end_) return;
    take_pieces(member);
    busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace bcdnet
