// A team of threads that takes part in one loop after another. Members wait a short while in a loop of their own, because
// the next loop of a network follows within microseconds, and sleep after that.
#pragma once

#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace bcdnet {

// A reference to something callable as body(begin, end, member); unlike std::function it never allocates.
class Body {
 public:
  template <typename F>
  Body(const F& f)  // NOLINT: implicit, so that a lambda can be passed
      : f_(&f), call_([](const void* g, size_t begin, size_t end, int member) {
          (*static_cast<const F*>(g))(begin, end, member);
        }) {}
  void operator()(size_t begin, size_t end, int member) const { call_(f_, begin, end, member); }

 private:
  const void* f_;
  void (*call_)(const void*, size_t, size_t, int);
};

class Team {
 public:
  // Of `threads`, or as many as the system gives.
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return static_cast<int>(members_.size()) + 1; }

  // Calls body(begin, end, member) for pieces of [0, count), in no order; returns when all are done.
  void loop(size_t count, Body body);

 private:
  void work(int member);
  void take_pieces(int member);

  const Body* body_ = nullptr;
  size_t count_ = 0, piece_ = 1;
  std::atomic<size_t> next_{0};
  std::atomic<uint32_t> round_{0}, busy_{0};
  std::atomic<bool> end_{false};
  std::vector<std::thread> members_;
};

}  // namespace bcdnet
