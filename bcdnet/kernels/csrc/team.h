// A team of threads that takes part in one loop after another. Members wait a short while in a loop of their own, because
// the next loop of a network follows within microseconds, and sleep after that.
//
// A loop is cut into pieces, and a piece belongs to whoever takes it from the ticket. The caller works too and waits
// only for pieces that others have begun, so a member that is late, because the system gives its core to another
// program, holds nobody up.
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

  // Calls body(begin, end, member) for pieces of [0, count), in no order; returns when all are done. One caller at a
  // time; body must not throw.
  void loop(size_t count, Body body);

 private:
  void work(int member);
  bool take_piece(int member);  // false: none is left
  bool forked() const;          // in a child process, where the members do not exist

  const Body* body_ = nullptr;
  size_t count_ = 0, piece_ = 1, pieces_ = 0;
  std::atomic<uint64_t> ticket_{0};  // number of the loop, and in the lower half the pieces that nobody has taken
  std::atomic<size_t> done_{0};
  std::atomic<uint32_t> alarm_{0};  // changes with each loop; sleepers wait for it
  std::atomic<bool> end_{false};
  const int process_;
  std::vector<std::thread> members_;
};

}  // namespace bcdnet
