// Threads: those of the OpenMP runtime that the process already has (torch's), found by name at run time, so that this
// library neither links to a runtime nor starts a pool of its own. Without one, everything runs on the calling thread.

#pragma once

#include <atomic>
#include <cstdint>

namespace hf_quant {

struct Team {
  int thread;
  int threads;
  void (*wait)();  // until every thread of the team has come here

  void barrier() const {
    if (threads > 1) wait();
  }
  // The part of `count` items that is this thread's: [begin, end).
  void share(std::int64_t count, std::int64_t* begin, std::int64_t* end) const {
    const std::int64_t base = count / threads, extra = count % threads;
    *begin = thread * base + (thread < extra ? thread : extra);
    *end = *begin + base + (thread < extra ? 1 : 0);
  }
};

using Body = void (*)(const Team& team, void* data);

// Run `body` on up to `threads` threads at once.
void parallel(int threads, Body body, void* data);

// Whether a runtime was found.
bool has_threads();

// Memory of the calling thread that lives until its next call asks for more; aligned to 64 bytes. Null when there is
// none to be had.
void* scratch(std::int64_t bytes);

}  // namespace hf_quant
