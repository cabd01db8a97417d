// What each compilation of LongNet's mixture offers: one a CPU instruction set, one a GPU architecture.
#pragma once

#include "splash/core/longnet.hpp"

namespace splash::instances {

struct LongNetFunctions {
  Status (*forward)(const LongNetMixture&, const Execution&) = nullptr;
  Status (*backward)(const LongNetMixture&, const Execution&) = nullptr;
};

#if defined(__x86_64__)
namespace isa_v2 {
LongNetFunctions longnet(DType dtype);
}
namespace isa_v3 {
LongNetFunctions longnet(DType dtype);
}
namespace isa_v4 {
LongNetFunctions longnet(DType dtype);
}
#else
namespace isa_generic {
LongNetFunctions longnet(DType dtype);
}
#endif
namespace sm90 {
/// Empty for float64.
LongNetFunctions longnet(DType dtype);
}  // namespace sm90

}  // namespace splash::instances
