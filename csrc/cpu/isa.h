// Instruction sets: which the processor has, and which one this process shall use.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace nanovllm {

/// One compilation of the kernels.
struct Isa {
  const char* name;         // what NANOVLLM_CPU_ISA takes
  const char* description;  // for people
  const KernelTable* kernels;
};

/// Those that were compiled in and run here, best first. The last is always `baseline`.
const std::vector<Isa>& availableIsas();

/// The one of that name, or the best for an empty name.
/// @throws BackendError listing what is available.
const Isa& chooseIsa(const std::string& name);

/// Processors this process may run on: its affinity mask, not the machine's size.
int availableThreads();

}  // namespace nanovllm
