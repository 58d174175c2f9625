#include "team.h"

#include <unistd.h>

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

Team::Team(int threads) : process_(getpid()) {
  members_.reserve(threads - 1);
  try {
    for (int member = 1; member < threads; ++member) members_.emplace_back([this, member] { work(member); });
  } catch (const std::system_error&) {
    // The system gives no more threads: the team is as large as it could be.
  }
}

Team::~Team() {
  if (forked()) {  // nobody to wait for, and a thread's handle may not be given up while it counts as running
    new std::vector<std::thread>(std::move(members_));
    return;
  }
  end_ = true;
  ++alarm_;
  alarm_.notify_all();
  for (auto& member : members_) member.join();
}

bool Team::forked() const { return getpid() != process_; }

void Team::loop(size_t count, Body body) {
  if (members_.empty() || count < 2 || forked()) {
    if (count) body(0, count, 0);
    return;
  }
  body_ = &body;
  count_ = count;
  piece_ = std::max<size_t>(1, count / (8 * threads()));
  pieces_ = (count + piece_ - 1) / piece_;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(number << 32 | pieces_, std::memory_order_release);
  alarm_.fetch_add(1, std::memory_order_release);
  alarm_.notify_all();
  while (take_piece(0)) {
  }
  for (int spins = 0; done_.load(std::memory_order_acquire) != pieces_;) {
    if (++spins < kSpins)
      pause();
    else
      std::this_thread::yield();
  }
}

bool Team::take_piece(int member) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  do {
    if (!static_cast<uint32_t>(ticket)) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire));
  // The loop cannot end before this piece is done, so what describes it stays as it is.
  const size_t begin = (pieces_ - static_cast<uint32_t>(ticket)) * piece_;
  (*body_)(begin, std::min(begin + piece_, count_), member);
  done_.fetch_add(1, std::memory_order_release);
  return true;
}

void Team::work(int member) {
  while (!end_) {
    const uint32_t alarm = alarm_.load(std::memory_order_acquire);
    bool worked = false;
    for (int spins = 0; spins < kSpins && !worked; ++spins) {
      worked = take_piece(member);
      if (!worked) pause();
    }
    if (!worked && !end_) alarm_.wait(alarm, std::memory_order_acquire);
  }
}

}  // namespace bcdnet
