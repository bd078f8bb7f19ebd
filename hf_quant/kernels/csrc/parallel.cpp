#include "parallel.h"

#include <cstdlib>

#include <dlfcn.h>

namespace hf_quant {
namespace {

// The entry points that compilers call for `#pragma omp parallel` and `barrier`; libgomp and libomp both have them.
struct Runtime {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
  void (*barrier)() = nullptr;
  int (*thread)() = nullptr;
  int (*threads)() = nullptr;

  Runtime() {
    parallel = reinterpret_cast<decltype(parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    barrier = reinterpret_cast<decltype(barrier)>(dlsym(RTLD_DEFAULT, "GOMP_barrier"));
    thread = reinterpret_cast<decltype(thread)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
    threads = reinterpret_cast<decltype(threads)>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
  }
  bool complete() const { return parallel && barrier && thread && threads; }
};

const Runtime& runtime() {
  static const Runtime found;
  return found;
}

struct Call {
  Body body;
  void* data;
};

void enter(void* pointer) {
  const Call* call = static_cast<const Call*>(pointer);
  const Runtime& omp = runtime();
  // Inside another parallel region the runtime may give fewer threads than asked for.
  const Team team{omp.thread(), omp.threads(), omp.barrier};
  call->body(team, call->data);
}

void nothing() {}

struct Memory {
  void* block = nullptr;
  std::int64_t size = 0;
  ~Memory() { std::free(block); }
};

}  // namespace

void parallel(int threads, Body body, void* data) {
  Call call{body, data};
  if (threads > 1 && runtime().complete()) {
    runtime().parallel(enter, &call, static_cast<unsigned>(threads), 0);
  } else {
    body(Team{0, 1, nothing}, data);
  }
}

bool has_threads() { return runtime().complete(); }

void* scratch(std::int64_t bytes) {
  static thread_local Memory memory;
  if (memory.size < bytes) {
    std::free(memory.block);
    memory.block = nullptr;
    memory.size = 0;
    const std::int64_t rounded = (bytes + 4095) / 4096 * 4096;
    if (posix_memalign(&memory.block, 64, static_cast<std::size_t>(rounded)) != 0) memory.block = nullptr;
    if (memory.block) memory.size = rounded;
  }
  return memory.block;
}

}  // namespace hf_quant
