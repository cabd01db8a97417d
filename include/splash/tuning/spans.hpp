// Which widths of tiles patterns choose between, in numbers. Where they come from: benchmarks/notes/forward.md.
#pragma once

#include "splash/patterns/concept.hpp"

namespace splash::tuning {

inline constexpr patterns::TileWidths kTileWidths{.narrow = 64, .short_row = 640};

}  // namespace splash::tuning
