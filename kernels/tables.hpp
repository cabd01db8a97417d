// What makes the tables of patterns on any device: their work, an item at a time (splash/patterns/tables).
#pragma once

#include "kernels/registry.hpp"
#include "splash/patterns/tables/big_bird.hpp"
#include "splash/patterns/tables/chosen_blocks.hpp"
#include "splash/patterns/tables/sparse_rows.hpp"

namespace splash::kernels {

/// Runs all items of the work, on CUDA on the execution's stream. no_kernel where the build has none for the GPU.
template <class Work>
SPLASH_API Status each(const Work& work, Arch arch, const Execution& execution);

}  // namespace splash::kernels

/// Every kind of work, for what is compiled of them.
#define SPLASH_TABLE_WORK(DO)                                                  \
  DO(splash::patterns::tables::PackBits<splash::patterns::tables::KeptScores>) \
  DO(splash::patterns::tables::PackBits<splash::patterns::tables::KeptTiles>)  \
  DO(splash::patterns::tables::PackTiles)                                      \
  DO(splash::patterns::tables::IndexTiles)                                     \
  DO(splash::patterns::tables::IndexRanges)                                    \
  DO(splash::patterns::tables::DenseRows)                                      \
  DO(splash::patterns::tables::TileRows)                                       \
  DO(splash::patterns::tables::BigBirdRows)                                    \
  DO(splash::patterns::tables::BigBirdColumns)                                 \
  SPLASH_TABLE_MEANS(DO, float, float)                                         \
  SPLASH_TABLE_MEANS(DO, splash::half_t, float)                                \
  SPLASH_TABLE_MEANS(DO, splash::bfloat16_t, float)                            \
  SPLASH_TABLE_MEANS(DO, double, double)                                       \
  DO(splash::patterns::tables::EarlierScores<float>)                           \
  DO(splash::patterns::tables::EarlierScores<double>)                          \
  DO(splash::patterns::tables::ChooseBlocks<float>)                            \
  DO(splash::patterns::tables::ChooseBlocks<double>)
#define SPLASH_TABLE_COMMA ,
#define SPLASH_TABLE_MEANS(DO, Element, Wide) DO(splash::patterns::tables::BlockMeans<Element SPLASH_TABLE_COMMA Wide>)
