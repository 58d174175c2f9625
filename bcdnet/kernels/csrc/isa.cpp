#include "isa.h"

#include <cstring>

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

const Isa* find(const char* name) {
  const Isa* sets[8];
  const size_t n = available(sets, 8);
  for (size_t i = 0; i < n; ++i)
    if (!std::strcmp(sets[i]->name, name)) return sets[i];
  return nullptr;
}

}  // namespace bcdnet
