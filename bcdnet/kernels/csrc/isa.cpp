#include "isa.h"

#include <stdexcept>

namespace bcdnet {

extern const Isa kPortable;
#ifdef BCDNET_X86
extern const Isa kAvx2, kAvx512;
#endif
#ifdef BCDNET_NEON
extern const Isa kNeon;
#endif

size_t available(const Isa** sets, size_t most) {
  size_t n = 0;
  auto add = [&](const Isa& isa) {
    if (n < most) sets[n++] = &isa;
  };
#ifdef BCDNET_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vpopcntdq"))
    add(kAvx512);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(kAvx2);
#endif
#ifdef BCDNET_NEON
  add(kNeon);
#endif
  add(kPortable);
  return n;
}

const Isa& required(const std::string& name) {
  const Isa* sets[8];
  for (size_t i = 0, n = available(sets, 8); i < n; ++i)
    if (name == sets[i]->name) return *sets[i];
  throw std::invalid_argument("this processor, or this build, has no instruction set " + name);
}

}  // namespace bcdnet
