#include "cpu/isa.h"

#include <thread>

#include "error.h"

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace nanovllm {

namespace baseline {
extern const KernelTable kTable;
}
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}
namespace avx512bf16 {
extern const KernelTable kTable;
}
namespace amx {
extern const KernelTable kTable;
}

namespace {

#if defined(__x86_64__)
bool hasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool hasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

/// CPUID leaf 7: sub-leaf 1, EAX bit 5 is AVX512_BF16; sub-leaf 0, EDX bits 22 and 24 are AMX-BF16 and
/// AMX-TILE. (Compilers learnt the names of these features late; the bits are the same everywhere.)
struct Leaf7 {
  unsigned eax, ebx, ecx, edx;
  explicit Leaf7(unsigned sub) {
    asm volatile("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(7), "c"(sub));
  }
};
bool hasAvx512Bf16() { return hasAvx512() && Leaf7(1).eax >> 5 & 1; }

/// The tile registers are 8 KiB a thread that the kernel must save at each switch; Linux wants to
/// be asked before a process may use them.
bool hasAmx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  const unsigned features = Leaf7(0).edx;
  const bool present = (features >> 22 & 1) && (features >> 24 & 1);
  return present && hasAvx512Bf16() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

std::vector<Isa> detect() {
  std::vector<Isa> found;
#if defined(NANO_HAVE_AMX)
  if (hasAmx()) found.push_back({"amx", "AMX-BF16 + AVX-512", &amx::kTable});
#endif
#if defined(NANO_HAVE_AVX512BF16)
  if (hasAvx512Bf16()) found.push_back({"avx512bf16", "AVX-512 + BF16", &avx512bf16::kTable});
#endif
#if defined(NANO_HAVE_AVX512)
  if (hasAvx512()) found.push_back({"avx512", "AVX-512", &avx512::kTable});
#endif
#if defined(NANO_HAVE_AVX2)
  if (hasAvx2()) found.push_back({"avx2", "AVX2 + FMA", &avx2::kTable});
#endif
#if defined(__aarch64__)
  found.push_back({"baseline", "NEON", &baseline::kTable});
#elif defined(__x86_64__)
  found.push_back({"baseline", "SSE2", &baseline::kTable});
#else
  found.push_back({"baseline", "portable", &baseline::kTable});
#endif
  return found;
}

}  // namespace

const std::vector<Isa>& availableIsas() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

const Isa& chooseIsa(const std::string& name) {
  std::string names;
  for (const Isa& isa : availableIsas()) {
    if (name.empty() || name == isa.name) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa.name);
  }
  throw BackendError("This processor (or this build) lacks the instruction set '" + name +
                     "'. Available: " + names + ".");
}

int availableThreads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const int n = static_cast<int>(std::thread::hardware_concurrency());
  return n > 0 ? n : 1;
}

}  // namespace nanovllm
